"""What a run remembers: cells, outcomes, events. Plain data, no behaviour beyond counting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

CellStatus = Literal["pending", "running", "done", "partial", "error", "timeout", "skipped"]
OutcomeStatus = Literal["ok", "clean-wrong", "non-finite", "rejected", "void", "error"]
Condition = Literal["clean", "sticker", "no-size", "random-colours", "without-views", "whole-sign"]
"""What a sign has on it when it is looked at: nothing, what the attack made (a sticker, or a patch beside
it), or one of the controls."""
ViewKind = Literal["view", "approach"]
"""``view``: independent draws. ``approach``: the frames of one drive-by, in their order."""
BLACK_BOX_STAGES = frozenset({"square"})
"""Stages of ensembles that see only scores, although the ensemble as a whole needs gradients."""
MISSING_GRADIENT_SHARE = 0.5
"""Share of the looks at gradients that may be zero or unconfirmed before an attack that follows them counts
as one that had nothing to follow."""
MIN_CLEAN_SHARE = 0.95
"""Share of its clean views in which a sign has to be classified correctly; below it the sign is void."""


@dataclass(frozen=True, kw_only=True)
class OutcomeRecord:
    """What happened to one image in one cell (trust invariant V15); distances in pixel units of [0, 1]."""

    cell: str
    """Key of the cell."""
    position: int
    """Number of the image in the cell's canonical order, from 0."""
    image: str
    """Id of the image in its data set."""
    label: int
    """True class index."""
    clean_prediction: int | None
    """Class predicted without an attack; None if the output was not finite. In a certificate's cell the
    prediction that the certificate is about; None if it abstains."""
    adversarial_prediction: int | None
    """Class predicted for the verified candidate; the clean prediction if there is no valid candidate."""
    clean_correct: bool
    """Whether the image is correctly classified without an attack, with a strictly largest logit. Stickers:
    in nearly all clean views as well."""
    broken: bool
    """Whether the image is correctly classified without an attack and a verified candidate reached the
    attacker's goal or made the output non-finite. Stickers: more than half of the views whose clean sign is
    correctly classified reached the goal, which a non-finite output never does."""
    moved_elsewhere: bool
    """Targeted goals only: whether the candidate is misclassified as a class that is no target. It never
    counts as success."""
    margin: float | None
    """Logit of the label minus the largest other logit, on the verified candidate; empty if it is not finite.
    In a certificate's cell a lower bound of it in the whole ball."""
    fragile: bool
    """Whether the margin is below 1e-4 of the range of the logits: rounding may change the verdict."""
    linf: float
    """Linf norm of the change."""
    l2: float
    """L2 norm of the change."""
    l1: float
    """L1 norm of the change."""
    broken_8bit: bool | None
    """Whether an 8-bit image inside the ball succeeds as well: the rounded candidate, or one that was found
    by searching on from it. Empty if the image is not broken or its ball holds no 8-bit image."""
    forward_passes: int
    """Forward passes that attack and harness spent on this image; a transfer attack spends its own on the
    surrogate."""
    backward_passes: int
    """Backward passes, likewise."""
    seconds: float
    """The image's share of its batch's wall time."""
    status: OutcomeStatus
    """``ok``; ``clean-wrong`` (misclassified without an attack, so not attacked); ``non-finite`` (NaN or
    infinite logits, not robust); ``rejected`` (the candidate broke a rule and was discarded); ``void`` (a
    sign that is misclassified in too many clean views and does not count); ``error``."""
    error: str | None = None
    """The reason in one line, for the status ``rejected``, ``non-finite``, ``void`` or ``error``. Stickers:
    also which controls broke a rule."""
    original_hash: str = ""
    """SHA-256 (first 16 hex digits) of the original image."""
    adversarial_hash: str = ""
    """SHA-256 (first 16 hex digits) of the verified candidate."""
    certified: bool | None = None
    """Whether the image is certified: the prediction is the label, and nothing in the ball changes it. Empty
    where no certificate was computed. In an attack's row: certified, and therefore not attacked."""
    radius: float | None = None
    """Certified radius in the norm of the threat model; 0 where nothing is certified, empty where no
    certificate was computed or the method only says yes or no."""
    abstained: bool = False
    """Certificates only: whether the certificate makes no prediction for this image."""
    stage: str = ""
    """Stage of an ensemble that found the adversarial example, e.g. ``apgd-t``; empty if there is none or the
    attack has no stages."""
    gradient_steps: int = 0
    """Number of gradients that the attack used for this image; another library's attack: its share."""
    nonfinite_gradient_entries: int = 0
    """Entries of those gradients that were NaN or infinite before any repair, summed over all of them."""
    nonfinite_gradient_steps: int = 0
    """Number of gradients with such entries."""
    zero_gradient_steps: int = 0
    """Number of gradients that were exactly zero, after the repair if there was one."""
    unconfirmed_gradient_steps: int = 0
    """Number of repaired gradients, not zero, that a finite difference of the loss does not confirm."""

    @property
    def has_missing_gradients(self) -> bool:
        """Whether half or more of the looks at gradients showed nothing that an attack could follow."""
        missing = self.zero_gradient_steps + self.unconfirmed_gradient_steps
        return missing > 0 and missing >= MISSING_GRADIENT_SHARE * self.gradient_steps


