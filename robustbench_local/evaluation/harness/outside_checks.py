"""Checks of attacks and certificates from outside this package, in addition to candidate verification.

User code runs in the process that verifies. These checks find mistakes, such as an attack that leaves a model
changed; they do not protect against malicious code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from robustbench_local.certification.base import ABSTAINED, CertifiedBatch
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import ProcessSettings
from robustbench_local.errors import ConfigError

_PACKAGE_NAME = __name__.partition(".")[0]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = tuple(f"_global{name}" for name in _HOOKS)


def is_own_method(method: object) -> bool:
    """Check whether an attack or a certificate is part of this package.

    Args:
        method: An instance of either.
    """
    return type(method).__module__.partition(".")[0] == _PACKAGE_NAME


@contextmanager
def keep_process_unchanged(method: object, add_note: Callable[[str], None]) -> Iterator[None]:
    """Undo a method's changes of process-wide settings, such as autocast that is left on.

    The harness verifies with the arithmetic of the clean predictions, whatever a method computes with.

    Args:
        method: The attack or the certificate.
        add_note: Receives a note if it changed a setting.
    """
    settings = ProcessSettings.from_process()
    try:
        yield
    finally:
        changed = settings.restore_settings()
        if changed:
            name = type(method).__name__
            add_note(f"{name} changes the process-wide {', '.join(changed)}; put back before verification")


@contextmanager
def keep_model_unchanged(method: object, *classifiers: Classifier) -> Iterator[None]:
    """Check that external code leaves weights, forward methods and hooks of the models unchanged.

    A mode that it leaves, training or evaluation, is put back without a word.

    Args:
        method: The attack or the certificate; one of this package is not checked.
        classifiers: The classifiers that it could reach.

    Raises:
        ConfigError: If it changed a model. The model is restored and the result is discarded.
    """
    if is_own_method(method):
        yield
        return
    networks = list(
        {
            id(classifier.module): classifier.module
            for classifier in classifiers
            if classifier.module is not None
        }.values()
    )
    before = [_copy_state(network) for network in networks]
    modes = [(module, module.training) for network in networks for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.train(mode)
        changed = [_restore_state(network, state) for network, state in zip(networks, before, strict=True)]
    if any(changed):
        what = f"changed the model's {next(filter(None, changed))}: what it found does not count"
        raise ConfigError(what, where=type(method).__name__, remedy="work on a copy of the model")


def check_candidates(method: object, candidates: Any) -> Tensor:
    """Check that an attack returned a tensor; the harness verifies its values.

    Raises:
        ConfigError: If it is something else.
    """
    if isinstance(candidates, Tensor):
        return candidates
    what = f"perturb returned a {type(candidates).__name__}, not a tensor of images"
    raise ConfigError(what, where=type(method).__name__)


def check_certified_batch(method: object, certified: Any, count: int) -> CertifiedBatch:
    """Check that a certificate's return value is a valid result for this number of images.

    Args:
        method: The certificate.
        certified: Its return value.
        count: Number of images.

    Raises:
        ConfigError: If it is no `CertifiedBatch`, a tensor has a wrong shape or type, or a radius is below 0.
    """
    name = type(method).__name__
    if not isinstance(certified, CertifiedBatch):
        what = f"certify returned a {type(certified).__name__}, not a CertifiedBatch"
        raise ConfigError(what, where=name)
    for field, dtype in _FIELD_TYPES.items():
        value = getattr(certified, field)
        if not isinstance(value, Tensor) or tuple(value.shape) != (count,) or value.dtype != dtype:
            got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"{field} must be {dtype} of shape ({count},), got {got}", where=name)
    if bool((certified.radius < 0).any()) or bool((certified.predictions < ABSTAINED).any()):
        raise ConfigError("a radius or a prediction is negative", where=name)
    return certified


_FIELD_TYPES = {
    "predictions": torch.int64,
    "verified": torch.bool,
    "radius": torch.float64,
    "margins": torch.float64,
}


@dataclass(frozen=True)
class _ModuleCalls:
    """What is called when a module is: its forward methods and its hooks."""

    module: nn.Module
    own_forward: Any
    class_forward: Any
    hooks: list[dict[Any, Any]]


def _copy_state(network: nn.Module) -> tuple[dict[str, Tensor], list[_ModuleCalls], list[dict[Any, Any]]]:
    """Copy the weights, the forward method and the hooks of each module, and the hooks of all modules."""
    with torch.no_grad():
        weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    return weights, _list_calls(network), [dict(hooks) for hooks in _list_global_hooks()]


def _list_calls(network: nn.Module) -> list[_ModuleCalls]:
    return [
        _ModuleCalls(
            module,
            vars(module).get("forward"),
            type(module).forward,
            [dict(vars(module)[name]) for name in _HOOKS],
        )
        for module in network.modules()
    ]


def _list_global_hooks() -> list[dict[Any, Any]]:
    """Return torch's own tables of the hooks that run for every module."""
    return [getattr(module_hooks, name) for name in _GLOBAL_HOOKS]


def _restore_state(
    network: nn.Module, state: tuple[dict[str, Tensor], list[_ModuleCalls], list[dict[Any, Any]]]
) -> str:
    """Restore the network; return a word for what had changed, or nothing."""
    weights, calls, global_hooks = state
    changed = ""
    with torch.no_grad():
        now = dict(network.named_parameters())
        for name, value in weights.items():
            if name not in now or not torch.equal(now[name].nan_to_num(), value.nan_to_num()):
                changed = "weights"
                if name in now and now[name].shape == value.shape:
                    now[name].data.copy_(value)
    if _list_calls(network) != calls or _list_global_hooks() != global_hooks:
        changed = changed or "forward or hooks"
        for call in calls:
            _restore_calls(call)
        for table, hooks in zip(_list_global_hooks(), global_hooks, strict=True):
            _restore_table(table, hooks)
    return changed


def _restore_calls(before: _ModuleCalls) -> None:
    """Restore what is called when a module is."""
    attributes = vars(before.module)
    attributes.pop("forward", None)
    if before.own_forward is not None:
        attributes["forward"] = before.own_forward
    if type(before.module).forward is not before.class_forward:
        type(before.module).forward = before.class_forward
    for name, hooks in zip(_HOOKS, before.hooks, strict=True):
        _restore_table(attributes[name], hooks)


def _restore_table(table: dict[Any, Any], entries: dict[Any, Any]) -> None:
    table.clear()
    table.update(entries)
