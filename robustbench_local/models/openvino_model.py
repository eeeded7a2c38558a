"""Models that OpenVINO computes, in its own format (.xml with .bin) or ONNX files: black boxes.

OpenVINO computes in half precision by default where the CPU has it, which moves logits by some hundredths;
here it computes in float32. A process that has compiled a network can be copied, and the copy can go on
asking that network, but compiling another one there waits for threads that only the original has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.config.file_lookup import find_file
from robustbench_local.errors import (
    ConfigError,
    ModelError,
    RefusedError,
    RobustbenchError,
)
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.models.image_layout import ImageLayout, find_layout, format_shape, make_layout
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_files import read_file
from robustbench_local.models.onnx_data import find_external_locations
from robustbench_local.models.openvino_info import OpenVINOInfo, read_info
from robustbench_local.models.runtime_model import RuntimeModel, make_loaded_model, refuse_file_options

FORMATS = (".xml", ".onnx")
_SAME_VALUES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Convert"})
"""Operators that return their input's values."""


class OpenVINOModel(RuntimeModel):
    """A network compiled by OpenVINO for the CPU.

    Args:
        network: The network as OpenVINO reads it.
        build_session: Compiles it.
        where: The file, for messages.
        identity: Identity of the model, as text.

    Raises:
        ModelError: If it does not take one batch of images.
    """

    libraries = ("openvino",)
    survives_fork = True

    def __init__(self, network: Any, build_session: Callable[[], Any], *, where: str, identity: str) -> None:
        if len(network.inputs) != 1:
            names = ", ".join(entry.get_any_name() for entry in network.inputs)
            what = f"takes {len(network.inputs)} inputs ({names}), not one batch of images"
            raise ModelError(what, where=where)
        entry = network.inputs[0]
        self._dtype = _find_dtype(entry.get_element_type(), where)
        outputs = {_name_output(value, position): value for position, value in enumerate(network.outputs)}
        layout = _find_layout(entry, where)
        super().__init__(
            build_session,
            build_session(),
            identity=identity,
            layout=layout,
            outputs={name: _find_output_shape(value) for name, value in outputs.items()},
            probabilities={name: None for name, value in outputs.items() if _ends_in_softmax(value)},
        )
        self.input_text = f"{self._dtype} {format_shape(_read_shape(entry))}"

    @property
    def takes_bytes(self) -> bool:
        """Return True if the input takes integers, the bytes 0 to 255 of an image."""
        return self._dtype.kind != "f"

    def _run_session(self, session: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        if self.takes_bytes:
            limits = np.iinfo(self._dtype)
            images = np.clip(np.rint(images), max(limits.min, 0), min(limits.max, 255))
        results = session.create_infer_request().infer([images.astype(self._dtype)])
        return {name: _as_float(np.array(results[position])) for position, name in enumerate(self.outputs)}


def load_openvino(file: str, request: ModelRequest) -> LoadedModel:
    """Load a network for OpenVINO, with normalization and class names from the file's ``model_info``.

    Raises:
        ConfigError: If OpenVINO is missing, or an option does not apply to such a file.
        RefusedError: If its tensors lie outside the file and its ``.bin``.
        ModelError: If it is not such a file, or not a network from images to scores.
    """
    refuse_file_options("openvino", file, request)
    path = find_file(file, request.base_folder)
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(
            f"OpenVINO reads {' and '.join(FORMATS)} files here",
            where=file,
            remedy=f"write litert:{file}"
            if path.suffix.lower() == ".tflite"
            else "name the .xml of the converted network",
        )
    runtime = import_extra("openvino", extra="openvino")
    content, digest = read_file(path, sha256=request.sha256)
    weights = _read_weights(path, content)
    hashes = [digest] if weights is None else [digest, sha256(weights).hexdigest()]
    network = _call_runtime(partial(_read_network, runtime, content, weights), path.name)
    info = read_info(network)
    model = OpenVINOModel(
        network,
        partial(_call_runtime, partial(_compile_network, runtime, network), path.name),
        where=path.name,
        identity=" ".join([*hashes, "f32"]),
    )
    loaded = make_loaded_model(model, request, where=path.name, runtime="OpenVINO")
    loaded.provenance |= {"sha256": digest, "input": model.input_text, "precision": "float32"}
    if weights is not None:
        loaded.provenance["weights_sha256"] = hashes[1]
    _add_info(loaded, model, info, network)
    return loaded


def _read_weights(path: Path, content: bytes) -> bytes | None:
    """Return the weights beside a network in OpenVINO's format; None for the others, which hold their own."""
    if path.suffix.lower() == ".onnx":
        try:
            locations = find_external_locations(content)
        except (ValueError, UnicodeDecodeError) as error:
            raise ModelError(f"is not an ONNX file: {extract_first_line(error)}", where=path.name) from error
        if locations:
            raise RefusedError(
                "its tensors lie in other files",
                where=path.name,
                remedy="convert it to OpenVINO's .xml first",
            )
    if path.suffix.lower() != ".xml":
        return None
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise ModelError(
            f"its weights, {weights.name}, are not beside it", where=path.name, remedy="copy both files"
        )
    if not weights.resolve().is_relative_to(path.resolve().parent):
        raise RefusedError(
            f"its weights, {weights.name}, are a link out of its folder",
            where=path.name,
            remedy="copy the file",
        )
    return read_file(weights)[0]


def _read_network(runtime: Any, content: bytes, weights: bytes | None) -> Any:
    return runtime.Core().read_model(model=content, weights=weights or b"")


def _compile_network(runtime: Any, network: Any) -> Any:
    """Compile for exact answers, in one thread: a copy of a process has no other, and may wait for it."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    return runtime.Core().compile_model(network, "CPU", settings)


def _call_runtime(function: Callable[[], Any], where: str) -> Any:
    """Call OpenVINO; its errors name their reason in the last line that is not empty."""
    try:
        return function()
    except RobustbenchError:
        raise
    except Exception as error:  # OpenVINO's own exceptions share no base class
        refuse_shortage(error, where)
        lines = [line for line in str(error).strip().splitlines() if line and "Exception from" not in line]
        reason = extract_first_line(type(error)(lines[-1] if lines else "no reason given"))
        raise ModelError(f"OpenVINO cannot load it: {reason}", where=where) from error


def _add_info(loaded: LoadedModel, model: OpenVINOModel, info: OpenVINOInfo, network: Any) -> None:
    """Add normalization, class names and notes."""
    loaded.contract = replace(
        loaded.contract,
        value_scale=255.0 if model.takes_bytes or info.normalization is not None else 1.0,
        normalization=info.normalization,
        channel_order="bgr" if info.is_bgr and model.layout.channels == 3 else "rgb",
    )
    loaded.is_unnormalized = not model.takes_bytes and info.normalization is None
    if model.takes_bytes:
        loaded.notes.append("takes the bytes 0 to 255 of an image: pixels are rounded to 8 bits inside")
    if any(operation.get_type_name() == "FakeQuantize" for operation in network.get_ops()):
        loaded.notes.append("is quantized; activations between two levels give the same scores")
    loaded.notes.append("computed in float32, whatever this CPU's default precision")
    if len(info.class_names) == loaded.num_classes:
        loaded.class_names = info.class_names


def _find_dtype(kind: Any, where: str) -> np.dtype[Any]:
    """Return the NumPy type of an input."""
    name = kind.get_type_name()
    if name not in ("f16", "f32", "f64", "u8", "i32", "i64"):
        raise ModelError(
            f"takes {name}, not floats or bytes", where=where, remedy="convert it with a float or u8 input"
        )
    dtype: np.dtype[Any] = np.dtype(kind.to_dtype())
    return dtype


def _find_layout(entry: Any, where: str) -> ImageLayout:
    """Return the layout of an input: as the file names it, else by its shape."""
    named = str(entry.get_node().get_layout()).strip("[]").replace(",", "").upper()
    shape = _read_shape(entry)
    if named in ("NHWC", "NCHW") and len(shape) == 4:
        return make_layout(shape, is_channels_last=named == "NHWC")
    return find_layout(shape, where=where, prefers_last=False)


def _read_shape(value: Any) -> list[int | None]:
    """Return the shape of an input or output; None where an axis is open, and no axes where all are."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic:
        return []
    return [None if axis.is_dynamic else axis.get_length() for axis in shape]


def _find_output_shape(value: Any) -> tuple[int | None, ...]:
    """Return the shape of an output as `flatten_rows` returns it, with an open batch."""
    shape = _read_shape(value)
    long = [size for size in shape[1:] if size != 1]
    return (None, *(long if len(shape) > 2 and len(long) == 1 else shape[1:]))


def _name_output(value: Any, position: int) -> str:
    return value.get_any_name() if value.get_names() else f"output_{position}"


def _ends_in_softmax(value: Any) -> bool:
    """Check whether a softmax over the last axis computes an output, but for a reshape or a conversion."""
    node = value.get_node()
    while node.get_type_name() in {"Result", *_SAME_VALUES}:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Softmax")


def _as_float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.kind == "f" else values
