"""D27: is the model better on images in another form than the one that it gets?"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    TOO_SMALL_REASON,
    Diagnostic,
    Reading,
    build_unread,
    capitalize_first,
)
from robustbench_local.evaluation.probes.form_comparison import MAX_FAMILY_CHANCE
from robustbench_local.store.preprocessing_record import PreprocessingCheck

MAX_CHANCE = 0.001
"""Chance of so many gains, among images whose answer becomes right or wrong, up to which another form is the
right one. Sound networks lose accuracy under every form; ten gains without a loss are the fewest that do."""
FIRST_IMAGES = 24
"""Images that every form is tried on, the least with which it is tried at all."""
MIN_IMAGES = 10
"""Images below which no gain is beyond chance."""
MIN_GAINS = 3
"""Gains among the first images from which on a form is tried on the others too."""
PASSES_SHARE = 0.20
"""Share of the budget that the check may take."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of ImageNet's pixels, near those of other photographs."""


def _scale_pixels(images: Tensor, *, undo: bool) -> Tensor:
    """Normalize by ImageNet's mean and deviation, or undo it; grey images by their averages."""
    mean, std = (torch.tensor(values, dtype=images.dtype).view(1, -1, 1, 1) for values in (_MEAN, _STD))
    if images.shape[1] != len(_MEAN):
        mean, std = mean.mean(), std.mean()
    return images * std + mean if undo else (images - mean) / std


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "with their channels in reverse order (BGR)": lambda images: images.flip(1),
    "with rows and columns exchanged": lambda images: images.transpose(2, 3),
    "with black and white exchanged": lambda images: 1 - images,
    "with pixels of 0 to 255": lambda images: 255 * images,
    "with pixels of -1 to 1": lambda images: 2 * images - 1,
    "normalized by mean and deviation": lambda images: _scale_pixels(images, undo=False),
    "whose pixels are shifted back, as if they were normalized twice": lambda images: _scale_pixels(
        images, undo=True
    ),
}
"""Usual mistakes of loading, by how the images look that the model was made for."""


class InputForm(Diagnostic):
    """Accuracy on the same images in other forms: a mistake in loading shows as a gain."""

    id = "D27"
    name = "form of the images"
    source = "measured: sound networks lose accuracy under each of these forms"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read what the first look at the model found; without one, or behind a wrapper, ask about forms."""
        check = model.preprocessing_check
        if check is not None and check.n and (not model.is_wrapped or _is_about_images(check)):
            return self.judge_check(check)
        return self._try_forms(model)

    def judge_check(self, check: PreprocessingCheck) -> Reading:
        """Judge the record of the first look at a model.

        Args:
            check: The record, with at least one image.
        """
        better = check.better
        if better is not None and _is_about_images(check):
            return Reading(
                status="fail",
                sentence=f"The preprocessing looks wrong: {better.correct_before:,} of "
                f"{format_count(better.n, 'image')} are classified correctly as they are, and "
                f"{better.correct:,} with {better.form}.",
                value=better.chance,
                limit=MAX_FAMILY_CHANCE,
                n=better.n,
                action=f"{capitalize_first(better.format_advice())}, and measure again.",
            )
        tried = f"{format_count(check.forms, 'other form')} of the images or classes " if check.forms else ""
        sentence = f"{check.correct:,} of {format_count(check.n, 'image')} are classified correctly; " + (
            f"none of {tried}is clearly better." if tried else "no other form could be clearly better."
        )
        return Reading(status="ok", sentence=sentence, value=1.0, limit=MAX_FAMILY_CHANCE, n=check.n)

    def _try_forms(self, model: DiagnosedModel) -> Reading:
        """Ask about the first images in each form, and about more where it helps."""
        n = len(model.logits)
        forms = _list_forms(model.images)
        cost = model.passes_per_query * len(forms)
        first = model.budget.count_images(cost, min(FIRST_IMAGES, n), PASSES_SHARE)
        if first < max(MIN_IMAGES, min(FIRST_IMAGES, n)):
            return build_unread(TOO_SMALL_REASON)
        if model.is_random and not model.draws_randomly:
            return build_unread("random answers change the class by themselves (D4)")
        best = ("", 0, 0)
        for form, change in forms.items():
            gains, losses = self._count_changes(model, change, 0, first)
            rest = model.budget.count_images(model.passes_per_query, n - first, PASSES_SHARE)
            if gains - losses >= MIN_GAINS and rest:
                more = self._count_changes(model, change, first, first + rest)
                gains, losses = gains + more[0], losses + more[1]
            if gains - losses > best[1] - best[2]:
                best = (form, gains, losses)
        return self.judge_figures(*best, n)

    def _count_changes(
        self, model: DiagnosedModel, change: Callable[[Tensor], Tensor], start: int, end: int
    ) -> tuple[int, int]:
        """Return how many images are classified correctly only in another form, and only as they are."""
        images, labels = model.images[start:end], model.labels[start:end]
        before = model.logits[start:end].argmax(dim=1) == labels
        after = model.compute_logits(change(images)).argmax(dim=1) == labels
        return int((after & ~before).sum()), int((before & ~after).sum())

    def judge_figures(self, form: str, gains: int, losses: int, n: int) -> Reading:
        """Judge the form that gains most.

        Args:
            form: The form; empty if none gains.
            gains: Images that are classified correctly in this form only.
            losses: Images that are classified correctly as they are only.
            n: Images in all.
        """
        chance = compute_gain_chance(gains, losses)
        if chance > MAX_CHANCE:
            return Reading(
                status="ok",
                sentence=(
                    f"No other form of {format_count(n, 'image')}, such as reversed channels, "
                    "is classified better."
                ),
                value=chance,
                limit=MAX_CHANCE,
                n=n,
            )
        return Reading(
            status="fail",
            sentence=f"The model seems to be made for images {form}: {gains:,} of {n:,} are classified "
            f"correctly in that form only, and {losses:,} only as they are.",
            value=chance,
            limit=MAX_CHANCE,
            n=n,
            action="Mend the preprocessing inside the model, or its loading, and measure again.",
        )


def _is_about_images(check: PreprocessingCheck) -> bool:
    return check.better is not None and check.better.kind == "images"


def compute_gain_chance(gains: int, losses: int) -> float:
    """Return the chance of at least so many gains if a changed answer is a gain or a loss equally often."""
    changed = gains + losses
    return float(sum(math.comb(changed, count) for count in range(gains, changed + 1)) / 2**changed)


def _list_forms(images: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the forms that these images can take."""
    colours, height, width = images.shape[1:]
    unfit = {
        "with their channels in reverse order (BGR)": colours == 1,
        "with rows and columns exchanged": height != width,
    }
    return {form: change for form, change in FORMS.items() if not unfit.get(form)}
