"""The records of a run: cells, outcomes, events. Data without behavior beyond counting."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

CellStatus = Literal["pending", "running", "done", "stopped", "partial", "error", "timeout", "skipped"]
OutcomeStatus = Literal["ok", "clean-wrong", "non-finite", "rejected", "void", "error"]
SearchPhase = Literal["", "transfer", "search", "finish"]
Condition = Literal["clean", "sticker", "no-size", "random-colours", "without-views", "whole-sign"]
"""What is on a sign in a view: nothing, the result of the attack (a sticker, or a patch beside the sign), or
one of the controls."""
ViewKind = Literal["view", "approach"]
"""``view``: independent draws. ``approach``: the frames of one drive-by, in order."""
BLACK_BOX_STAGES = frozenset({"square", "square restarts"})
"""Stages of ensembles that use only scores, although the ensemble as a whole needs gradients."""
AUTOATTACK_STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
"""Stages of the standard AutoAttack, which an adaptive attack has too."""
MISSING_GRADIENT_SHARE = 0.5
"""Share of gradient steps with zero or unconfirmed gradients from which on a gradient attack counts as having
had no usable gradients."""
MIN_CLEAN_SHARE = 0.95
"""Share of clean views in which a sign must be classified correctly; below it the sign is void."""


@dataclass(frozen=True, kw_only=True)
class OutcomeRecord:
    """The outcome for one image in one cell (trust invariant V15); distances in pixel units of [0, 1]."""

    cell: str
    """Key of the cell."""
    position: int
    """Position of the image in the cell's canonical order, from 0."""
    image: str
    """Id of the image in its data set."""
    label: int
    """True class index."""
    clean_prediction: int | None
    """Predicted class of the clean image; None if the model's output is not finite. In a certificate's cell:
    the prediction that the certificate is about; None if it abstains."""
    adversarial_prediction: int | None
    """Predicted class of the verified candidate; the clean prediction if there is no valid candidate."""
    clean_correct: bool
    """The clean image is classified correctly, with a strictly largest logit; in a cell with views, also in
    nearly all of its clean views."""
    broken: bool
    """The attack succeeded: the image was clean-correct and a verified candidate reached the attacker's goal
    or made the model's output non-finite. In a cell with views: the goal was reached in more than half of the
    views in which the clean sign is classified correctly; a non-finite output never reaches it."""
    moved_elsewhere: bool
    """Targeted goals only: whether the candidate is misclassified as a class that is no target. It never
    counts as success."""
    margin: float | None
    """Logit of the label minus the largest other logit, on the verified candidate; in a certificate's cell
    the certified lower bound of it in the whole ball."""
    fragile: bool
    """|margin| is below 1e-4 of the range of the logits: floating-point noise may flip the verdict."""
    linf: float
    """Linf norm of the perturbation."""
    l2: float
    """L2 norm of the perturbation."""
    l1: float
    """L1 norm of the perturbation."""
    broken_8bit: bool | None
    """The attack also succeeds after rounding the candidate to 8 bits inside the ball; None if not broken, or
    if the original is not on the 8-bit grid and the ball contains no grid point."""
    forward_passes: int
    """Forward passes that attack and harness spent on this image; a transfer attack spends its own on the
    surrogate."""
    backward_passes: int
    """Backward passes, likewise."""
    seconds: float
    """The image's share of its batch's wall time, in seconds."""
    status: OutcomeStatus
    """``ok``; ``clean-wrong`` (not attacked); ``non-finite`` (NaN or infinite logits, counted as not robust);
    ``rejected`` (the attack's candidate broke a rule and was discarded); ``void`` (a sign that is classified
    correctly in too few of its clean views, without a verdict); ``error``."""
    error: str | None = None
    """Reason, in one line, for the status ``rejected``, ``non-finite``, ``void`` or ``error``; in a cell with
    views also the controls that broke a rule."""
    original_hash: str = ""
    """SHA-256 (first 16 hex digits) of the original image."""
    adversarial_hash: str = ""
    """SHA-256 (first 16 hex digits) of the verified candidate."""
    certified: bool | None = None
    """The image is certified: the prediction is the label for the whole ball. None without a certificate."""
    radius: float | None = None
    """Certified radius of the prediction, in the norm of the threat model; 0 if nothing is certified, None
    without a certificate or if the method gives no radius."""
    abstained: bool = False
    """The certificate makes no prediction for this image; or the model, which may reject images, rejects the
    last one: the clean image if that is misclassified, else the candidate."""
    stage: str = ""
    """The stage of an ensemble that found the successful candidate, e.g. ``apgd-t``; empty if there is none,
    if the attack has no stages, and in runs older than this field."""
    gradient_steps: int = 0
    """Gradients computed by the attack for this image; for another library's attack the image's share."""
    nonfinite_gradient_entries: int = 0
    """NaN or infinite entries of those gradients, summed over the steps, before any repair."""
    nonfinite_gradient_steps: int = 0
    """Gradients with such entries."""
    zero_gradient_steps: int = 0
    """Gradients that were exactly zero, after any repair."""
    unconfirmed_gradient_steps: int = 0
    """Repaired nonzero gradients that a finite difference of the loss does not confirm."""
    l0: float = math.nan
    """Number of changed pixels, all channels of a pixel together; NaN in runs older than this field."""
    draws: int = 0
    """Independent answers of a model with random answers to the verified candidate; 0 if its answers are not
    random, and in runs older than this field."""
    successful_draws: int = 0
    """Those of them that reach the attacker's goal or are not finite: each would be a success by itself,
    while ``broken`` is about the model's answer over all draws."""
    broken_fixed_draw: bool | None = None
    """The attack also succeeds if attacker and harness see one fixed draw of the model's random numbers; None
    if it was not tried, and in runs older than this field."""
    twin_clean_prediction: int | None = None
    """Predicted class of the clean image by the model's float twin; None without a twin, or if its output is
    not finite. The other fields are about the model itself, unless they name the twin."""
    twin_clean_correct: bool | None = None
    """The twin classifies the clean image correctly; None without a twin."""
    twin_prediction: int | None = None
    """The twin's prediction on the verified candidate of the model; None as for the clean image."""
    twin_broken: bool | None = None
    """The twin classifies the clean image correctly, and the attack on the twin itself or the candidate of
    the model reaches the attacker's goal on it; None without a twin."""
    clean_difference: float | None = None
    """Largest absolute difference between an output of the model and of its twin on the clean image: of
    logits, or of probabilities if the model returns those; None without a twin, or if it returns labels."""
    adversarial_difference: float | None = None
    """The same on the verified candidate."""
    twin_forward_passes: int = 0
    """Forward passes on the twin, which are no part of ``forward_passes``."""
    twin_backward_passes: int = 0
    """Backward passes on the twin, which are no part of ``backward_passes``."""
    search_phase: SearchPhase = ""
    """With a twin, the phase that found the successful candidate: ``transfer`` (the candidate for the twin
    itself), ``search`` (on gradients of the twin and answers of the model) or ``finish`` (queries of the
    model alone). Empty otherwise, and for an attack without gradients."""

    @property
    def has_missing_gradients(self) -> bool:
        """True if half or more of the gradients were zero or unconfirmed."""
        missing = self.zero_gradient_steps + self.unconfirmed_gradient_steps
        return missing > 0 and missing >= MISSING_GRADIENT_SHARE * self.gradient_steps


