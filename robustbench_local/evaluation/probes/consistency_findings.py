"""Findings of the consistency probe: whether a model's answer depends on the image alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robustbench_local.classifier import Access
from robustbench_local.classifier.model_call import SINGLE_ANSWERS_NOTE
from robustbench_local.evaluation.probes.answer_differences import (
    SAME_SHAPE_TOLERANCE,
    has_difference,
    measure_difference,
    measure_logit_range,
)
from robustbench_local.evaluation.probes.state_changes import format_names

ConsistencyKind = Literal["consistent", "company", "memory", "gradients"]


@dataclass(frozen=True, kw_only=True)
class ConsistencyResult:
    """The result of the consistency probe; it can be sent to another process."""

    kind: ConsistencyKind
    """``"company"``: answers depend on the other images of a batch, on its size or on the position in it.
    ``"memory"``: they depend on earlier queries. ``"gradients"``: they change while gradients are recorded,
    so that white-box attacks see another model than the one under test."""
    cause: str = ""
    """The inconsistency, in one line with the figure; empty if there is none."""
    difference: float = 0.0
    """Largest difference between two answers that should be the same."""
    logit_range: float = 0.0
    """The logits' range, as the scale of the difference."""
    notes: tuple[str, ...] = ()
    """Notes for a reader of the results that refuse nothing."""
    is_stateful: bool = False
    """Whether anything in the model besides its answers changes from call to call."""
    is_nondeterministic: bool = False
    """Whether answers to the same image vary by random numbers that no global seed repeats."""
    may_be_random: bool = False
    """Whether it draws random numbers, by whatever generator."""
    tolerance: float = SAME_SHAPE_TOLERANCE
    """Share of the logits' range by which its answers differ by rounding."""
    has_misleading_gradients: bool = False
    """Whether its gradients do not predict how its answers change; see `has_misleading_gradients`."""
    read_files: tuple[str, ...] = ()
    """Names of files that it both reads and writes while it answers."""
    queried_images: int = 0
    """Number of images in the queries, repetitions included, except for those of the last one."""

    @property
    def is_consistent(self) -> bool:
        """Whether an answer depends on its image alone."""
        return self.kind == "consistent"


class InconsistentError(Exception):
    """Ends the probe at the first inconsistency."""

    def __init__(self, result: ConsistencyResult) -> None:
        super().__init__(result.cause)
        self.result = result


@dataclass
class ConsistencyFindings:
    """The findings so far; an inconsistency ends the probe with an `InconsistentError`."""

    access: Access
    """Kind of the model's answers."""
    tolerance: float
    """Tolerance for batches of one size, with the image at the same position."""
    size_tolerance: float = SAME_SHAPE_TOLERANCE
    """Tolerance for batches of other sizes and positions."""
    queried_images: int = 0
    """Number of images in the queries."""
    notes: list[str] = field(default_factory=list)
    may_be_random: bool = False
    """Whether the forward draws from a global random state."""
    is_nondeterministic: bool = False
    """Whether answers vary for a reason that no seed controls."""
    has_own_generator: bool = False
    """Whether it draws from a generator that is part of the model."""
    is_stateful: bool = False
    has_misleading_gradients: bool = False
    read_files: tuple[str, ...] = ()
    batch_suspect: str = (
        "perhaps by a mean over dimension 0, batch norm in training mode inside forward, or attention"
    )
    """What may make an answer depend on the rest of its batch."""

    def refuse_batch_dependence(self, first: Tensor, second: Tensor, tolerance: float, what: str) -> None:
        """Raise if an image's answer depends on ``what`` of its batch."""
        if has_difference(first, second, tolerance):
            cause = (
                f"answers depend on {what} ({self._format_difference(first, second)}): {self.batch_suspect}"
            )
            raise InconsistentError(self.build_result("company", cause, first, second))

    def refuse_memory(self, first: Tensor, second: Tensor, when: str, changed: Collection[str]) -> None:
        """Raise if the same image gets another answer ``when`` something else was queried."""
        if has_difference(first, second, self.tolerance):
            difference = self._format_difference(first, second)
            cause = f"remembers: the same image gets another answer {when} ({difference})"
            if changed:
                cause = f"{cause}; {format_names(changed)} changed"
            raise InconsistentError(self.build_result("memory", cause, first, second))

    def refuse_grad_mode_dependence(self, silent: Tensor, recorded: Tensor, tolerance: float) -> None:
        """Raise if answers change while gradients are recorded."""
        if has_difference(silent, recorded, tolerance):
            cause = (
                f"answers differ while gradients are recorded ({self._format_difference(silent, recorded)}): "
            )
            cause = f"{cause}white-box attacks would work against another model than the one that is judged"
            raise InconsistentError(self.build_result("gradients", cause, silent, recorded))

    def note_variation(self, first: Tensor, second: Tensor) -> None:
        """Note that answers vary by chance."""
        self.is_nondeterministic = True
        self.notes.append(
            "answers differ from call to call by random numbers that no seed repeats "
            f"({self._format_difference(first, second)}): whether they depend on the other images of a batch "
            f"is not known; {SINGLE_ANSWERS_NOTE}"
        )

    def _format_difference(self, first: Tensor, second: Tensor) -> str:
        if self.access == "labels":
            return "labels differ"
        spread = measure_logit_range(torch.cat([first, second]))
        return f"logits differ by {measure_difference(first, second):.2g} of a range of {spread:.2g}"

    def build_result(
        self,
        kind: ConsistencyKind,
        cause: str = "",
        first: Tensor | None = None,
        second: Tensor | None = None,
    ) -> ConsistencyResult:
        """Return the findings so far."""
        compared = first is not None and second is not None
        return ConsistencyResult(
            kind=kind,
            cause=cause,
            difference=measure_difference(first, second) if compared else 0.0,  # type: ignore[arg-type]
            logit_range=measure_logit_range(torch.cat([first, second])) if compared else 0.0,  # type: ignore[list-item]
            notes=tuple(self.notes),
            is_stateful=self.is_stateful or kind == "memory",
            is_nondeterministic=self.is_nondeterministic or self.has_own_generator,
            may_be_random=self.may_be_random,
            has_misleading_gradients=self.has_misleading_gradients,
            read_files=self.read_files,
            tolerance=max(self.tolerance, self.size_tolerance),
            queried_images=self.queried_images,
        )
