"""Snapshots of the state that an evaluation must restore: process settings, random states and the model.

Trust invariant V10: after an evaluation the inputs, weights, buffers, training flags, gradients, global
random states, cuDNN and TF32 flags, threads, default dtype and working directory are what they were before.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

# Torch's settings of float32 precision; a verdict is computed in "ieee" only.
_BACKENDS: Any = torch.backends  # untyped: its attributes are created at run time
_PRECISION_BACKENDS: tuple[Any, ...] = (
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn.conv,
    _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
    _BACKENDS.mkldnn.rnn,
)


class ProcessSettings(NamedTuple):
    """The process-wide settings that a careless ``forward`` can change; cheap to read at every call."""

    default_dtype: torch.dtype
    threads: int
    grad_enabled: bool
    deterministic: tuple[bool, bool]
    cudnn: tuple[bool, bool, bool]
    precision: tuple[str | None, ...]
    autocast: tuple[bool, bool]
    directory: str

    @classmethod
    def from_process(cls) -> ProcessSettings:
        """Read the settings of this process."""
        cudnn = _BACKENDS.cudnn
        return cls(
            default_dtype=torch.get_default_dtype(),
            threads=torch.get_num_threads(),
            grad_enabled=torch.is_grad_enabled(),
            deterministic=(
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            cudnn=(cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
            precision=(
                _read_matmul_precision(),
                *(backend.fp32_precision for backend in _PRECISION_BACKENDS),
            ),
            autocast=(torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
            directory=_read_directory(),
        )

    def list_differences(self, other: ProcessSettings) -> list[str]:
        """List the names of the settings in which ``other`` differs."""
        return [name for name, ours, theirs in zip(self._fields, self, other, strict=True) if ours != theirs]

    def restore_settings(self) -> list[str]:
        """Restore these settings; return the names of those that had changed."""
        now = ProcessSettings.from_process()
        changed = [] if now == self else self.list_differences(now)
        if changed:
            torch.set_default_dtype(self.default_dtype)
            torch.set_grad_enabled(self.grad_enabled)
            set_deterministic_algorithms(*self.deterministic)
            cudnn = _BACKENDS.cudnn
            cudnn.enabled, cudnn.benchmark, cudnn.deterministic = self.cudnn
            matmul, *others = self.precision
            if matmul is not None:  # first, since it sets some of the others
                torch.set_float32_matmul_precision(matmul)
            for backend, precision in zip(_PRECISION_BACKENDS, others, strict=True):
                backend.fp32_precision = precision
            for device, enabled in zip(("cpu", "cuda"), self.autocast, strict=True):
                torch.set_autocast_enabled(device, enabled)
        if "threads" in changed:
            torch.set_num_threads(self.threads)
        if "directory" in changed and self.directory:
            os.chdir(self.directory)
        return changed


@dataclass(frozen=True)
class RandomStates:
    """The global random states of Python, NumPy and torch (every CUDA device that is in use)."""

    python: Any
    numpy: Any
    torch: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def from_process(cls) -> RandomStates:
        """Read the random states of this process."""
        cuda = torch.cuda.get_rng_state_all() if _is_cuda_in_use() else []
        return cls(random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state(), tuple(cuda))

    def is_same_as(self, other: RandomStates) -> bool:
        """Check that no random number was drawn between the two states."""
        numpy_same = all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True))
        torch_same = torch.equal(self.torch, other.torch)
        cuda_same = all(torch.equal(a, b) for a, b in zip(self.cuda, other.cuda, strict=False))
        return self.python == other.python and numpy_same and torch_same and cuda_same

    def restore_states(self) -> None:
        """Restore these random states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


def set_deterministic_algorithms(enabled: bool, warn_only: bool) -> None:
    """Set ``torch.use_deterministic_algorithms`` without the seconds of importing torch's compiler.

    Args:
        enabled: Whether operations have to give the same result each time.
        warn_only: Whether one that cannot only warns.
    """
    if "torch._inductor.config" in sys.modules or (warn_only and not enabled):
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)  # sets the compiler's flag, too
    else:
        torch.set_deterministic_debug_mode(("warn" if warn_only else "error") if enabled else "default")


