"""A model whose forward values are its own, and whose backward pass goes through surrogates."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from robustbench_local.attacks.adaptive.custom_functions import CustomFunctions, find_custom_functions
from robustbench_local.attacks.adaptive.eager_code import run_eagerly
from robustbench_local.attacks.adaptive.findings import PartFinding
from robustbench_local.attacks.adaptive.measured_jacobian import MeasuredJacobian
from robustbench_local.attacks.adaptive.model_parts import resolve_part
from robustbench_local.attacks.adaptive.module_paths import ModuleStack, track_module_paths
from robustbench_local.attacks.adaptive.part_model import convert_to_part_input
from robustbench_local.attacks.adaptive.stair_nodes import replace_stair_gradients
from robustbench_local.attacks.adaptive.straight_through import attach_gradient
from robustbench_local.attacks.adaptive.surrogate_operators import SurrogateMode
from robustbench_local.attacks.adaptive.wide_slopes import WideSlopeMode
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.image_borders import BorderProbe
from robustbench_local.classifier.wrapper import WrappedClassifier, find_innermost

RecordOperator = Callable[[str, str, Tensor, Tensor | None], None]
"""Receives path, operator, the tensor that carries its surrogate gradient, and distances from a threshold."""


class SurrogateModel(nn.Module):
    """The real model with surrogate gradients.

    Args:
        model: The model: a module or another callable.
        selects: Whether an operator in the forward of the module at a path is replaced.
        bypassed: Paths of modules that get the gradient of the identity.
        measured: Paths of modules with few inputs whose Jacobian is measured by finite differences.
        anchors: Parts by path; all that is before them has the gradient of a straight line.
        width: Half the length of the interval over which functions of single values have their mean slope,
            in standard deviations; 0: they have their own.
        record: Receives each replaced operator.
        record_stair: Receives, in the backward pass, each operator in scripted code that decides the answer.

    Attributes:
        autograd_calls: Calls of autograd in the last forward pass.
        functions: Custom autograd functions of the model, which get surrogates too.
        runs: Forward passes with surrogates.
        selections: Module path and name of each function in the last one that chooses values by rank.
    """

    def __init__(
        self,
        model: Any,
        *,
        selects: Callable[[str, str], bool],
        bypassed: Collection[str] = (),
        measured: Collection[str] = (),
        anchors: Mapping[str, PartFinding] | None = None,
        width: float = 0.0,
        record: RecordOperator | None = None,
        record_stair: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self.model, self._selects = model, selects
        self._record, self._record_stair, self._width = record, record_stair, width
        self._bypassed = {id(resolve_part(model, path)) for path in bypassed if path}
        layers = [resolve_part(model, path) for path in measured if path]
        self._measured = {id(layer): MeasuredJacobian(layer) for layer in layers}
        self._anchors = {id(resolve_part(model, path)): part.input for path, part in (anchors or {}).items()}
        self.autograd_calls = self.runs = 0
        self.functions = CustomFunctions()
        self.selections: list[tuple[str, str]] = []
        self._knows_functions, self._has_stairs = False, True

    def forward(self, images: Tensor) -> Any:
        """Return the model's answer, bit for bit."""
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self.model(images)
        answer = self._run_model(images)
        if not self._knows_functions:
            self._knows_functions = True
            self.functions = CustomFunctions(find_custom_functions(answer))
            if self.functions.classes:
                answer = self._run_model(images)
        return answer

    def _run_model(self, images: Tensor) -> Any:
        self.runs += 1
        with (
            run_eagerly(),
            track_module_paths(self.model) as stack,
            self._replace_modules(),
            self._anchor_parts(images),
            _without_backward_hooks(self.model),
        ):
            mode = self._make_mode(stack)
            widener = WideSlopeMode(self._width) if self._width else None
            opened = widener or nullcontext()
            with self.functions.replace_gradients(mode), mode.intercept_torch(), opened:
                answer = self.model(images)
            answer = answer if widener is None else widener.end_chains(answer)
        self.autograd_calls, self.selections = mode.autograd_calls, mode.selections
        if self._has_stairs and self._selects("", "round"):
            self._has_stairs = replace_stair_gradients(answer, self._note_stair) > 0
        return answer

    def _note_stair(self, operator: str, slopes: Tensor) -> None:
        if self._record_stair is not None and bool(slopes.any()):
            self._record_stair(operator)

    def _make_mode(self, stack: ModuleStack) -> SurrogateMode:
        def note_operator(
            operator: str, result: Tensor, distance: Tensor | None = None, path: str | None = None
        ) -> None:
            if self._record is not None:
                self._record(stack.path if path is None else path, operator, result, distance)

        return SurrogateMode(
            lambda operator: self._selects(stack.path, operator), note_operator, lambda: stack.path
        )

    @contextmanager
    def _replace_modules(self) -> Iterator[None]:
        """Give the chosen modules the gradient of the identity, or a measured one."""
        if not self._bypassed and not self._measured:
            yield
            return

        def replace_output(module: nn.Module, inputs: Any, output: Any) -> Any:
            source = inputs[0] if len(inputs) > 0 else None
            if not isinstance(output, Tensor) or not isinstance(source, Tensor) or not source.requires_grad:
                return None
            if id(module) in self._bypassed and source.shape == output.shape:
                return attach_gradient(output, source)
            if id(module) in self._measured:
                return attach_gradient(output, self._measured[id(module)].linearize_layer(source, output))
            return None

        handle = register_module_forward_hook(replace_output)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _anchor_parts(self, images: Tensor) -> Iterator[None]:
        """Give what feeds the anchored parts the gradient of a straight line from the model's input."""
        if not self._anchors:
            yield
            return

        def replace_input(module: nn.Module, inputs: Any) -> Any:
            part_input = self._anchors.get(id(module))
            if part_input is None or not isinstance(inputs[0], Tensor) or len(inputs[0]) != len(images):
                return None
            line = convert_to_part_input(images, replace(part_input, size=_get_size(inputs[0], images)))
            return (attach_gradient(inputs[0], line), *inputs[1:])

        handle = register_module_forward_pre_hook(replace_input)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _without_backward_hooks(model: Any) -> Iterator[None]:
    """Take away the hooks by which modules change gradients; a forward pass sets them up."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    slots = [
        (vars(module), name, vars(module)[name])
        for module in modules
        for name in ("_backward_hooks", "_backward_pre_hooks")
        if vars(module).get(name)
    ]
    for owner, name, hooks in slots:
        owner[name] = type(hooks)()
    try:
        yield
    finally:
        for owner, name, hooks in slots:
            owner[name] = hooks


def _get_size(source: Tensor, images: Tensor) -> tuple[int, int] | None:
    return None if source.shape == images.shape else (source.shape[2], source.shape[3])


def replace_model(classifier: Classifier, model: Any) -> Classifier:
    """Return a stack of classifiers like this one around another model; it counts its own passes."""
    if isinstance(classifier, WrappedClassifier):
        return classifier._wrap_copy(replace_model(classifier.inner, model))  # noqa: SLF001
    return classifier._copy_with_model(model)  # noqa: SLF001


def ignore_rejection(twin: Classifier) -> Classifier:
    """Let a classifier of `replace_model` read K scores, because its model is a part that rejects nothing."""
    twin._accepted_labels = None  # noqa: SLF001
    find_innermost(twin)._model_call.abstention = None  # noqa: SLF001
    return twin


def share_account(twin: Classifier, classifier: Classifier) -> Classifier:
    """Let a classifier of `replace_model` count its passes where the real one does; return it.

    What is known of the real one's gradients at the borders of the box holds for it, too.
    """
    twin._pass_counters = classifier._pass_counters  # noqa: SLF001
    border_probe = BorderProbe()
    border_probe.set_result(masked=find_innermost(classifier).border_probe.masked)
    vars(find_innermost(twin))["border_probe"] = border_probe
    return twin
