"""Exported networks that a runtime computes: batches as the file takes them, one session a process."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.user_modules import find_library_version
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.image_layout import ImageLayout
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.probability_scores import convert_probabilities

_PARENT_SESSIONS: list[Any] = []
"""Sessions of the parent process, which are kept as long as this process lives."""


class RuntimeModel(ABC):
    """A network in a file that maps images (N, C, H, W) to its outputs, on the CPU.

    A session has threads, which a forked copy of this process lacks: there, the first call builds a new one.

    Args:
        build_session: Builds what computes the network in this process.
        session: The first such session.
        identity: Identity of the model, as text: the hashes of its files and its settings.
        layout: How the network takes its images.
        outputs: Name to shape of each output, with N as the first axis; None where an axis is open.
        probabilities: The outputs that end in a softmax, each with the distance of two quantized values.
    """

    libraries: ClassVar[tuple[str, ...]] = ()  # their versions are a part of the identity
    survives_fork: ClassVar[bool] = False
    """Whether a session also works in a forked copy of the process that built it."""

    def __init__(
        self,
        build_session: Callable[[], Any],
        session: Any,
        *,
        identity: str,
        layout: ImageLayout,
        outputs: Mapping[str, tuple[int | None, ...]],
        probabilities: Mapping[str, float | None],
    ) -> None:
        self.identity, self.layout, self.outputs = identity, layout, dict(outputs)
        self.probabilities = dict(probabilities)
        self._build_session, self._session, self._owner_pid = build_session, session, os.getpid()

    def __call__(self, images: Tensor) -> np.ndarray | dict[str, np.ndarray]:
        """Return the output, or several outputs by name, each with N rows; softmaxes as logarithms."""
        inputs = self.layout.arrange_images(images.detach().cpu().numpy())
        size = self.layout.batch_size or max(len(inputs), 1)
        parts = [self._run_padded(inputs[first : first + size]) for first in range(0, len(inputs), size)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}
        for name, step in self.probabilities.items():
            if joined[name].ndim == 2:
                joined[name] = convert_probabilities(joined[name], step)
        return joined if len(joined) > 1 else next(iter(joined.values()))

    def find_num_classes(self, output: str | int | None) -> int | None:
        """Return the number of classes from the shape of an output (default: the only one), or None."""
        names = list(self.outputs)
        name = names[output] if isinstance(output, int) and output < len(names) else output
        if name is None and len(names) == 1:
            name = names[0]
        shape = self.outputs.get(str(name), ())
        return shape[1] if len(shape) == 2 else None

    @abstractmethod
    def _run_session(self, session: Any, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return each output, with a row for each image of a batch in the network's own order."""

    def _run_padded(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run one batch; a file of fixed batch size gets copies of the last image, whose rows are dropped."""
        count, size = len(images), self.layout.batch_size or len(images)
        if count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        if self._owner_pid != os.getpid() and not self.survives_fork:
            _PARENT_SESSIONS.append(self._session)  # deleting it would wait for threads of the parent
            self._session, self._owner_pid = self._build_session(), os.getpid()
        outputs = self._run_session(self._session, images)
        return {name: flatten_rows(values[:count]) for name, values in outputs.items()}


def flatten_rows(values: np.ndarray) -> np.ndarray:
    """Return (N, K) for scores with further axes of length 1, such as (N, 1, 1, K); others unchanged."""
    if values.ndim > 2 and max(values.shape[1:], default=0) == int(np.prod(values.shape[1:])):
        return values.reshape(len(values), -1)
    return values


def refuse_file_options(kind: str, file: str, request: ModelRequest) -> None:
    """Refuse options that make no sense for a network in an exported file.

    Args:
        kind: How the source begins.
        file: The file, as the user names it.
        request: The user's options.

    Raises:
        ConfigError: If there is one.
    """
    if request.weights is not None or request.architecture is not None:
        raise ConfigError(
            f"{kind}:{file} holds both network and weights", remedy="leave weights and architecture out"
        )
    if request.access == "gradients":
        raise ConfigError(f"{kind}:{file} gives no gradients", remedy="set access: scores, or labels")


def make_loaded_model(model: RuntimeModel, request: ModelRequest, *, where: str, runtime: str) -> LoadedModel:
    """Return the loaded model of a file, with what its shapes say.

    Args:
        model: The network.
        request: The user's options.
        where: Name of its file.
        runtime: Name of the runtime, for the notes.

    Raises:
        ModelError: If its number of classes is unknown.
    """
    classes = request.num_classes or model.find_num_classes(request.output) or request.default_classes
    if classes is None:
        raise ModelError(
            "the file does not state its number of classes", where=where, remedy="set num_classes"
        )
    notes = [f"run by {runtime} on the CPU"]
    if model.layout.batch_size not in (None, 1):
        size = format_count(model.layout.batch_size or 0, "image")
        notes.append(f"takes exactly {size} at a time: batches are padded with copies")
    if model.probabilities:
        notes.append("ends in a softmax: attacks get the logarithms of its probabilities")
    return LoadedModel(
        model=model,  # type: ignore[arg-type]  # arrays and named outputs are handled like tensors
        num_classes=classes,
        channels=model.layout.channels,
        contract=InputContract(input_size=model.layout.size, origin="file"),
        notes=notes,
        provenance={"weights": where} | {name: find_library_version(name) for name in model.libraries},
    )
