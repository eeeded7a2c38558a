"""Models in LiteRT files (.tflite), float or quantized, run by ai-edge-litert: black boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.classifier.normalizations import Normalization
from robustbench_local.config.file_lookup import find_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError, RefusedError
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.models.image_layout import find_layout, format_shape
from robustbench_local.models.litert_file import LiteRTFile, read_litert_file
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_files import read_file
from robustbench_local.models.native_output import hide_log_lines
from robustbench_local.models.runtime_model import (
    RuntimeModel,
    flatten_rows,
    make_loaded_model,
    refuse_file_options,
)

LOG_PREFIXES = ("INFO: ",)


class LiteRTModel(RuntimeModel):
    """A LiteRT graph; images are quantized and scores dequantized as its tensors state.

    A file runs with its own batch size, 1 for an open one, as on a device: answers depend on no other image.

    Args:
        build_session: Builds an allocated interpreter.
        described: What the file says about itself.
        where: The file, for messages.
        identity: Identity of the model, as text.

    Raises:
        ModelError: If it does not take one batch of images.
    """

    libraries = ("ai_edge_litert",)

    def __init__(
        self, build_session: Callable[[], Any], described: LiteRTFile, *, where: str, identity: str
    ) -> None:
        session = build_session()
        inputs, outputs = session.get_input_details(), session.get_output_details()
        if len(inputs) != 1:
            names = ", ".join(entry["name"] for entry in inputs)
            raise ModelError(f"takes {len(inputs)} inputs ({names}), not one batch of images", where=where)
        self._input, self._outputs = inputs[0], _name_outputs(outputs)
        self._prepared: tuple[int, tuple[int, ...]] | None = None
        self.dtype = np.dtype(inputs[0]["dtype"])
        if self.dtype.kind not in "iuf":
            raise ModelError(
                f"takes {self.dtype} {format_shape(_find_shape(inputs[0]))}, not numbers", where=where
            )
        output_names = list(self._outputs)
        super().__init__(
            build_session,
            session,
            identity=identity,
            layout=find_layout(_find_shape(inputs[0]), where=where, prefers_last=True),
            outputs={name: _flatten_shape(entry["shape"]) for name, entry in self._outputs.items()},
            probabilities={
                output_names[position]: step
                for position, step in described.softmax_outputs.items()
                if position < len(output_names)
            },
        )

    @property
    def byte_normalization(self) -> Normalization | None:
        """The normalization with which an 8-bit input gets the bytes of an image; None for another input."""
        if self.dtype.kind == "f" or (self.dtype.itemsize > 1 and _read_quantization(self._input)[0]):
            return None
        scale, zero_point = _read_quantization(self._input)
        scale, zero_point = (1.0, 0) if scale is None else (scale, zero_point)
        lowest = -128 if self.dtype == np.int8 else 0
        return ((zero_point - lowest) / 255,), (1 / (255 * scale),)

    @property
    def quantized_outputs(self) -> Mapping[str, int]:
        """Name and number of levels of each quantized output."""
        return {
            name: 2 ** (8 * np.dtype(entry["dtype"]).itemsize)
            for name, entry in self._outputs.items()
            if _read_quantization(entry)[0] is not None
        }

    @property
    def input_text(self) -> str:
        """Type and shape of the input in the file, such as ``uint8 (1, 224, 224, 3)``."""
        return f"{self.dtype} {format_shape(_find_shape(self._input))}"

    def _run_session(self, session: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        number = self._input["index"]
        if self.layout.size is None and self._prepared != (id(session), images.shape):
            session.resize_tensor_input(number, images.shape)
            session.allocate_tensors()
            self._prepared = (id(session), images.shape)
        session.set_tensor(number, self._quantize_images(images))
        session.invoke()
        return {
            name: _dequantize_output(session.get_tensor(entry["index"]), entry)
            for name, entry in self._outputs.items()
        }

    def _quantize_images(self, images: np.ndarray) -> np.ndarray:
        if self.dtype.kind == "f":
            return images.astype(self.dtype)
        scale, zero_point = _read_quantization(self._input)
        values = np.rint(images / (scale or 1.0)) + zero_point
        limits = np.iinfo(self.dtype)
        quantized: np.ndarray = np.clip(values, limits.min, limits.max).astype(self.dtype)
        return quantized


def load_litert(file: str, request: ModelRequest) -> LoadedModel:
    """Load the network in a LiteRT file, with normalization and class names from its metadata.

    An 8-bit input without such a normalization gets the bytes of an image, as on a phone.

    Raises:
        ConfigError: If the runtime is missing, or an option does not apply to such a file.
        RefusedError: If its tensors lie in other files.
        ModelError: If it is not a LiteRT file, needs operators that the runtime lacks, or is not a network
            from images to scores.
    """
    refuse_file_options("litert", file, request)
    runtime = import_extra("ai_edge_litert.interpreter", extra="litert", distribution="ai-edge-litert")
    path = find_file(file, request.base_folder)
    content, digest = read_file(path, sha256=request.sha256)
    described = read_litert_file(content, path.name)
    if described.has_external_buffers:
        raise RefusedError(
            "its tensors lie in other files", where=path.name, remedy="export it again as one file"
        )
    build_session = partial(_build_session, runtime, content, described, path.name)
    model = LiteRTModel(build_session, described, where=path.name, identity=digest)
    loaded = make_loaded_model(model, request, where=path.name, runtime="LiteRT")
    loaded.provenance |= {"sha256": digest, "input": model.input_text}
    normalization = described.normalization or model.byte_normalization
    loaded.contract = replace(loaded.contract, normalization=normalization)
    loaded.is_unnormalized = normalization is None
    loaded.notes += _describe_numbers(model, described)
    if described.problem is not None:
        loaded.notes.append(described.problem)
    if len(described.class_names) == loaded.num_classes:
        loaded.class_names = described.class_names
    elif described.class_names:
        found = format_count(len(described.class_names), "class name")
        loaded.notes.append(f"has {found} for {format_count(loaded.num_classes, 'class')}: they are not used")
    return loaded


def _build_session(runtime: Any, content: bytes, described: LiteRTFile, where: str) -> Any:
    """Return an interpreter with its tensors; where the images' size is open, they follow with the images."""
    try:
        with hide_log_lines(*LOG_PREFIXES):
            session = runtime.Interpreter(model_content=content, num_threads=torch.get_num_threads())
            if None not in _find_shape(session.get_input_details()[0]):
                session.allocate_tensors()
    except (ValueError, RuntimeError, MemoryError, OverflowError) as error:
        refuse_shortage(error, where)
        missing = ", ".join(described.custom_operators)
        if missing:
            raise ModelError(
                f"needs {missing}, which LiteRT does not bring",
                where=where,
                remedy="convert the network with built-in operators only",
            ) from error
        raise ModelError(f"LiteRT cannot load it: {extract_first_line(error)}", where=where) from error
    return session


