"""Custom autograd functions: found in the graph, and given the gradient of their own forward code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from robustbench_local.attacks.adaptive.module_paths import ModuleStack
from robustbench_local.attacks.adaptive.straight_through import carries_gradient
from robustbench_local.classifier.autograd_graph import walk_graph

if TYPE_CHECKING:
    from robustbench_local.attacks.adaptive.surrogate_operators import SurrogateMode

FunctionClass = type[torch.autograd.Function]
_OWN_MODULES = ("torch.", "robustbench_local.")
"""Packages whose functions have the gradient that they are meant to have."""


@dataclass(frozen=True)
class FunctionCall:
    """One call of a custom function.

    Attributes:
        function: Its class.
        path: Path of the module that called it.
        arguments: Its arguments; tensors are detached.
    """

    function: FunctionClass
    path: str
    arguments: tuple[Any, ...]


class CustomFunctions:
    """Custom autograd functions whose calls are recorded or whose gradients are replaced.

    Args:
        classes: The functions.
    """

    def __init__(self, classes: Sequence[type[torch.autograd.Function]] = ()) -> None:
        self.classes = tuple(classes)

    @contextmanager
    def record_calls(self, stack: ModuleStack) -> Iterator[list[FunctionCall]]:
        """Record the arguments of all calls while open."""
        calls: list[FunctionCall] = []

        def record_call(function: FunctionClass, _context: Any, arguments: tuple[Any, ...]) -> None:
            copies = tuple(
                value.detach().clone() if isinstance(value, Tensor) else value for value in arguments
            )
            calls.append(FunctionCall(function, stack.path, copies))

        with self._watch_calls(record_call):
            yield calls

    @contextmanager
    def replace_gradients(self, mode: SurrogateMode) -> Iterator[None]:
        """Let calls made while open have the gradient of their forward code, with surrogates inside."""

        def replace_gradient(function: FunctionClass, context: Any, arguments: tuple[Any, ...]) -> None:
            if mode.is_active("custom function"):
                context._forward_cls = _SurrogateBackward  # noqa: SLF001  where torch looks for the backward
                context.surrogate_replay = _Replay(
                    type(mode), mode.gentle_operators, _get_forward(function), arguments
                )

        with self._watch_calls(replace_gradient):
            yield

    @contextmanager
    def _watch_calls(self, note: Callable[[FunctionClass, Any, tuple[Any, ...]], None]) -> Iterator[None]:
        """Call a function with each call's class, context and arguments, by replaced class attributes."""
        with ExitStack() as stack:
            for function in self.classes:
                name = "setup_context" if _has_own_context(function) else "forward"
                own = vars(function).get(name)
                plain = getattr(function, name)
                setattr(function, name, staticmethod(_make_watched(function, plain, note, name)))
                restore = (
                    partial(delattr, function, name) if own is None else partial(setattr, function, name, own)
                )
                stack.callback(restore)
            yield


def _make_watched(
    function: FunctionClass, plain: Callable[..., Any], note: Callable[..., None], name: str
) -> Callable[..., Any]:
    def watched(*values: Any) -> Any:
        context, arguments = (values[0], values[1]) if name == "setup_context" else (values[0], values[1:])
        note(function, context, tuple(arguments))
        return plain(*values)

    return watched


def _has_own_context(function: FunctionClass) -> bool:
    return function.setup_context is not torch.autograd.Function.setup_context


def _get_forward(function: FunctionClass) -> Callable[..., Any]:
    """Return the forward code without a context."""
    forward = inspect.getattr_static(function, "forward").__func__
    if _has_own_context(function):
        return forward  # type: ignore[no-any-return]
    plain = getattr(forward, "__wrapped__", forward)
    return lambda *arguments: plain(_ReplayContext(), *arguments)


class _ReplayContext:
    """Takes what a forward leaves for its own backward, which is not asked."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_values, **_named: None


@dataclass(frozen=True)
class _Replay:
    """The forward code of one call, and its arguments."""

    mode_class: type[SurrogateMode]
    kept_operators: frozenset[str]
    forward: Callable[..., Any]
    arguments: tuple[Any, ...]

    def compute_slopes(self, slopes: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the gradient with respect to each argument; the identity's where there is no path."""
        leaves = [_make_leaf(value) for value in self.arguments]
        with (
            torch.enable_grad(),
            self.mode_class(lambda operator: operator not in self.kept_operators).intercept_torch(),
        ):
            outputs = self.forward(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [
            (output, slope)
            for output, slope in zip(outputs, slopes, strict=False)
            if carries_gradient(output) and slope is not None
        ]
        wanted = [index for index, value in enumerate(leaves) if carries_gradient(value)]
        result: list[Any] = [None] * len(leaves)
        if pairs:
            gradients = torch.autograd.grad(
                [output for output, _ in pairs],
                [leaves[index] for index in wanted],
                [slope for _, slope in pairs],
                allow_unused=True,
            )
            for index, gradient in zip(wanted, gradients, strict=True):
                result[index] = gradient
        first = wanted[0] if wanted else 0
        if result[first] is None and getattr(leaves[first], "shape", None) == slopes[0].shape:
            result[first] = slopes[0]
        return tuple(result)


def _make_leaf(value: Any) -> Any:
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.detach().clone().requires_grad_() if is_float else value


class _SurrogateBackward:
    """Stands in for the class of a custom function where torch looks for its backward."""

    vjp = torch.autograd.Function.vjp

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        replay: _Replay = ctx.surrogate_replay
        return replay.compute_slopes(slopes)


def find_custom_functions(answer: Any) -> tuple[FunctionClass, ...]:
    """Return the classes of the custom functions in the graphs behind a model's answer, each once.

    Args:
        answer: A tensor, or a tuple or dict that holds some.
    """
    found: dict[FunctionClass, None] = {}
    outputs = [value for value in tree_leaves(answer) if carries_gradient(value)]
    for node in (node for output in outputs for node in walk_graph(output)):
        function = getattr(type(node), "_forward_cls", None)
        if function is not None and not function.__module__.startswith(_OWN_MODULES):
            found[function] = None
    return tuple(found)