def seed_everything(seed: int) -> None:
    """Set the global random states of Python, NumPy and torch that a model may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if _is_cuda_in_use():  # where it is not, torch would note a stack trace for later at each call
        torch.cuda.manual_seed_all(seed)


class ModuleState:
    """A copy of everything in a module that its use may change; as large as the model.

    Args:
        module: The module to snapshot: its tensors by value, and the identity of each tensor object.
    """

    def __init__(self, module: nn.Module) -> None:
        self._training = [(part, _is_training(part)) for part in module.modules()]
        self._tensor_slots: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (slots, dict(slots))
            for part in module.modules()
            for slots in (part._buffers, part._parameters)  # noqa: SLF001  named_buffers() hides the empty ones
            if isinstance(slots, dict)  # a compiled TorchScript module has views of its own, which stay
        ]
        tensors = dict(module.named_parameters(remove_duplicate=True)) | dict(module.named_buffers())
        self._values = [(name, tensor, tensor.detach().clone()) for name, tensor in tensors.items()]
        self._gradients = [(p, p.requires_grad, p.grad, _copy_tensor(p.grad)) for p in module.parameters()]

    @torch.no_grad()
    def restore_module(self) -> list[str]:
        """Restore the module; return the names of the parameters and buffers whose values had changed."""
        for part, training in self._training:
            _set_training(part, training=training)
        changed = []
        for slots, before in self._tensor_slots:
            if slots.keys() != before.keys() or any(slots[name] is not before[name] for name in before):
                changed += [name for name in slots if slots[name] is not before.get(name)]
                slots.clear()
                slots.update(before)
        for name, tensor, value in self._values:
            if not _is_equal(tensor, value):
                with torch.inference_mode(tensor.is_inference()):
                    tensor.copy_(value)
                changed.append(name)
        for parameter, requires_grad, gradient, gradient_copy in self._gradients:
            if parameter.requires_grad != requires_grad:
                with torch.inference_mode(parameter.is_inference()):
                    parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
            if gradient is not None and gradient_copy is not None:
                gradient.copy_(gradient_copy)
        return changed


def set_evaluation_mode(module: nn.Module) -> str | None:
    """Put a module into evaluation mode and freeze its parameters, even if it refuses to change its mode.

    Args:
        module: The module.

    Returns:
        A note for the reader: that its own ``eval`` fails, and its parts were switched without it.

    Raises:
        Exception: If even that fails.
    """
    note = None
    try:
        module.eval()
    except Exception as error:  # noqa: BLE001 - such as an exported program's, whose mode is fixed
        note = f"its eval() raises {type(error).__name__}: its training flags were switched off instead"
        for part in module.modules():
            _set_training(part, training=False)
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.is_leaf:  # not a copy that TorchScript made in a graph
            parameter.requires_grad_(False)
    return note


@contextmanager
def deterministic_arithmetic() -> Iterator[None]:
    """Set full float32 precision, deterministic cuDNN, no autocast, gradients on; not restored here."""
    cudnn = _BACKENDS.cudnn
    cudnn.benchmark, cudnn.deterministic = False, True
    if _read_matmul_precision() is not None:
        torch.set_float32_matmul_precision("highest")
    for backend in _PRECISION_BACKENDS:
        backend.fp32_precision = "ieee"
    modes = (torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False))
    with modes[0], modes[1], modes[2], torch.autocast("cuda", enabled=False):
        yield


def _is_cuda_in_use() -> bool:
    cuda: Any = torch.cuda
    return bool(cuda.is_initialized())


def _read_matmul_precision() -> str | None:
    """Return torch's older setting; None where it contradicts the newer one and torch refuses to read it."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _read_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109  read at every forward, where building a Path would show
    except FileNotFoundError:  # it was deleted: nothing to restore
        return ""


def _is_training(part: nn.Module) -> bool | None:
    """Return a part's training flag; None for frozen TorchScript, which has none."""
    return getattr(part, "training", None)


def _set_training(part: nn.Module, *, training: bool | None) -> None:
    if training is None or _is_training(part) == training:
        return
    try:
        part.training = training
    except Exception:  # noqa: BLE001 - a user's __setattr__ may forbid it
        vars(part)["training"] = training


def _is_equal(first: Tensor, second: Tensor) -> bool:
    """Check whether two tensors of one kind are equal, including sparse ones."""
    try:
        return torch.equal(first, second)
    except (RuntimeError, NotImplementedError):
        return torch.equal(first.to_dense(), second.to_dense())


def _copy_tensor(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()
