"""Models in ONNX files, run by onnxruntime: black boxes that give scores, or labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ConfigError, ModelError, RefusedError, format_install_command
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_files import find_file, read_file
from robustbench_local.models.onnx_data import find_external_locations

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_LOG_LEVEL_ERROR = 3
"""onnxruntime's level of log messages: its warnings are about speed."""

_PARENT_SESSIONS: list[Any] = []
"""Sessions of the process that this one is a copy of, kept for as long as it lives."""


class OnnxModel:
    """Images (N, C, H, W) to the outputs of an ONNX graph, on the CPU.

    Its session has threads, which a copy of this process lacks: there, the first call makes another one.

    Args:
        make_session: Makes onnxruntime's session, with one input of four dimensions.
        where: The file, for messages.
        identity: What decides its answers, as text: the hashes of its files.

    Raises:
        ModelError: If it does not take one batch of images, channels first.
    """

    libraries = ("onnxruntime",)  # whose version is a part of the identity

    def __init__(self, build_session: Callable[[], Any], *, where: str, identity: str) -> None:
        self._build_session, self.identity = build_session, identity
        session = build_session()
        self._session, self._owner_pid = session, os.getpid()
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(entry.name for entry in inputs)
            raise ModelError(f"takes {len(inputs)} inputs ({names}), not one batch of images", where=where)
        self._input, shape = inputs[0].name, inputs[0].shape
        if inputs[0].type not in _NUMPY_TYPES or len(shape) != 4:
            raise ModelError(
                f"takes {inputs[0].type} {shape}, not floats (N, C, H, W)",
                where=where,
                remedy="export it with float images, channels first",
            )
        self._dtype = _NUMPY_TYPES[inputs[0].type]
        self.fixed_batch_size, self.channels, height, width = (
            size if isinstance(size, int) else None for size in shape
        )
        if self.channels is not None and self.channels > 4 and width is not None and width <= 4:
            raise ModelError(
                f"takes images {shape[1:]}, channels last",
                where=where,
                remedy="export it with channels first",
            )
        self.input_size = (height, width) if height is not None and width is not None else None
        self.outputs = {entry.name: entry.shape for entry in session.get_outputs()}

    def __call__(self, images: Tensor) -> np.ndarray | dict[str, np.ndarray]:
        """The output, or all outputs by name where there are several, each with N rows."""
        given = images.detach().cpu().numpy().astype(self._dtype)
        size = self.fixed_batch_size or len(given)
        parts = [self._run(given[first : first + size], size) for first in range(0, len(given), size)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def find_num_classes(self, output: str | int | None) -> int | None:
        """The number of classes by the shape of an output, by default the only one; None if it is open."""
        names = list(self.outputs)
        name = names[output] if isinstance(output, int) and output < len(names) else output
        if name is None and len(names) == 1:
            name = names[0]
        shape = self.outputs.get(str(name), ())
        return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None

    def _run(self, images: np.ndarray, size: int) -> dict[str, np.ndarray]:
        count = len(images)
        if (
            count < size
        ):  # a graph of fixed batch size gets copies of the last image, and their rows are dropped
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        if self._owner_pid != os.getpid():
            _PARENT_SESSIONS.append(self._session)  # its end would wait for threads that are not here
            self._session, self._owner_pid = self._build_session(), os.getpid()
        found = self._session.run(None, {self._input: images})
        return {name: value[:count] for name, value in zip(self.outputs, found, strict=True)}


def load_onnx(file: str, request: ModelRequest) -> LoadedModel:
    """The model in an ONNX file; tensors may be in files of the same folder or below it.

    Raises:
        ConfigError: If onnxruntime is missing, or what was said about the model makes no sense for it.
        RefusedError: If the file names data outside its folder.
        ModelError: If it is no ONNX file, or not a model from images to scores.
    """
    if request.weights is not None or request.architecture is not None:
        raise ConfigError(f"onnx:{file} is network and weights in one", remedy="leave the others out")
    if request.access == "gradients":
        raise ConfigError(
            "an ONNX file gives no gradients", where=file, remedy="set access: scores, or labels"
        )
    try:
        runtime: Any = import_module("onnxruntime")
    except ImportError as error:
        raise ConfigError(
            "onnxruntime is not installed", remedy=f"run {format_install_command('onnx')}"
        ) from error
    path = find_file(file, request.base_folder)
    content, digest = read_file(path, sha256=request.sha256)
    hashes = [digest, *_hash_external_files(path, content)]
    model = OnnxModel(partial(_build_session, runtime, path), where=path.name, identity=" ".join(hashes))
    classes = request.num_classes or model.find_num_classes(request.output) or request.default_classes
    if classes is None:
        raise ModelError("the file does not say its classes", where=path.name, remedy="set num_classes")
    notes = ["run by onnxruntime on the CPU"]
    if model.fixed_batch_size is not None:
        notes.append(
            f"takes exactly {model.fixed_batch_size} images at a time: batches are padded with copies"
        )
    return LoadedModel(
        model=model,  # type: ignore[arg-type]  # arrays and named outputs are read like tensors
        num_classes=classes,
        channels=model.channels,
        input_size=model.input_size,
        is_unnormalized=True,
        notes=notes,
        provenance={"weights": path.name, "sha256": digest, "onnxruntime": runtime.__version__},
    )


def _build_session(runtime: Any, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_LEVEL_ERROR
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise ModelError(
            f"onnxruntime cannot load it: {extract_first_line(error)}", where=path.name
        ) from error


def _hash_external_files(path: Path, content: bytes) -> list[str]:
    """SHA-256 of the other files that hold tensors of the model, each inside its folder."""
    try:
        locations = sorted(find_external_locations(content))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"is no ONNX file: {extract_first_line(error)}", where=path.name) from error
    folder = path.resolve().parent
    hashes = []
    for location in locations:
        beside = (folder / location).resolve()
        if not beside.is_relative_to(folder):
            raise RefusedError(
                f"its tensors are in {location!r}, outside the folder of the model",
                where=path.name,
                remedy="put that file beside the model and export it again",
            )
        if not beside.is_file():
            raise ModelError(f"its tensors are in {location!r}, which is not there", where=path.name)
        hashes.append(sha256(read_user_file(beside, where=location, error=ModelError)).hexdigest())
    return hashes