@dataclass(frozen=True, kw_only=True)
class SurfaceRecord:
    """Where the stickers of a cell may be, and how much of the images that is: means over its images."""

    what: str
    """In words that follow "on", e.g. ``the mask 'rect'``."""
    pixels: float
    """Pixels of the surface."""
    covered: float
    """Pixels that a sticker may cover."""
    image_pixels: int
    """Pixels of an image."""

    @property
    def coverable_share(self) -> float:
        """What a sticker may cover, as a share of the image."""
        return self.covered / self.image_pixels


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One square of the grid: (model, defense, threat model, attack or certificate) on one data set."""

    key: str
    """SHA-256 over weights, data, resolved parameters, seed and code version."""
    position: int
    """Order in the grid, from 0."""
    model: str
    """Model id from the grid file."""
    defense: str
    """Defense name, or ``none``."""
    attack: str
    """Card name; with the eps when the grid overrides it."""
    card: str
    """Name of the card the attack comes from."""
    norm: str
    """``Linf``, ``L2`` or ``L1``; ``spatial`` or ``corruption``, which no norm measures."""
    eps: float
    """Radius in pixel units of [0, 1]; largest angle in degrees (spatial); severity 1 to 5 (corruption)."""
    threat: str
    """Short threat name, e.g. ``linf-8``, ``spatial-30`` or ``fog-3``; what gates refer to."""
    goal: str
    """``untargeted`` or ``targeted``."""
    targets: tuple[int, ...] = ()
    """Target classes."""
    sources: tuple[int, ...] = ()
    """Only images of these classes belong to the cell; empty: all."""
    images: int = 0
    """Number of images in the cell."""
    excluded: int = 0
    """Images of the data set that this goal does not apply to (their label is a target, or no source)."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The attack's class name and every hyper-parameter."""
    identity: dict[str, str] = field(default_factory=dict)
    """What the key was made of: model, data, attack, threat, seed, code."""
    note: str = ""
    """What a reader has to know about this cell's method, in one line."""
    status: CellStatus = "pending"
    """Where the cell stands."""
    error: str | None = None
    """Why, in one line, when the status is ``error``, ``timeout``, ``partial`` or ``skipped``."""
    knowledge: str = "white-box"
    """What the attacker saw of the attacked model: ``white-box``, ``scores``, ``labels``, ``transfer``
    (another model) or ``naive`` (the model without its defense)."""
    surrogate: str | None = None
    """Id of the model that the candidates were crafted on, when the knowledge is ``transfer``."""
    measure: str = "ball"
    """``ball``: any candidate within eps will do; ``distance``: the attack seeks the nearest candidate, so
    that the distance of each image is its own radius; ``certificate``: no attack, a proof is sought;
    ``views``: one candidate for all views of a sign, and every look at it is kept."""
    concerns: str = "model"
    """A certificate's cell: ``model``, or ``smoothed``: what is proven holds for the majority vote of the
    model under noise, not for the model itself."""
    alpha: float = 0.0
    """A certificate's cell: largest probability, for each image, that its verdict claims too much."""
    surface: SurfaceRecord | None = None
    """A sticker's cell: where it may be; None in runs made before this was recorded."""


@dataclass(frozen=True, kw_only=True)
class ViewPredictionsRecord:
    """What the classifier read of one sign, under one condition, in each view of one kind."""

    cell: str
    """Key of the cell."""
    position: int
    """Number of the sign in the cell."""
    condition: Condition
    """What is on the sign: ``clean``, ``sticker`` (also a patch), or a control: ``no-size``, ``random-
    colours``, ``without-views``, ``whole-sign``."""
    kind: ViewKind
    """``view`` (independent views) or ``approach`` (frames of a simulated drive)."""
    predictions: tuple[int | None, ...]
    """Class predicted in each view; None if the output was not finite. Empty if a control broke a rule of the
    harness; the outcome's ``error`` says why."""
    confidences: tuple[float | None, ...]
    """Softmax probability of that class, to four digits."""


