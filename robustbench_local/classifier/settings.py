"""Settings of how a classifier is used, as distinct from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustbench_local.classifier.consistency import Consistency
from robustbench_local.classifier.literals import Precision


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """Settings of how a classifier is used; none of them is part of its identity."""

    batch_size: int | None = None
    """Images that an attack gives it at a time; None leaves it to the attack. No influence on verdicts."""
    search_precision: Precision = "fp32"
    """``"fp32"``, or ``"bf16"`` for searches that are faster and miss a few successes on robust networks;
    successes are confirmed in float32, and so are all verdicts."""
    compile_steps: bool = False
    """Whether attacks compile their own step with ``torch.compile``: worth a minute's wait in long runs on a
    GPU. No influence on verdicts."""
    min_batch_size: int = 1
    """Images that the model is given at least: where it is 2, a single one is given twice."""
    fixed_batch_size: int | None = None
    """Images that the model itself is given at a time, exactly: fewer are filled up by repeating them. None
    unless its answers depend on the batch and the user allowed that."""
    is_fork_safe: bool = True
    """Whether it works in a copy of this process; not where it has threads of its own."""
    uses_fresh_copies: bool = False
    """Whether every call asks a fresh copy of the model, because it remembers what it was asked."""
    consistency: Consistency = field(default_factory=Consistency)
    """How far an answer is the image's own."""