@dataclass(frozen=True, kw_only=True)
class SurfaceRecord:
    """The surface for the stickers of a cell and its size: means over the cell's images."""

    what: str
    """Description that follows "on", e.g. ``the mask 'rect'``."""
    pixels: float
    """Number of pixels of the surface."""
    covered: float
    """Number of pixels that a sticker may cover."""
    image_pixels: int
    """Number of pixels of an image."""

    @property
    def coverable_share(self) -> float:
        """The area that a sticker may cover, as a share of the image."""
        return self.covered / self.image_pixels


@dataclass(frozen=True, kw_only=True)
class CellRecord:
    """One cell of the grid: (model, defense, threat model, attack or certificate) on one data set."""

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
    """``Linf``, ``L2`` or ``L1``; or a family without a norm, such as ``spatial`` or ``corruption``."""
    eps: float
    """Radius in pixel units of [0, 1]; largest angle in degrees (spatial); severity 1 to 5 (corruption)."""
    threat: str
    """Short name of the threat model, e.g. ``linf-8``, ``spatial-30`` or ``fog-3``; gates refer to it."""
    goal: str
    """``untargeted`` or ``targeted``."""
    targets: tuple[int, ...] = ()
    """Target classes."""
    sources: tuple[int, ...] = ()
    """Classes whose images belong to the cell; empty means all."""
    images: int = 0
    """Number of images in the cell."""
    excluded: int = 0
    """Images excluded by the goal (their label is a target, or not a source class)."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """The attack's class name and all hyperparameters."""
    identity: dict[str, str] = field(default_factory=dict)
    """The parts of the key: model, data, attack, threat, seed, code."""
    note: str = ""
    """Remark for the reader about this cell's method, in one line."""
    status: CellStatus = "pending"
    """State of the cell."""
    error: str | None = None
    """Reason, in one line, for the status ``stopped``, ``error``, ``timeout``, ``partial`` or ``skipped``."""
    knowledge: str = "white-box"
    """The attacker's knowledge of the attacked model: ``white-box``, ``scores``, ``labels``, ``transfer``
    (another model) or ``naive`` (the model without its defense)."""
    surrogate: str | None = None
    """Id of the surrogate model of the attack if the knowledge is ``transfer``."""
    measure: str = "ball"
    """``ball``: any candidate within eps counts; ``distance``: the attack seeks the nearest candidate, so
    that each image has its own radius; ``certificate``: a certificate instead of an attack; ``views``: one
    candidate for all views of a sign, with the prediction of every view."""
    concerns: str = "model"
    """Subject of a certificate: ``model``, or ``smoothed`` (the model's majority vote under noise)."""
    alpha: float = 0.0
    """Error probability of a certificate for each image."""
    surface: SurfaceRecord | None = None
    """Surface for the sticker; None without one and in runs older than this field."""
    twin: str | None = None
    """The float twin of the model: the id of a model of the grid or a source; None without one."""


