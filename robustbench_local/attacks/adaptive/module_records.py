"""Inputs and outputs of all modules in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from robustbench_local.attacks.adaptive.eager_code import run_eagerly
from robustbench_local.attacks.adaptive.local_slopes import select_output
from robustbench_local.attacks.adaptive.model_parts import iterate_parts


@dataclass(frozen=True)
class ModuleRecord:
    """One call of a module.

    Attributes:
        path: Its path.
        module: The module.
        arguments: Its positional arguments; tensors are copies.
        named: Its named arguments.
        output: Its first floating-point output, detached; None if there is none.
    """

    path: str
    module: nn.Module
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor | None

    @property
    def source_index(self) -> int | None:
        """Position of the first floating-point argument."""
        for index, value in enumerate(self.arguments):
            if isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0:
                return index
        return None

    @property
    def source(self) -> Tensor | None:
        """The first floating-point argument."""
        return None if self.source_index is None else self.arguments[self.source_index]

    def call_module(self, source: Tensor) -> Any:
        """Call the module again with another first floating-point argument."""
        arguments = [value.clone() if isinstance(value, Tensor) else value for value in self.arguments]
        if self.source_index is not None:
            arguments[self.source_index] = source
        return self.module(*arguments, **self.named)


@contextmanager
def record_modules(model: Any) -> Iterator[list[ModuleRecord]]:
    """Record the calls of all modules that a model holds while open, in the order in which they end.

    Args:
        model: A module or another callable; the model itself is recorded with the path "".
    """
    paths = {id(part): path for path, part in iterate_parts(model)} | {id(model): ""}
    records: list[ModuleRecord] = []
    starts: list[tuple[int, tuple[Any, ...]]] = []

    def copy_arguments(module: nn.Module, arguments: Any) -> None:
        if id(module) in paths:
            starts.append((id(module), tuple(_copy_value(value) for value in arguments)))

    def record_call(module: nn.Module, _arguments: Any, named: dict[str, Any], output: Any) -> None:
        if id(module) not in paths:
            return
        while starts:
            owner, arguments = starts.pop()
            if owner == id(module):
                value = select_output(output)
                value = None if value is None else value.detach().clone()
                records.append(ModuleRecord(paths[owner], module, arguments, dict(named), value))
                return

    handles = [
        register_module_forward_pre_hook(copy_arguments),
        register_module_forward_hook(record_call, with_kwargs=True),
    ]
    try:
        with run_eagerly():
            yield records
    finally:
        for handle in handles:
            handle.remove()
            # torch keeps the mark of a hook with keywords, by which torch.compile takes it for still there
            torch_modules._global_forward_hooks_with_kwargs.pop(handle.id, None)  # noqa: SLF001


def _copy_value(value: Any) -> Any:
    if isinstance(value, Tensor):
        with torch.no_grad():
            return value.detach().clone()
    return value
