"""Operators without useful gradients between the pixels and the output, found by one pass with surrogates.

With a surrogate in place of every such operator, gradients flow wherever values do. An operator whose
surrogate gets a gradient decides the answer; the others, such as index arithmetic or values kept for a log,
do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.activation_rules import GENTLE_OPERATORS
from robustbench_local.attacks.adaptive.findings import OperatorFinding
from robustbench_local.attacks.adaptive.fixed_draws import fix_draws
from robustbench_local.attacks.adaptive.surrogate_model import SurrogateModel, replace_model, share_account
from robustbench_local.attacks.core.losses import compute_margin
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.errors import ModelError
from robustbench_local.randomness import RandomStream

MIN_JUMP_SHARE = 0.3
"""Smallest weight of the entries next to a threshold, relative to all entries, where a function jumps.

A gate such as ``x * (x > 0)`` is continuous: the weight of its mask is x, which is small next to the
threshold (measured: at most 0.06 on normal values). That of a mask which jumps is the same everywhere (0.8 to
1.2)."""
_NEAR_SHARE = 0.05
"""Share of the entries that count as next to a threshold."""


@dataclass(frozen=True)
class OperatorScan:
    """What a pass with surrogates shows.

    Attributes:
        operators: The operators that matter.
        gradient: (N, C, H, W), of the margin loss through all surrogates; None if there is none.
        selections: Functions that choose values by rank, whose gradient is that of the chosen ones.
        optimizes_inside: Whether the forward pass calls autograd.
        error: Why the pass failed; empty if it did not.
    """

    operators: tuple[OperatorFinding, ...]
    gradient: Tensor | None
    selections: tuple[OperatorFinding, ...]
    optimizes_inside: bool
    error: str


@dataclass
class _Record:
    """The calls of one operator in one module."""

    count: int = 0
    is_influential: bool = False
    near_weights: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)

    def add_slopes(self, slopes: Tensor, distance: Tensor | None) -> None:
        size = slopes.detach().abs().nan_to_num(0.0)
        if not bool(size.any()):
            return
        self.is_influential = True
        if distance is None or distance.shape != size.shape:
            return
        far = distance.detach().abs().flatten()
        near = far <= far.kthvalue(max(1, int(_NEAR_SHARE * far.numel()))).values
        self.near_weights.append(size.flatten()[near].mean())
        self.weights.append(size.mean())

    @property
    def jumps(self) -> bool:
        """Whether a threshold makes the answer jump; True for other operators."""
        if not self.weights:
            return True
        near, everywhere = (
            float(torch.stack(weights).sum()) for weights in (self.near_weights, self.weights)
        )
        return near >= MIN_JUMP_SHARE * everywhere


def scan_operators(
    classifier: Classifier, images: Tensor, labels: Tensor, stream: RandomStream
) -> OperatorScan:
    """Find the operators that need surrogates in a model's forward pass.

    Args:
        classifier: In evaluation mode; the open counter counts the passes.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        stream: The images' random numbers.
    """
    records: dict[tuple[str, str], _Record] = {}
    scripted: list[str] = []

    def record_operator(path: str, operator: str, result: Tensor, distance: Tensor | None) -> None:
        record = records.setdefault((path, operator), _Record())
        record.count += 1
        if operator == "gradient hook":  # noted in the backward pass, when it has changed a gradient
            record.is_influential = True
        elif result.requires_grad:
            result.register_hook(lambda slopes: record.add_slopes(slopes, distance))  # type: ignore[no-untyped-call]

    model = SurrogateModel(
        find_innermost(classifier).model,
        selects=lambda _path, operator: operator not in GENTLE_OPERATORS,
        record=record_operator,
        record_stair=scripted.append,
    )
    twin = share_account(replace_model(classifier, model), classifier)
    gradient, error = None, ""
    with fix_draws(twin, stream) as seed_draws:
        seed_draws()
        try:
            gradient = twin.compute_gradient(images, lambda logits: compute_margin(logits, labels))[2]
        except ModelError as problem:
            error = problem.what
    operators = tuple(
        OperatorFinding(path=path, operator=operator, count=max(1, record.count // model.runs))
        for (path, operator), record in records.items()
        if record.is_influential and record.jumps
    )
    operators += tuple(
        OperatorFinding(path="", operator=operator, count=scripted.count(operator))
        for operator in dict.fromkeys(scripted)
    )
    selections = tuple(
        OperatorFinding(path=path, operator=name, count=model.selections.count((path, name)))
        for path, name in dict.fromkeys(model.selections)
    )
    return OperatorScan(operators, gradient, selections, model.autograd_calls > 0, error)