@dataclass(frozen=True, kw_only=True)
class AdaptationRecord:
    """The adaptation of a cell's attack to its model, made once before the first batch."""

    description: dict[str, Any] = field(default_factory=dict)
    """What the attack found and which steps it composed, as JSON values; empty if it is unadapted."""
    images: int = 0
    """Number of correctly classified images that it was made on."""
    forward_passes: int = 0
    """Forward passes of the adaptation, over all images, with those that chose the images."""
    backward_passes: int = 0
    """Backward passes, likewise."""
    problem: str = ""
    """Reason, in one line, why the attack runs unadapted; empty if it is adapted."""


@dataclass(frozen=True, kw_only=True)
class ViewPredictionsRecord:
    """The classifier's predictions for one sign, under one condition, in each view of one kind."""

    cell: str
    """Key of the cell."""
    position: int
    """Position of the sign in the cell."""
    condition: Condition
    """What is on the sign."""
    kind: ViewKind
    """Kind of the views."""
    predictions: tuple[int | None, ...]
    """Predicted class in each view; None if the model's output is not finite. Empty if a control broke a rule
    of the harness; the outcome's ``error`` has the reason."""
    confidences: tuple[float | None, ...]
    """Softmax probability of that class, to four digits."""


@dataclass(frozen=True, kw_only=True)
class ViewRecord:
    """The camera's position for each view of a sign of one kind: the same under every condition."""

    cell: str
    """Key of the cell."""
    position: int
    """Position of the sign in the cell."""
    kind: ViewKind
    """Kind of the views."""
    distance: tuple[float, ...]
    """Size of the sign in the camera's image, in pixels; larger is nearer."""
    yaw: tuple[float, ...]
    """Horizontal viewing angle, in degrees."""
    pitch: tuple[float, ...]
    """Vertical viewing angle, in degrees."""
    roll: tuple[float, ...]
    """Rotation in the image plane, in degrees."""


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """A notable event that is not an outcome: a halved batch, a taken-over lock, a resume."""

    time: str
    """UTC, ISO 8601."""
    level: Literal["info", "warning", "error"]
    """Severity."""
    message: str
    """One line."""
    cell: str | None = None
    """Key of the cell concerned."""


