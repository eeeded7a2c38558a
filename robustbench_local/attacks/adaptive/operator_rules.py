"""The surrogates of single operators, by the name of the torch function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.straight_through import (
    attach_gradient,
    can_carry_gradient,
    carries_gradient,
)

if TYPE_CHECKING:
    from robustbench_local.attacks.adaptive.surrogate_operators import SurrogateMode

_TINY = 1e-12


@dataclass(frozen=True)
class OperatorCall:
    """One call of a torch function inside of a `SurrogateMode`."""

    mode: SurrogateMode
    func: Callable[..., Any]
    values: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the function; that of an attribute for its getter or setter."""
        name = getattr(self.func, "__name__", "")
        if name in {"__get__", "__set__"}:
            owner = getattr(getattr(self.func, "__self__", None), "__name__", "")
            return f"{name} {owner}"
        return name

    def run_plainly(self) -> Any:
        """Call the function as it is."""
        return self.func(*self.values, **self.named)

    def get_argument(self, position: int, name: str) -> Any:
        """Return an argument by position or name; None if it is not given."""
        return self.values[position] if len(self.values) > position else self.named.get(name)

    def attach_surrogate(
        self, operator: str, value: Any, surrogate: Tensor, distance: Tensor | None = None
    ) -> Any:
        """Return a value with a surrogate's gradient and record the operator.

        A value that cannot carry it gets the surrogate as its shadow.

        Args:
            operator: Name of the operator.
            value: The real value.
            surrogate: Carries the gradient.
            distance: For a threshold: how far each entry is from it; the same shape.
        """
        if can_carry_gradient(value):
            result = attach_gradient(value, surrogate)
            self.mode.record(operator, result, distance)
            return result
        shadow = surrogate.view_as(surrogate)
        self.mode.set_shadow(value, shadow)
        self.mode.record(operator, shadow, distance)
        return value

    def find_source(self, operator: str, position: int = 0) -> Tensor | None:
        """Return what carries the gradient of an argument, if the operator is to be replaced here."""
        if len(self.values) <= position or not self.mode.is_active(operator):
            return None
        return self.mode.find_carrier(self.values[position])

    def overwrite_argument(self, target: Tensor, result: Tensor) -> Any:
        """Give an in-place function's result to its first argument."""
        target.copy_(result)
        return target


Rule = Callable[[OperatorCall], Any]
RULES: dict[str, Rule] = {}
"""The rules by function name. A rule returns NotImplemented where it does not apply."""


