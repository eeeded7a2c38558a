"""What a LiteRT file says about itself: operators, softmax, and metadata with normalization and class names.

Source: the schemas of TensorFlow Lite, ``schema.fbs`` and ``metadata_schema.fbs``, whose field numbers stand
here.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from robustbench_local.classifier.normalizations import Normalization
from robustbench_local.config.zip_bombs import check_zip_bomb
from robustbench_local.errors import ModelError
from robustbench_local.models.flatbuffer import FlatBufferError, Table

IDENTIFIER = b"TFL3"
METADATA_IDENTIFIER = b"M001"
METADATA_NAME = "TFLITE_METADATA"
MAX_LABEL_BYTES = 1 << 22
"""Largest list of class names that is read."""
_SOFTMAX, _CUSTOM = 25, 32
_SAME_VALUES = frozenset({6, 22, 43, 114})
"""Operators that return their input's values: DEQUANTIZE, RESHAPE, SQUEEZE, QUANTIZE."""
_NORMALIZATION_OPTIONS = 1
_AXIS_LABELS = 2


@dataclass(frozen=True, kw_only=True)
class LiteRTFile:
    """The part of a file's content that the runtime does not show."""

    custom_operators: tuple[str, ...] = ()
    """Names of the operators that the runtime does not bring."""
    has_external_buffers: bool = False
    """Whether tensors lie in other files."""
    softmax_outputs: Mapping[int, float | None] = field(default_factory=dict)
    """Positions of the outputs that end in a softmax, each with its step if its values are quantized."""
    normalization: Normalization | None = None
    """Of pixels in [0, 1], from the metadata."""
    class_names: tuple[str, ...] = ()
    """From the metadata; empty if there are none."""
    problem: str | None = None
    """Why the metadata cannot be read."""


def read_litert_file(content: bytes, where: str) -> LiteRTFile:
    """Return what a file says about its operators and in its metadata.

    Args:
        content: The bytes of the file.
        where: Its name in messages.

    Raises:
        ModelError: If it is not a LiteRT file, or is damaged.
        RefusedError: If the attached files are a decompression bomb.
    """
    try:
        model = Table.read_root(content, IDENTIFIER)
        graph = _read_graph(model)
        codes = [(_read_operator(code), code.read_text(1)) for code in model.iterate_tables(1)]
        custom = tuple(sorted({name for number, name in codes if number == _CUSTOM}))
        softmax = _find_softmax_outputs(graph, [number for number, _ in codes])
        external = any(model.iterate_tables(9))
    except FlatBufferError as error:
        raise ModelError(
            f"is not a LiteRT file: {error}", where=where, remedy="get the file again, or export it again"
        ) from error
    described = LiteRTFile(custom_operators=custom, has_external_buffers=external, softmax_outputs=softmax)
    try:
        return _add_metadata(described, model, where)
    except (FlatBufferError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        return LiteRTFile(**(vars(described) | {"problem": f"its metadata cannot be read: {error}"}))


def _read_graph(model: Table) -> Table:
    """Return the first graph, which is the one that runs."""
    graph = next(model.iterate_tables(2), None)
    if graph is None:
        raise FlatBufferError("it has no graph")
    return graph


def _read_operator(code: Table) -> int:
    """Return an operator's number; old files have it in a field of one byte only."""
    return max(code.read_number(0, "b"), code.read_number(3, "i"))


def _find_softmax_outputs(graph: Table, codes: Sequence[int]) -> dict[int, float | None]:
    """Return positions and steps of the outputs of a softmax, which a reshape or quantization may follow."""
    makers: dict[float, tuple[int, float]] = {}
    for operator in graph.iterate_tables(3):
        number = operator.read_number(0, "I")
        inputs, outputs = operator.read_numbers(1, "i"), operator.read_numbers(2, "i")
        if number >= len(codes):
            raise FlatBufferError("an operator has no name")
        if inputs and outputs:
            makers[outputs[0]] = (codes[number], inputs[0])
    tensors = list(graph.iterate_tables(0))
    found: dict[int, float | None] = {}
    for position, tensor in enumerate(graph.read_numbers(2, "i")):
        source: float = tensor
        for _ in range(len(makers)):
            number, source_before = makers.get(source, (-1, -1))
            if number == _SOFTMAX:
                found[position] = _read_step(tensors, int(source))
            if number not in _SAME_VALUES:
                break
            source = source_before
    return found


def _read_step(tensors: Sequence[Table], number: int) -> float | None:
    """Return the distance between two values of a quantized tensor; None if it is not quantized."""
    if not 0 <= number < len(tensors):
        raise FlatBufferError("an operator has no output")
    quantization = tensors[number].read_table(4)
    scales = () if quantization is None else quantization.read_numbers(2, "f")
    return scales[0] if scales and scales[0] > 0 else None


def _add_metadata(described: LiteRTFile, model: Table, where: str) -> LiteRTFile:
    """Return the description with what the metadata add, which are a file in a buffer of the model."""
    entries = {entry.read_text(0): entry.read_number(1, "I") for entry in model.iterate_tables(6)}
    if METADATA_NAME not in entries:
        return described
    buffers = list(model.iterate_tables(4))
    if entries[METADATA_NAME] >= len(buffers):
        raise FlatBufferError("its buffer is missing")
    metadata = Table.read_root(buffers[entries[METADATA_NAME]].read_bytes(0), METADATA_IDENTIFIER)
    graph = next(metadata.iterate_tables(3), None)
    if graph is None:
        return described
    added = {
        "normalization": _read_normalization(graph),
        "class_names": _read_class_names(graph, model, where),
    }
    return LiteRTFile(**(vars(described) | added))


def _read_normalization(graph: Table) -> Normalization | None:
    """Return the normalization of the first input; the metadata state it for pixels from 0 to 255."""
    for tensor in list(graph.iterate_tables(2))[:1]:
        for unit in tensor.iterate_tables(4):
            options = unit.read_table(1)
            if unit.read_number(0, "B") != _NORMALIZATION_OPTIONS or options is None:
                continue
            mean, std = options.read_numbers(0, "f"), options.read_numbers(1, "f")
            if not mean or len(mean) != len(std) or not all(value > 0 for value in std):
                raise FlatBufferError(f"it has the means {list(mean)} and deviations {list(std)}")
            if all(value == 0 for value in mean) and all(value == 1 for value in std):
                return None  # written where nothing is normalized
            return tuple(value / 255 for value in mean), tuple(value / 255 for value in std)
    return None


def _read_class_names(graph: Table, model: Table, where: str) -> tuple[str, ...]:
    """Return the lines of the first attached list of class names of an output."""
    for tensor in graph.iterate_tables(3):
        names = [
            file.read_text(0) for file in tensor.iterate_tables(6) if file.read_number(2, "b") == _AXIS_LABELS
        ]
        if names:
            return _read_attached_lines(model.content, names[0], where)
    return ()


def _read_attached_lines(content: bytes, name: str, where: str) -> tuple[str, ...]:
    """Return the lines of a file in the archive that is appended to the model."""
    check_zip_bomb(content, where=where, error=ModelError, remedy="get the file again")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if name not in archive.namelist():
            raise FlatBufferError(f"the list of class names {name!r} is not attached")
        if archive.getinfo(name).file_size > MAX_LABEL_BYTES:
            raise FlatBufferError(f"the list of class names {name!r} is too large")
        lines = archive.read(name).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())