@dataclass(frozen=True, kw_only=True)
class OutcomeCounts:
    """Counts over the outcomes of a cell, with the denominators of trust invariant V5."""

    n: int
    """All images, including misclassified ones and errors: the denominator of robust accuracy."""
    clean_correct: int
    """Clean images classified correctly: the denominator of the attack success rate."""
    broken: int
    """Clean-correct images with a successful attack."""
    robust: int
    """Clean-correct, not broken, without an error, and certified if there is a certificate."""
    broken_8bit: int
    """Broken, also after rounding to 8 bits."""
    moved_elsewhere: int
    """Images whose prediction changed, but not to a target (targeted goals)."""
    fragile: int
    """Verdicts within floating-point noise of the decision boundary."""
    rejected: int
    """Candidates that broke a rule of the harness."""
    non_finite: int
    """Images on which the model's output was NaN or infinite; never robust."""
    errors: int
    """Images on which the model or attack raised; never robust."""
    forward_passes: int
    """Sum over the images."""
    backward_passes: int
    """Sum over the images."""
    seconds: float
    """Sum over the images."""
    certified: int
    """Images whose correct prediction is certified for the whole ball."""
    abstained: int
    """Images for which a certificate makes no prediction."""
    nonfinite_gradients: int = 0
    """Images for which some gradient had NaN or infinite entries."""
    rejected_clean: int = 0
    """Clean images that the model rejects; they are not classified correctly."""
    rejected_adversarial: int = 0
    """Clean-correct images whose last candidate the model rejects; not a success of the attack."""
    missing_gradients: int = 0
    """Images for which half or more of the gradients were zero or, after repair, unconfirmed."""

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        """Add the counts of two sets of images, which must not overlap."""
        names = [entry.name for entry in fields(OutcomeCounts)]
        return OutcomeCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})


def count_outcomes(outcomes: Iterable[OutcomeRecord]) -> OutcomeCounts:
    """Count outcomes; an empty cell has only zeros."""
    rows = list(outcomes)
    return OutcomeCounts(
        n=len(rows),
        clean_correct=sum(row.clean_correct for row in rows),
        broken=sum(row.broken for row in rows),
        robust=sum(is_robust(row) for row in rows),
        broken_8bit=sum(bool(row.broken_8bit) for row in rows),
        moved_elsewhere=sum(row.moved_elsewhere for row in rows),
        fragile=sum(row.fragile for row in rows),
        rejected=sum(row.status == "rejected" for row in rows),
        non_finite=sum(row.status == "non-finite" for row in rows),
        errors=sum(row.status == "error" for row in rows),
        forward_passes=sum(row.forward_passes for row in rows),
        backward_passes=sum(row.backward_passes for row in rows),
        seconds=math.fsum(row.seconds for row in rows),  # exact in every version of Python
        certified=sum(bool(row.certified) for row in rows),
        abstained=sum(row.abstained for row in rows),
        nonfinite_gradients=sum(row.nonfinite_gradient_steps > 0 for row in rows),
        rejected_clean=sum(row.abstained and row.status == "clean-wrong" for row in rows),
        rejected_adversarial=sum(row.abstained and row.clean_correct for row in rows),
        missing_gradients=sum(row.has_missing_gradients for row in rows),
    )


def is_robust(row: OutcomeRecord) -> bool:
    """Return True if the image is robust; a failed certificate means that it is not."""
    is_correct = row.clean_correct and not row.broken and row.status != "error"
    return is_correct and row.certified is not False