def _describe_numbers(model: LiteRTModel, described: LiteRTFile) -> list[str]:
    """Return notes on what the numbers of the file mean for an attack."""
    notes = []
    if model.dtype.kind != "f":
        note = f"its input is {model.dtype}: pixels are rounded to its levels inside"
        is_bytes = model.byte_normalization is not None and described.normalization is None
        notes.append(f"{note}, by default as the bytes 0 to 255 of an image" if is_bytes else note)
    notes += [
        f"its output {name} has {levels:,} levels, between which attacks on scores see no difference"
        for name, levels in model.quantized_outputs.items()
    ]
    return notes


def _find_shape(details: Mapping[str, Any]) -> list[int | None]:
    """Return the shape of an input, None where an axis is open; the batch is as large as the file has it."""
    shape = [int(size) for size in details["shape"]]
    signature = [int(size) for size in details.get("shape_signature", shape)]
    if len(signature) != len(shape):
        signature = shape
    is_open = [position > 0 and size < 0 for position, size in enumerate(signature)]
    return [None if unknown else size for size, unknown in zip(shape, is_open, strict=True)]


def _name_outputs(outputs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the outputs by name; those without one, or with the same one, get their number."""
    names = [entry["name"] for entry in outputs]
    return {
        name if name and names.count(name) == 1 else f"output_{position}": entry
        for position, (name, entry) in enumerate(zip(names, outputs, strict=True))
    }


def _flatten_shape(shape: np.ndarray) -> tuple[int | None, ...]:
    """Return the shape of an output as `flatten_rows` returns it."""
    sizes = [int(size) for size in shape]
    rows = flatten_rows(np.empty((0, *sizes[1:]))) if sizes else np.empty(())
    return (None, *rows.shape[1:])


def _read_quantization(details: Mapping[str, Any]) -> tuple[float | None, int]:
    """Return scale and zero point of a tensor; no scale where it is not quantized."""
    scale, zero_point = details["quantization"]
    return (float(scale), int(zero_point)) if scale else (None, 0)


def _dequantize_output(values: np.ndarray, details: Mapping[str, Any]) -> np.ndarray:
    """Return floats of a quantized or half-precision output; labels, which are integers, stay."""
    scale, zero_point = _read_quantization(details)
    if scale is None:
        return values.astype(np.float32) if values.dtype.kind == "f" else values
    return (values.astype(np.float32) - zero_point) * np.float32(scale)
