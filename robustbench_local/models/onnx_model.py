"""Models in ONNX files, run by onnxruntime: black boxes that return scores or labels."""

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
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.user_files import read_user_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError, RefusedError, format_install_command
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_files import read_file
from robustbench_local.models.onnx_data import find_external_locations

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_LOG_LEVEL_ERROR = 3
"""Log level of onnxruntime; its warnings are only about speed."""

_PARENT_SESSIONS: list[Any] = []
"""Sessions of the parent process, which are kept as long as this process lives."""


class OnnxModel:
    """An ONNX graph that maps images (N, C, H, W) to its outputs, on the CPU.

    The session has threads, which a forked copy of this process lacks: there, the first call builds a new
    session.

    Args:
        build_session: Builds onnxruntime's session, with one input of four dimensions.
        where: The file, for messages.
        identity: Identity of the model, as text: the hashes of its files.

    Raises:
        ModelError: If it does not take one batch of images, channels first.
    """

    libraries = ("onnxruntime",)  # their versions are a part of the identity

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
        """Return the output, or several outputs by name, each with N rows."""
        inputs = images.detach().cpu().numpy().astype(self._dtype)
        size = self.fixed_batch_size or len(inputs)
        parts = [self._run(inputs[first : first + size], size) for first in range(0, len(inputs), size)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def find_num_classes(self, output: str | int | None) -> int | None:
        """Return the number of classes from the shape of an output (default: the only one), or None."""
        names = list(self.outputs)
        name = names[output] if isinstance(output, int) and output < len(names) else output
        if name is None and len(names) == 1:
            name = names[0]
        shape = self.outputs.get(str(name), ())
        return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None

    def _run(self, images: np.ndarray, size: int) -> dict[str, np.ndarray]:
        count = len(images)
        if count < size:
            # A graph of fixed batch size gets copies of the last image, whose rows are dropped.
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        if self._owner_pid != os.getpid():
            _PARENT_SESSIONS.append(self._session)  # deleting it would wait for threads of the parent
            self._session, self._owner_pid = self._build_session(), os.getpid()
        outputs = self._session.run(None, {self._input: images})
        return {name: value[:count] for name, value in zip(self.outputs, outputs, strict=True)}


def load_onnx(file: str, request: ModelRequest) -> LoadedModel:
    """Load the model in an ONNX file; external tensors must be in its folder or below.

    Raises:
        ConfigError: If onnxruntime is missing, or an option does not apply to an ONNX model.
        RefusedError: If the file names data outside its folder.
        ModelError: If it is not an ONNX file, or not a model from images to scores.
    """
    if request.weights is not None or request.architecture is not None:
        raise ConfigError(
            f"onnx:{file} holds both network and weights", remedy="leave weights and architecture out"
        )
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
        raise ModelError(
            "the file does not state its number of classes", where=path.name, remedy="set num_classes"
        )
    notes = ["run by onnxruntime on the CPU"]
    if model.fixed_batch_size is not None:
        notes.append(
            f"takes exactly {format_count(model.fixed_batch_size, 'image')} at a time: batches are "
            "padded with copies"
        )
    return LoadedModel(
        model=model,  # type: ignore[arg-type]  # arrays and named outputs are handled like tensors
        num_classes=classes,
        channels=model.channels,
        contract=InputContract(input_size=model.input_size),
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
    """Return the SHA-256 of each external file with tensors, all of which must be inside the folder."""
    try:
        locations = sorted(find_external_locations(content))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"is not an ONNX file: {extract_first_line(error)}", where=path.name) from error
    folder = path.resolve().parent
    hashes = []
    for location in locations:
        external_file = (folder / location).resolve()
        if not external_file.is_relative_to(folder):
            raise RefusedError(
                f"its tensors are in {location!r}, outside the folder of the model",
                where=path.name,
                remedy="export it again with that file beside the model",
            )
        if not external_file.is_file():
            raise ModelError(f"its tensors are in {location!r}, which does not exist", where=path.name)
        hashes.append(sha256(read_user_file(external_file, where=location, error=ModelError)).hexdigest())
    return hashes
