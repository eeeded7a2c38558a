"""Models that may reject an image: how a grid or a program declares it.

The tensors of such a model are in ``abstention.py``. This file imports no torch: grids are read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robustbench_local.errors import ConfigError

AbstentionKind = Literal["class", "nan", "entry"]
DEFAULT_ACCEPT_THRESHOLD = 0.5
"""Value from which on an accepting score accepts."""


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """How a model says that it rejects an image."""

    kind: AbstentionKind
    """``"class"``: an output of its own. ``"nan"``: logits that are all NaN. ``"entry"``: an entry of the
    answer, which holds booleans or scores."""
    index: int = -1
    """The output that rejects; -1: the last one."""
    entry: str | int = 1
    """The entry of the answer with one value an image: true, or at least ``threshold``, where the image is
    accepted."""
    threshold: float = DEFAULT_ACCEPT_THRESHOLD
    """Smallest accepting score."""

    @property
    def extra_outputs(self) -> int:
        """Number of outputs of the model beyond its classes."""
        return 1 if self.kind == "class" else 0


AbstainDeclaration = str | int | Mapping[str, Any] | Abstention
"""``"last"``, the index of an output, ``"nan"``, or ``{"output": ENTRY, "threshold": 0.5}``."""


def parse_abstention(declared: AbstainDeclaration | None) -> Abstention | None:
    """Parse a declaration, see `AbstainDeclaration`.

    Raises:
        ConfigError: If it is none of these.
    """
    if declared is None or isinstance(declared, Abstention):
        return declared
    if declared == "last":
        return Abstention(kind="class")
    if declared == "nan":
        return Abstention(kind="nan")
    if isinstance(declared, int) and not isinstance(declared, bool) and declared >= 0:
        return Abstention(kind="class", index=declared)
    if isinstance(declared, Mapping) and set(declared) in ({"output"}, {"output", "threshold"}):
        threshold = declared.get("threshold", DEFAULT_ACCEPT_THRESHOLD)
        if isinstance(declared["output"], str | int) and isinstance(threshold, int | float):
            return Abstention(kind="entry", entry=declared["output"], threshold=float(threshold))
    raise ConfigError(
        f"cannot read abstain: {declared!r}",
        remedy="write last, the index of the rejecting output, nan, or {output: ENTRY, threshold: 0.5}",
    )


def check_rejecting_index(abstention: Abstention | None, num_classes: int, name: str) -> None:
    """Refuse a rejecting output beyond the outputs of a model with one more output than classes.

    Raises:
        ConfigError: If the model has no such output.
    """
    if abstention is not None and abstention.kind == "class" and abstention.index > num_classes:
        raise ConfigError(
            f"abstain: {abstention.index} is no output of a model with {num_classes} classes and one output "
            "that rejects",
            where=name,
            remedy=f"write last, or an index of 0 to {num_classes}",
        )
