"""The session of onnxruntime that runs an ONNX file: from images to outputs, without gradients."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier.foreign_errors import extract_first_line, refuse_shortage
from robustbench_local.errors import ModelError
from robustbench_local.models.onnx_input import find_image_input
from robustbench_local.models.probability_scores import convert_probabilities

_LOG_LEVEL_ERROR = 3
"""Log level of onnxruntime; its warnings are only about speed."""

_PARENT_SESSIONS: list[Any] = []
"""Sessions of the parent process, which are kept as long as this process lives."""


class OnnxModel:
    """An ONNX graph that maps images (N, C, H, W) to its outputs, on the CPU.

    The session has threads, which a forked copy of this process lacks: there, the first call builds a new
    session.

    Args:
        build_session: Builds onnxruntime's session.
        where: The file, for messages.
        identity: Identity of the model, as text: the hashes of its files.
        depends_on_batch: Whether answers depend on the other images of a call: each is then asked alone.
        probability_output: Name of an output with probabilities, of which logarithms are returned; None for
            none.
        probability_step: Distance of two probabilities that are rounded; None for floats.

    Attributes:
        input: How images enter the graph.
        outputs: Shapes of the outputs, by name.
        batch_size: The number of images of each call to the session; None for any.

    Raises:
        ModelError: If it does not take one batch of images.
    """

    libraries = ("onnxruntime",)  # their versions are a part of the identity

    def __init__(
        self,
        build_session: Callable[[], Any],
        *,
        where: str,
        identity: str,
        depends_on_batch: bool = False,
        probability_output: str | None = None,
        probability_step: float | None = None,
    ) -> None:
        self._build_session, self.identity = build_session, identity
        session = build_session()
        self._session, self._owner_pid = session, os.getpid()
        self.input = find_image_input(session.get_inputs(), where)
        self.outputs = {entry.name: entry.shape for entry in session.get_outputs()}
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.batch_size = 1 if depends_on_batch and not self.input.batch_size else self.input.batch_size
        self._probability_output, self._probability_step = probability_output, probability_step

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the model itself: it has no state that a call could change."""
        return self

    def __call__(self, images: Tensor) -> np.ndarray | dict[str, np.ndarray]:
        """Return the output, or several outputs by name, each with N rows."""
        images = images.detach().cpu()
        size = self.batch_size or len(images)
        parts = [self._run_batch(part, size) for part in torch.split(images, size)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
        if self._probability_output is not None:
            scores = convert_probabilities(joined[self._probability_output], self._probability_step)
            joined[self._probability_output] = scores
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def find_num_classes(self, output: str | int | None) -> int | None:
        """Return the number of classes from the shape of an output (default: the only one), or None."""
        names = list(self.outputs)
        name = names[output] if isinstance(output, int) and output < len(names) else output
        if name is None and len(names) == 1:
            name = names[0]
        shape = self.outputs.get(str(name), ())
        ranks = (2,) if self.input.has_batch else (1, 2)
        return shape[-1] if len(shape) in ranks and isinstance(shape[-1], int) else None

    def _run_batch(self, images: Tensor, size: int) -> dict[str, np.ndarray]:
        count = len(images)
        if count < size:
            # A graph of fixed batch size gets copies of the last image, whose rows are dropped.
            images = torch.cat([images, images[-1:].expand(size - count, -1, -1, -1)])
        if self._owner_pid != os.getpid():
            _PARENT_SESSIONS.append(self._session)  # deleting it would wait for threads of the parent
            self._session, self._owner_pid = self._build_session(), os.getpid()
        feed = {self.input.name: self.input.arrange_images(images).numpy().astype(self.input.dtype)}
        feed |= {name: np.zeros(shape, dtype=bool) for name, shape in self.input.flags}
        outputs = self._session.run(None, feed)
        if not self.input.has_batch:
            outputs = [value[None] if value.ndim < 2 else value for value in outputs]
        return {name: value[:count] for name, value in zip(self.outputs, outputs, strict=True)}


def build_session(runtime: Any, path: Path) -> Any:
    """Build a session on the CPU with as many threads as torch uses.

    Args:
        runtime: The package onnxruntime.
        path: The file.

    Raises:
        ModelError: If onnxruntime cannot load the file.
    """
    options = runtime.SessionOptions()
    options.log_severity_level = _LOG_LEVEL_ERROR
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no base class
        refuse_shortage(error, path.name)
        raise ModelError(
            f"onnxruntime cannot load it: {extract_first_line(error)}", where=path.name
        ) from error
