"""A quick check of a model: the few passes that a sound network which is not robust can afford."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from robustbench_local.attacks.adaptive.gradient_views import build_view
from robustbench_local.attacks.adaptive.rank_rules import CHOSEN_SCORES
from robustbench_local.attacks.adaptive.view_spec import ViewSpec
from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.objective import build_objective
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ModelError
from robustbench_local.threats.lp_ball import compute_steepest_step

QUICK_STEPS = 20
"""Steps of APGD on the cross-entropy."""
STEP_SHARE = 1 / 100
"""Length of the step along which the slope is compared, as a share of the radius."""
MAX_SLOPE_ERROR = 0.3
"""Largest relative error of the predicted change of the margin along the gradient."""
MIN_COURSE_COSINE = 0.9
"""Smallest cosine of the gradient with the one through mean slopes.

Measured: at least .99 on sound networks, at most .66 on networks with steep, rippled or jumping functions,
.57 to .77 on ensembles that choose a score by rank."""
COURSE_IMAGES = 2
"""Images on which the two are compared."""
COURSE_WIDTH = 0.1
"""Half the length of the interval of the mean slopes, in standard deviations of a function's input."""
STEEP_DOUBT = "its functions have other slopes over an interval"
"""The doubt about gradients that are correct, but only at a point."""
MAX_REPEAT_DIFFERENCE = 1e-4
"""Largest difference of two answers to the same images, as a share of the logits' range."""


@dataclass(frozen=True, kw_only=True)
class QuickCheck:
    """The result of a quick check."""

    broken: Tensor
    """(N,) boolean: APGD succeeded within a few steps."""
    doubts: tuple[str, ...] = ()
    """Reasons why the model needs an inspection, in a few words each."""

    @property
    def is_steep(self) -> bool:
        """Whether functions inside are so steep, rippled or flat that their slopes say little."""
        return STEEP_DOUBT in self.doubts

    @property
    def is_sound(self) -> bool:
        """Whether every image is broken and nothing speaks against the gradients."""
        return bool(self.broken.all()) and not self.doubts


def check_quickly(inputs: AttackInputs) -> QuickCheck:
    """Compare each gradient with two answers along it, and attack the images for a few steps.

    Args:
        inputs: The model, correctly classified images, and the threat model.

    Returns:
        The result; the slowest networks cost 4 passes and twice the steps per image, and 3 passes for each of
        two images more.
    """
    nothing = torch.zeros(len(inputs.images), dtype=torch.bool, device=inputs.images.device)
    if inputs.classifier.access != "gradients":
        return QuickCheck(broken=nothing, doubts=("no gradients",))
    try:
        doubts = _check_slopes(inputs)
        engine = Engine.from_inputs(inputs)
        search = build_apgd_search(threat=inputs.threat, steps=QUICK_STEPS, loss="ce", name="quick check")
        engine.run(search, engine.build_items())
    except ModelError as failure:
        return QuickCheck(broken=nothing, doubts=(failure.what,))
    return QuickCheck(broken=engine.finished, doubts=doubts)


def _check_slopes(inputs: AttackInputs) -> tuple[str, ...]:
    """Return the reasons to doubt the gradients of the margin, with the images as they are."""
    images, threat, model = inputs.images, inputs.threat, inputs.classifier
    margin = build_objective("margin", threat, inputs.labels)
    logits, _, gradient = model.compute_gradient(images, margin)
    if inputs.masks is not None:
        gradient = gradient * inputs.masks
    step = STEP_SHARE * threat.eps * compute_steepest_step(gradient, threat.norm)
    ahead, behind = (images + step).clamp(0, 1), (images - step).clamp(0, 1)
    with torch.no_grad():
        change = margin(model(ahead)) - margin(model(behind))
    predicted = (gradient * (ahead - behind)).flatten(1).sum(dim=1)
    low, high = logits.aminmax(dim=1)
    is_wrong = ~((change - predicted).abs() <= MAX_SLOPE_ERROR * predicted)  # NaN and zero slopes are wrong
    doubts = []
    if bool(is_wrong.any()):
        doubts.append(
            f"the slope along the gradient is wrong on {format_count(int(is_wrong.sum()), 'image')}"
        )
    if bool((torch.softmax(logits, dim=1).amax(dim=1) == 1).any()):
        doubts.append("the softmax is saturated")
    with torch.no_grad():
        again = model(images[:1])
    if not bool((again - logits[:1]).abs().amax() <= MAX_REPEAT_DIFFERENCE * (high - low)[0]):
        doubts.append("another answer to the same image")
    elif _has_steep_functions(inputs, gradient):
        doubts.append(STEEP_DOUBT)
    return tuple(doubts)


def _has_steep_functions(inputs: AttackInputs, gradient: Tensor) -> bool:
    """Compare gradients of the margin with those through mean slopes; False where there are none."""
    spec = ViewSpec(kind="wide", label="mean slopes", width=COURSE_WIDTH, operators=(CHOSEN_SCORES,))
    images, labels = inputs.images[:COURSE_IMAGES], inputs.labels[:COURSE_IMAGES]
    margin = build_objective("margin", inputs.threat, labels)
    try:
        _, _, course = build_view(inputs.classifier, spec).compute_gradient(images, margin)
    except ModelError:
        return False
    own, wide = (values.flatten(1).double() for values in (gradient[: len(images)], course))
    if inputs.masks is not None:
        wide = wide * inputs.masks[: len(images)].expand(images.shape).flatten(1)
    return bool((functional.cosine_similarity(own, wide, dim=1) < MIN_COURSE_COSINE).any())