@dataclass(frozen=True, kw_only=True)
class ViewRecord:
    """Where a sign is seen from, in each of its views of one kind: the same under every condition."""

    cell: str
    """Key of the cell."""
    position: int
    """Number of the sign in the cell."""
    kind: ViewKind
    """``view`` or ``approach``."""
    distance: tuple[float, ...]
    """Size of the sign as the camera resolves it, in pixels: larger is nearer."""
    yaw: tuple[float, ...]
    """Horizontal viewing angle in degrees."""
    pitch: tuple[float, ...]
    """Vertical viewing angle in degrees."""
    roll: tuple[float, ...]
    """Rotation in the image plane in degrees."""


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """Something worth telling that is not an outcome: a halved batch, a taken-over lock, a resume."""

    time: str
    """UTC, ISO 8601."""
    level: Literal["info", "warning", "error"]
    """How much it matters."""
    message: str
    """One line."""
    cell: str | None = None
    """Key of the cell concerned."""


@dataclass(frozen=True, kw_only=True)
class OutcomeCounts:
    """Counts over the outcomes of a cell, with the denominators of trust invariant V5."""

    n: int
    """All images, clean mistakes and errors included: the denominator of robust accuracy."""
    clean_correct: int
    """Read as their label clean: the denominator of attack success."""
    broken: int
    """Clean-correct and then broken."""
    robust: int
    """Clean-correct, not broken, without an error, and proven where a proof was sought."""
    broken_8bit: int
    """Broken, and still so after rounding to 8 bits."""
    moved_elsewhere: int
    """Label changed to something that was not a target (targeted goals)."""
    fragile: int
    """Verdicts within floating-point noise of the boundary."""
    rejected: int
    """Candidates that broke a rule of the harness."""
    non_finite: int
    """Images on which the model's answer was NaN or infinite; never robust."""
    errors: int
    """Images on which the model or attack raised; never robust."""
    forward_passes: int
    """Sum over the images."""
    backward_passes: int
    """Sum over the images."""
    seconds: float
    """Sum over the images."""
    certified: int
    """Images for which it is proven that nothing in the ball changes the right prediction."""
    abstained: int
    """Images for which a certificate makes no prediction."""
    nonfinite_gradients: int = 0
    """Images on which some gradient had entries that were NaN or infinite."""
    missing_gradients: int = 0
    """Images on which half or more of the gradients were zero or, once repaired, unconfirmed."""

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        """Counts over both sets of images, which must not overlap."""
        names = [entry.name for entry in fields(OutcomeCounts)]
        return OutcomeCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def count_outcomes(outcomes: Iterable[OutcomeRecord]) -> OutcomeCounts:
    """Count outcomes; an empty cell gives zeros everywhere."""
    rows = list(outcomes)
    return OutcomeCounts(
        n=len(rows),
        clean_correct=sum(row.clean_correct for row in rows),
        broken=sum(row.broken for row in rows),
        robust=sum(_is_robust(row) for row in rows),
        broken_8bit=sum(bool(row.broken_8bit) for row in rows),
        moved_elsewhere=sum(row.moved_elsewhere for row in rows),
        fragile=sum(row.fragile for row in rows),
        rejected=sum(row.status == "rejected" for row in rows),
        non_finite=sum(row.status == "non-finite" for row in rows),
        errors=sum(row.status == "error" for row in rows),
        forward_passes=sum(row.forward_passes for row in rows),
        backward_passes=sum(row.backward_passes for row in rows),
        seconds=math.fsum(row.seconds for row in rows),  # exact, whatever the version of Python sums by
        certified=sum(bool(row.certified) for row in rows),
        abstained=sum(row.abstained for row in rows),
        nonfinite_gradients=sum(row.nonfinite_gradient_steps > 0 for row in rows),
        missing_gradients=sum(row.has_missing_gradients for row in rows),
    )


def _is_robust(row: OutcomeRecord) -> bool:
    """Right to the end; a proof that was sought and not found is no robustness."""
    right = row.clean_correct and not row.broken and row.status != "error"
    return right and row.certified is not False
