"""Surrogate gradients of operators: forward values stay, the backward pass is another function's (BPDA).

While a `SurrogateMode` is open, every call of a torch function passes through it. A function without a useful
gradient returns its value with the gradient of a surrogate. Values that cannot carry a gradient, such as
integers, booleans and indices, have a shadow: a floating-point tensor that carries it. Functions of such
values are called once more on the shadows, and give theirs.

Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1 (backward pass differentiable approximation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from robustbench_local.attacks.adaptive import (
    activation_rules,
    threshold_rules,  # noqa: F401  its rules register themselves
)
from robustbench_local.attacks.adaptive.array_bridge import ArrayBridge
from robustbench_local.attacks.adaptive.choice_rules import IndexChoice
from robustbench_local.attacks.adaptive.operator_rules import RULES, OperatorCall
from robustbench_local.attacks.adaptive.straight_through import (
    attach_gradient,
    can_carry_gradient,
    carries_gradient,
)


class OperatorRecorder(Protocol):
    """Receives each operator that gets a surrogate."""

    def __call__(
        self, operator: str, result: Tensor, distance: Tensor | None = None, path: str | None = None
    ) -> None:
        """Note an operator by name.

        Args:
            operator: Its name.
            result: Carries the surrogate's gradient.
            distance: For a threshold, the distance of each entry from it.
            path: Path of the module in whose forward it is; None: of the one that is running.
        """


def _ignore_operator(
    operator: str, result: Tensor, distance: Tensor | None = None, path: str | None = None
) -> None:
    """Note nothing."""


class SurrogateMode(TorchFunctionMode):
    """Replaces the gradients of operators while open.

    Args:
        is_active: Whether an operator, by name, is replaced in the module that is running.
        record: Receives them.
        find_path: Returns the path of the module that is running.

    Attributes:
        arrays: The values that have left torch.
        autograd_calls: Number of calls of autograd inside the forward pass.
        gentle_operators: Operators that are sound as they are.
        inner_leaves: Tensors that the model itself differentiates with respect to.
        selections: Module path and name of each function that chooses values by rank.
    """

    def __init__(
        self,
        is_active: Callable[[str], bool],
        record: OperatorRecorder = _ignore_operator,
        find_path: Callable[[], str] = str,
    ) -> None:
        super().__init__()
        self.is_active, self.record = is_active, record
        self.find_path = find_path
        self.autograd_calls = 0
        self.gentle_operators = activation_rules.GENTLE_OPERATORS
        self.arrays = ArrayBridge()
        self.inner_leaves: list[Tensor] = []
        self.selections: list[tuple[str, str]] = []
        self._shadows: dict[int, tuple[Tensor, Tensor]] = {}
        self._divided: dict[int, tuple[Tensor, Tensor]] = {}
        self._choices: dict[int, tuple[Tensor, IndexChoice]] = {}
        self._disabled_path: str | None = None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, with a surrogate gradient if it is one of those replaced."""
        call = OperatorCall(mode=self, func=func, values=tuple(args), named=kwargs or {})
        if call.name == "_set_grad_enabled":
            return self._set_grad_enabled(call)
        if not torch.is_grad_enabled():  # inside of a custom autograd function, which has its own gradient
            return call.run_plainly()
        rule = RULES.get(call.name)
        result = NotImplemented if rule is None else rule(call)
        if result is NotImplemented:
            result = self._propagate_shadows(call)
        if self._disabled_path is not None and carries_gradient(result):
            self.record("no_grad", result, path=self._disabled_path)
        return result

    def set_shadow(self, tensor: Tensor, shadow: Tensor) -> None:
        """Let a floating-point tensor carry the gradient of one that cannot, in its shape."""
        self._shadows[id(tensor)] = (tensor, shadow)  # held, so that no other tensor gets its id

    def get_shadow(self, value: Any) -> Tensor | None:
        """Return the shadow of a tensor; None if it has none."""
        held = self._shadows.get(id(value))
        return None if held is None else held[1]

    def find_carrier(self, value: Any) -> Tensor | None:
        """Return what carries the gradient of a value: itself or its shadow; None if nothing does."""
        return value if carries_gradient(value) else self.get_shadow(value)

    def set_divided(self, remainder: Tensor, divided: Tensor) -> None:
        """Note which tensor a remainder is of."""
        self._divided[id(remainder)] = (remainder, divided)

    def get_divided(self, value: Any) -> Tensor | None:
        """Return the tensor that a value is the remainder of."""
        held = self._divided.get(id(value))
        return None if held is None else held[1]

    def set_choice(self, index: Tensor, choice: IndexChoice) -> None:
        """Note what an index tensor was chosen by."""
        self._choices[id(index)] = (index, choice)

    def get_choice(self, value: Any) -> IndexChoice | None:
        """Return what an index tensor was chosen by."""
        held = self._choices.get(id(value))
        return None if held is None else held[1]

    @contextmanager
    def intercept_torch(self) -> Iterator[None]:
        """Open the mode, and intercept what torch does not show to modes: arrays and inference mode."""
        region = torch.inference_mode
        from_numpy, enter, leave = torch.from_numpy, region.__enter__, region.__exit__
        mode = self

        def convert_array(array: Any) -> Tensor:
            return mode.enter_torch(from_numpy(array))

        def enter_inference(context: Any) -> None:
            context.is_ignored = bool(context.mode) and mode.is_active("no_grad")
            if not context.is_ignored:
                enter(context)
                return
            context.path_before = mode._disabled_path
            mode._disable_gradients(disable=True)

        def leave_inference(context: Any, *error: Any) -> None:
            if not context.is_ignored:
                leave(context, *error)
                return
            mode._disabled_path = context.path_before

        torch.from_numpy, region.__enter__, region.__exit__ = convert_array, enter_inference, leave_inference  # type: ignore[assignment,method-assign]
        try:
            with self:
                yield
        finally:
            torch.from_numpy, region.__enter__, region.__exit__ = from_numpy, enter, leave  # type: ignore[method-assign]

    def enter_torch(self, tensor: Tensor) -> Tensor:
        """Connect a tensor made from outside values with the one that these values probably come from."""
        source = self.arrays.match_source(tensor) if self.is_active("numpy") else None
        if source is None:
            return tensor
        if can_carry_gradient(tensor):
            attached = attach_gradient(tensor, source)
            self.record("numpy", attached)
            return attached
        self.set_shadow(tensor, source)
        self.record("numpy", source)
        return tensor

    def _set_grad_enabled(self, call: OperatorCall) -> Any:
        if not self.is_active("no_grad") and self._disabled_path is None:
            return call.run_plainly()
        self._disable_gradients(disable=not call.values[0])
        return call.func(True)

    def _disable_gradients(self, *, disable: bool) -> None:
        """Note that the model disables gradients, and where; they stay enabled."""
        if not disable:
            self._disabled_path = None
        elif self._disabled_path is None:
            self._disabled_path = self.find_path()

    def _propagate_shadows(self, call: OperatorCall) -> Any:
        """Call a function; if an argument has a shadow, let the result carry the gradient of the shadows'."""
        if not self._shadows:
            return call.run_plainly()
        has_shadow = False

        def choose_shadow(value: Any) -> Any:
            nonlocal has_shadow
            shadow = self.get_shadow(value) if isinstance(value, Tensor) else None
            has_shadow = has_shadow or shadow is not None
            return value if shadow is None else shadow

        shadows = tree_map(choose_shadow, (call.values, call.named))
        result = call.run_plainly()
        if not has_shadow or not isinstance(result, Tensor):
            return result
        try:
            surrogate = call.func(*shadows[0], **shadows[1])
        except (RuntimeError, TypeError, IndexError, ValueError):
            return result
        if not carries_gradient(surrogate) or surrogate.shape != result.shape:
            return result
        if can_carry_gradient(result):
            return attach_gradient(result, surrogate)
        self.set_shadow(result, surrogate)
        return result
