"""The path of the module that is running, by hooks that are removed afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from robustbench_local.attacks.adaptive.model_parts import iterate_parts


class ModuleStack:
    """The modules of a model that are running, outermost first.

    Args:
        model: The model; a callable that is no module has only the path "".
    """

    def __init__(self, model: Any) -> None:
        self._paths = {id(module): path for path, module in iterate_parts(model)}
        self._running: list[str] = []

    @property
    def path(self) -> str:
        """Path of the innermost running module; "" outside of all."""
        return self._running[-1] if self._running else ""

    def push_module(self, module: nn.Module) -> None:
        """Note that a module starts; modules outside of the model count for the one that calls them."""
        self._running.append(self._paths.get(id(module), self.path))

    def pop_module(self) -> None:
        """Note that a module has ended."""
        if self._running:
            self._running.pop()


@contextmanager
def track_module_paths(model: Any) -> Iterator[ModuleStack]:
    """Track which module of a model is running while the context is open.

    Args:
        model: The model: a module or another callable.
    """
    stack = ModuleStack(model)

    def enter_module(module: nn.Module, _inputs: Any) -> None:
        stack.push_module(module)

    def leave_module(_module: nn.Module, _inputs: Any, _output: Any) -> None:
        stack.pop_module()

    handles = [
        register_module_forward_pre_hook(enter_module),
        register_module_forward_hook(leave_module, always_call=True),
    ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