def define_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the functions of these names."""

    def register_rule(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return register_rule


def measure_scale(values: Tensor) -> Tensor:
    """Return the mean absolute value of each row, at least a tiny number, that broadcasts against values."""
    size = values.detach().abs()
    if values.ndim < 2:
        return size.clamp_min(_TINY)
    return size.mean(dim=tuple(range(1, values.ndim)), keepdim=True).clamp_min(_TINY)


@define_rule("round", "floor", "ceil", "trunc", "fix")
def _replace_rounding(call: OperatorCall) -> Any:
    source = call.find_source(call.name)
    if source is None:
        return NotImplemented
    return call.attach_surrogate(
        call.name, call.func(call.values[0].detach(), *call.values[1:], **call.named), source
    )


@define_rule("round_", "floor_", "ceil_", "trunc_", "fix_", "sign_", "sgn_")
def _replace_in_place(call: OperatorCall) -> Any:
    target, func = call.values[0], getattr(torch, call.name.rstrip("_"))
    plain = OperatorCall(call.mode, func, (target.clone(), *call.values[1:]), call.named)
    result = RULES[plain.name](plain) if carries_gradient(target) else NotImplemented
    return NotImplemented if result is NotImplemented else call.overwrite_argument(target, result)


@define_rule("sign", "sgn")
def _replace_sign(call: OperatorCall) -> Any:
    source = call.find_source("sign")
    if source is None:
        return NotImplemented
    return call.attach_surrogate(
        "sign", call.func(call.values[0].detach()), torch.tanh(source / measure_scale(source))
    )


@define_rule("heaviside")
def _replace_heaviside(call: OperatorCall) -> Any:
    source = call.find_source("threshold")
    if source is None:
        return NotImplemented
    value = call.func(*(entry.detach() for entry in call.values))
    return call.attach_surrogate("threshold", value, torch.sigmoid(source / measure_scale(source)), source)


@define_rule("floor_divide", "__floordiv__", "__rfloordiv__")
def _replace_floor_division(call: OperatorCall) -> Any:
    carriers = [call.find_source("floor", position) for position in (0, 1)]
    if all(carrier is None for carrier in carriers):
        return NotImplemented
    ends = [
        value if carrier is None else carrier for value, carrier in zip(call.values, carriers, strict=True)
    ]
    ends = ends[::-1] if call.name == "__rfloordiv__" else ends
    return call.attach_surrogate("floor", call.run_plainly(), torch.true_divide(*ends))


@define_rule("div", "divide", "true_divide", "__truediv__", "div_")
def _replace_rounded_division(call: OperatorCall) -> Any:
    source = call.find_source("floor") if call.named.get("rounding_mode") else None
    if source is None or call.name == "div_":
        return NotImplemented
    return call.attach_surrogate("floor", call.run_plainly(), torch.true_divide(source, call.values[1]))


@define_rule("sub", "__sub__", "subtract")
def _replace_subtracted_remainder(call: OperatorCall) -> Any:
    """``x - x % step`` rounds x down to a multiple of the step."""
    divided = call.mode.get_divided(call.values[1])
    source = call.find_source("floor")
    if divided is None or source is None or divided is not call.values[0]:
        return NotImplemented
    return call.attach_surrogate("floor", call.run_plainly(), source)


@define_rule("remainder", "fmod", "__mod__", "frac")
def _note_remainder(call: OperatorCall) -> Any:
    value = call.run_plainly()
    if carries_gradient(call.values[0]) and isinstance(value, Tensor):
        call.mode.set_divided(value, call.values[0])
    return value


@define_rule("int", "long", "short", "byte", "char", "bool", "to", "type", "type_as")
def _replace_integer_cast(call: OperatorCall) -> Any:
    if not carries_gradient(call.values[0]):
        return NotImplemented
    value = call.run_plainly()
    if not isinstance(value, Tensor) or (can_carry_gradient(value) and value.element_size() > 1):
        return value
    operator = "threshold" if value.dtype == torch.bool else "integer cast"
    source = call.find_source(operator)
    if source is None:
        return value
    if value.dtype == torch.bool:
        surrogate = torch.tanh(source / measure_scale(source)).square()
        return call.attach_surrogate(operator, value, surrogate, source)
    if can_carry_gradient(value):  # 8-bit floats, whose slopes would be rounded, too
        value, shadow = value.detach(), source.view_as(source)
        call.mode.set_shadow(value, shadow)
        call.mode.record("quantize", shadow)
        return value
    return call.attach_surrogate(operator, value, source)


@define_rule("detach", "detach_", "__get__ data")
def _replace_detach(call: OperatorCall) -> Any:
    source = call.find_source("detach")
    if source is None:
        return NotImplemented
    if source is not call.values[0]:
        value = call.run_plainly()
        call.mode.set_shadow(value, source)
        return value
    if call.name == "detach_":
        return source
    return call.attach_surrogate("detach", source.detach(), source)


@define_rule("numpy", "__array__", "tolist")
def _leave_torch(call: OperatorCall) -> Any:
    source = call.find_source("numpy")
    if source is not None:
        call.mode.arrays.add_source(source)
    return call.func(call.values[0].detach(), *call.values[1:], **call.named)


@define_rule("item", "__float__", "__int__", "__bool__", "__index__")
def _read_number(call: OperatorCall) -> Any:
    return call.func(call.values[0].detach(), *call.values[1:], **call.named)


@define_rule("tensor", "as_tensor", "asarray")
def _enter_torch(call: OperatorCall) -> Any:
    if call.values and isinstance(call.values[0], Tensor):
        return NotImplemented
    return call.mode.enter_torch(call.run_plainly())


@define_rule("requires_grad_", "__set__ requires_grad")
def _keep_inner_leaf(call: OperatorCall) -> Any:
    source = call.values[0]
    if not carries_gradient(source) or source.is_leaf:
        return NotImplemented
    if len(call.values) == 1 or call.values[1]:
        source.retain_grad()
        call.mode.inner_leaves.append(source)
    return source


@define_rule("backward")
def _differentiate_inside(call: OperatorCall) -> Any:
    call.mode.autograd_calls += 1
    if not call.mode.inner_leaves:
        return call.run_plainly()
    named = {**call.named, "retain_graph": True}
    named.setdefault("inputs", call.mode.inner_leaves)
    return call.func(*call.values, **named)


@define_rule("grad")
def _differentiate_functionally(call: OperatorCall) -> Any:
    if call.func is not torch.autograd.grad:
        return NotImplemented
    call.mode.autograd_calls += 1
    return call.func(*call.values, **{**call.named, "retain_graph": True})


@define_rule("register_hook")
def _ignore_gradient_hook(call: OperatorCall) -> Any:
    """Let a hook on a gradient see it, but not change it."""
    source, hook = call.values[:2]
    if not call.mode.is_active("gradient hook") or not carries_gradient(source):
        return NotImplemented
    carrier, path = source, call.mode.find_path()

    def watch_gradient(slopes: Tensor) -> None:
        changed = hook(slopes.clone())
        if isinstance(changed, Tensor) and not torch.equal(changed, slopes):
            call.mode.record("gradient hook", carrier, path=path)

    return call.func(source, watch_gradient)
