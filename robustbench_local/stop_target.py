"""What a run that stops early wants to know of one model, what it knows, and what it runs next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from robustbench_local.sequential_decision import (
    CHUNK_SHARE,
    MIN_CHUNK_IMAGES,
    CountInterval,
    LimitTest,
    PhaseOutcomes,
    StopTest,
    build_phases,
    choose_extension,
    estimate_count,
    select_chunk,
)


class ImageMark(NamedTuple):
    """The outcome of one cell on one image."""

    correct: bool
    """Correctly classified without attack."""
    robust: bool
    """Correctly classified, and robust against the attack or proven by the certificate."""


Marks = Mapping[str, Mapping[str, ImageMark]]
"""Key of a cell -> image id -> its outcome."""


class NextWork(NamedTuple):
    """The chunk that a run does next."""

    cell: str
    """Key of the cell."""
    images: tuple[str, ...]
    """Ids of its images."""


@dataclass(frozen=True, kw_only=True)
class StopTarget:
    """A question about one model that a run stops for: a gate, or the precision of a worst case."""

    name: str
    """The question, for messages."""
    cells: tuple[str, ...]
    """Keys of the attack cells that answer it, cheap ones first."""
    costs: tuple[float, ...] = ()
    """Passes of each of them for an image."""
    proofs: tuple[str, ...] = ()
    """Keys of the certificates whose proofs answer it too."""
    proof_cost: float = 0.0
    """Passes of all certificates for an image."""
    order: tuple[str, ...] = ()
    """Ids of all images, in random order."""
    test: StopTest | None = None
    """The question; None if it needs every image."""
    counts_clean: bool = False
    """Whether it counts correctly classified clean images instead of robust ones."""
    obstacle: str = ""
    """Reason why part of the images cannot answer it; empty if they can."""

    def read_marks(self, marks: Marks) -> TargetState:
        """Return what outcomes say about the question."""
        return TargetState(target=self, marks=marks)


@dataclass(frozen=True)
class TargetState:
    """A question with the outcomes so far."""

    target: StopTarget
    marks: Marks

    @cached_property
    def outcomes(self) -> tuple[Mapping[str, bool], ...]:
        """For each attack: image id -> whether the image counts."""
        return tuple(
            {
                image: mark.correct if self.target.counts_clean else mark.robust
                for image, mark in self.marks.get(key, {}).items()
            }
            for key in self.target.cells
        )

    @cached_property
    def proven(self) -> frozenset[str]:
        """Ids of the images that a certificate has proven."""
        return frozenset(
            image
            for key in self.target.proofs
            for image, mark in self.marks.get(key, {}).items()
            if mark.robust
        )

    @cached_property
    def phases(self) -> tuple[PhaseOutcomes, ...]:
        """The attacks, arranged by the random order."""
        return build_phases(self.target.order, self.outcomes, self.target.costs, self.proven)

    @cached_property
    def proof_marks(self) -> tuple[bool, ...]:
        """For the first images of the order: whether each is proven; a successful attack settles it too."""
        marks: list[bool] = []
        for image in self.target.order if self.target.proofs else ():
            is_lost = any(known.get(image) is False for known in self.outcomes)
            is_tried = all(image in self.marks.get(key, {}) for key in self.target.proofs)
            if not (image in self.proven or is_lost or is_tried):
                break
            marks.append(image in self.proven)
        return tuple(marks)

    @cached_property
    def interval(self) -> CountInterval:
        """The interval of the number of images that count, valid at every moment of the run."""
        has_proofs = bool(self.target.proofs)
        return estimate_count(self.phases, len(self.target.order), self.proof_marks, has_proofs=has_proofs)

    @property
    def is_answered(self) -> bool:
        """Whether further images cannot change the answer."""
        return self.target.test is not None and self.target.test.is_met(self.interval)

    def choose_work(self) -> NextWork | None:
        """Return the next chunk; None if nothing is left to run for this question."""
        if self.target.test is None:
            return None
        if self.target.proofs and self._should_prove_ahead():
            size = len(self.proof_marks)
            work = self._find_unproven(
                self.target.order[: size + max(MIN_CHUNK_IMAGES, int(CHUNK_SHARE * size))]
            )
            if work is not None:
                return work
        extension = choose_extension(
            self.phases, len(self.target.order), self.target.test, has_proofs=bool(self.target.proofs)
        )
        if extension is None:
            return None
        number, prefix = extension
        images = select_chunk(self.target.order, self.outcomes, number, prefix, self.proven)
        if self.target.proofs and self.target.proof_cost <= self.phases[number].cost:
            work = self._find_unproven(images)
            if work is not None:
                return work
        return NextWork(self.target.cells[number], tuple(images))

    def _should_prove_ahead(self) -> bool:
        """Return whether certificates are expected to answer the question alone, at less than an attack."""
        size, target = len(self.proof_marks), self.target
        if size >= len(target.order) or target.proof_cost > max(target.costs, default=1.0):
            return False
        if size < MIN_CHUNK_IMAGES:
            return True
        expected = sum(self.proof_marks) / size * len(target.order)
        return isinstance(target.test, LimitTest) and expected >= target.test.above

    def _find_unproven(self, images: Sequence[str]) -> NextWork | None:
        """Return the first certificate that has not seen some of these images, which may still be robust."""
        open_images = [
            image
            for image in images
            if image not in self.proven and all(known.get(image, True) for known in self.outcomes)
        ]
        for key in self.target.proofs:
            unseen = tuple(image for image in open_images if image not in self.marks.get(key, {}))
            if unseen:
                return NextWork(key, unseen)
        return None
