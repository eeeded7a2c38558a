"""Settings of how a classifier is used, as distinct from what it computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from robustbench_local.classifier.consistency import Consistency
from robustbench_local.classifier.literals import Precision


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """Settings of how a classifier is used; none of them is part of its identity."""

    batch_size: int | None = None
    """Batch size of attacks; None leaves it to the attack. No influence on verdicts."""
    search_precision: Precision = "fp32"
    """``"fp32"``, or ``"bf16"`` for searches that are faster and miss a few successes on robust networks;
    successes are confirmed in float32, and so are all verdicts."""
    compile_steps: bool = False
    """Whether attacks compile their own step with ``torch.compile``: worth a minute's wait in long runs on a
    GPU. No influence on verdicts."""
    min_batch_size: int = 1
    """Minimum batch size of the model: where it is 2, a single image is passed twice."""
    fixed_batch_size: int | None = None
    """Exact batch size of the model: smaller batches are filled up by repeating images. None unless its
    answers depend on the batch, and the user allowed that or it is 1."""
    is_fork_safe: bool = True
    """Whether it works in a fork of this process; not where it has threads of its own."""
    uses_fresh_copies: bool = False
    """Whether every call uses a fresh copy of the model, because it remembers its queries."""
    consistency: Consistency = field(default_factory=Consistency)
    """The degree to which an answer depends on its image alone."""
