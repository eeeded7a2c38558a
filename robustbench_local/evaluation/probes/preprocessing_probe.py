"""A first look at a model: its clean accuracy, and whether another form of the images suits it better.

A mistake in preprocessing seldom fails: accuracy is lower than published, and nobody knows why. So the usual
mistakes are tried, and one is reported if the same images are classified correctly significantly more often.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.subsample import choose_images
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.probes.class_orders import (
    can_assign_classes,
    find_better_order,
    list_class_orders,
)
from robustbench_local.evaluation.probes.form_comparison import (
    MIN_GAIN,
    NO_CLASS,
    can_be_better,
    compare_form,
    find_predicted_classes,
    find_rejected,
)
from robustbench_local.evaluation.probes.input_variants import (
    InputVariant,
    apply_contract,
    list_input_variants,
)
from robustbench_local.store.preprocessing_record import BetterForm, PreprocessingCheck

FIRST_IMAGES = 64
"""Images that a model is asked about as they are."""
MORE_IMAGES = 256
"""Images for forms that seem better, where the first ones leave it open and the data have so many."""
SCREENING_IMAGES = 12
"""Images, misclassified as they are, that every form is tried on first; then as many others, to choose."""
MIN_SCREENING_SHARE = 0.25
"""Share of them that a form has to classify correctly to be tried on more."""
MAX_SCREENED_FORMS = 6
"""Most forms that are tried on more images."""
NEAR_BEST_SHARE = 0.05
"""Share of the images by which a more usual form may be behind the best one, and is named instead."""
MAX_FORM_SECONDS = 60.0
"""Seconds of work after which no other form is tried."""
MAX_FIRST_SECONDS = 20.0
"""Seconds of work that a slow model may take for the images as they are, of which it gets fewer."""
MAX_SECONDS_PER_CPU_SECOND = 4.0
"""Seconds of any kind that count as one of work."""
MIN_FIRST_IMAGES = 8
"""Images that a slow model is asked about."""
SEED = 20_261_130
"""Seed of the choice of images."""


def choose_check_images(data: Dataset, limit: int) -> list[int]:
    """Choose images evenly over the classes, one of each group; a smaller limit chooses a subset.

    Args:
        data: The images.
        limit: Most images.

    Returns:
        Their positions: the classes take turns, so that any beginning is even over them too.
    """
    groups = data.group_by_image
    positions = list(range(len(data)))
    if groups:
        positions = list({groups[data.ids[position]]: position for position in reversed(positions)}.values())
        positions.sort()
    ids = [data.ids[position] for position in positions]
    labels = data.labels[positions].tolist()
    chosen: list[int] = []
    for size in (FIRST_IMAGES, limit):
        taken = choose_images(ids, labels, limit=min(size, limit), seed=SEED)
        chosen += sorted({positions[row] for row in taken} - set(chosen))
    return chosen


class WorkClock:
    """Seconds that this process has worked since the clock was made, or a part of those that have passed.

    Other work on the machine hardly moves it, and so does not decide how many images a model is asked about.
    A model that waits for another machine takes hardly any seconds of the CPU: a part of all seconds counts.
    """

    def __init__(self) -> None:
        self._worked, self._passed = time.process_time(), time.monotonic()

    def __call__(self) -> float:
        """Return the seconds."""
        passed = time.monotonic() - self._passed
        return max(time.process_time() - self._worked, passed / MAX_SECONDS_PER_CPU_SECOND)


@dataclass
class FormSearch:
    """The search for a form that suits a model better.

    Args:
        classifier: A classifier without a wrapper, in evaluation mode.
        images: (N, C, H, W), in the order in which they are asked about; see `choose_check_images`.
        labels: (N,).
        class_names: Names of the data's classes.
        first: How many are asked about first.
        in_range: Whether only pixels in [0, 1] may be sent.
        clock: Returns seconds that only grow.
    """

    classifier: Classifier
    images: Tensor
    labels: Tensor
    class_names: Sequence[str] = ()
    first: int = FIRST_IMAGES
    in_range: bool = False
    clock: Callable[[], float] = field(default_factory=WorkClock)
    passes: int = 0
    """Forward passes so far."""
    predictions: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """Predictions for the first images as they are, (M,), -1 where there is none; of rejected images too,
    since a stronger contrast alone makes a model reject fewer."""
    rejected: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    """Which of them the model rejects, (M,)."""
    known: int = 0
    """How many of them the clean accuracy counts."""

    def run(self) -> PreprocessingCheck:
        """Ask about the images as they are, then in other forms if one can be clearly better."""
        contract, classes = self.classifier.contract, self.classifier.num_classes
        variants = list_input_variants(contract, self.images.shape[1:], in_range=self.in_range)
        forms = len(variants) + 1 + len(list_class_orders(classes, self.class_names))
        self._ask_first_images()
        if MIN_GAIN * self.known <= self._count_errors() and not self._can_be_better(forms):
            self._extend_predictions(len(self.images))  # a small gain shows on more images only
            self.known = len(self.predictions)
        accepted = self._find_correct(self.known) & ~self.rejected[: self.known]
        check = PreprocessingCheck(correct=int(accepted.sum()), n=self.known, passes=self.passes)
        if not self._can_be_better(forms):
            return check
        try:
            return self._try_forms(check, variants, forms)
        except UnreachableError as problem:
            return replace(check, passes=self.passes, unchecked=problem.what)

    def _try_forms(
        self, check: PreprocessingCheck, variants: Sequence[InputVariant], forms: int
    ) -> PreprocessingCheck:
        """Complete the record by the form that suits the model best, if one does clearly better."""
        contract = self.classifier.contract
        promising, problem = self.screen_variants(variants)
        promising.sort(key=lambda variant: (not variant.is_source, variant.count_differences(contract)))
        found = [self._try_variant(variant, forms) for variant in promising]
        found.append(self._find_order(forms))
        better = [form for form in found if form is not None]
        return replace(check, forms=forms, passes=self.passes, unchecked=problem, better=choose_form(better))

    def _count_errors(self) -> int:
        """Return how many of the known images are misclassified as they are."""
        return self.known - int(self._find_correct(self.known).sum())

    def _can_be_better(self, forms: int) -> bool:
        return can_be_better(self._count_errors(), self.known, forms)

    def _ask_first_images(self) -> None:
        """Ask about the first images, fewer of them if the model is slow; none of the others then."""
        count = min(self.first, len(self.images))
        few = min(MIN_FIRST_IMAGES, count)
        self._extend_predictions(min(1, few))  # the first call of a model takes longer
        began = self.clock()
        self._extend_predictions(few)
        seconds = (self.clock() - began) / max(few - 1, 1)
        if seconds * len(self.images) > MAX_FIRST_SECONDS:
            most = max(few, int(MAX_FIRST_SECONDS / seconds))
            self.images, self.labels = self.images[:most], self.labels[:most]
            count = min(count, most)
        self._extend_predictions(count)
        self.known = count

    def _extend_predictions(self, count: int) -> None:
        """Ask about the images as they are until there are so many predictions."""
        fresh = self._compute_logits(self.classifier, self.images[len(self.predictions) : count])
        classes = self.classifier.num_classes
        self.predictions = torch.cat([self.predictions, find_predicted_classes(fresh, classes)])
        self.rejected = torch.cat([self.rejected, find_rejected(fresh, classes)])

    def _find_correct(self, count: int) -> Tensor:
        """Return which of the first images are classified correctly as they are, (count,)."""
        return self.predictions[:count] == self.labels[:count]

    def screen_variants(self, variants: Sequence[InputVariant]) -> tuple[list[InputVariant], str]:
        """Return the variants that seem to gain most, and why not all were tried.

        Only images that are misclassified can be gained. A variant far from the right one may gain as many
        of a few as the right one does, but loses others: where too many gain, those images count too.
        """
        correct = self._find_correct(self.known)
        wrong, right = _choose_evenly(~correct), _choose_evenly(correct)
        began, gains = self.clock(), {}
        for variant in variants:
            if self.clock() - began > MAX_FORM_SECONDS:
                break
            gains[variant] = int((self._predict_variant(variant, wrong) == self.labels[wrong]).sum())
        least = MIN_SCREENING_SHARE * len(wrong)
        promising = [variant for variant in gains if gains[variant] >= max(least, 1)]
        if len(promising) > MAX_SCREENED_FORMS:
            weight = self._count_errors() / len(wrong), int(correct.sum()) / max(len(right), 1)
            nets = {
                variant: weight[0] * gains[variant]
                + weight[1] * int((self._predict_variant(variant, right) == self.labels[right]).sum())
                for variant in promising
            }
            ranked = sorted(nets, key=lambda variant: -nets[variant])[:MAX_SCREENED_FORMS]
            promising = [variant for variant in promising if variant in ranked]
        is_cut = len(gains) < len(variants)
        problem = f"{len(gains)} of {format_count(len(variants), 'form')} took {MAX_FORM_SECONDS:g} seconds"
        return promising, problem if is_cut else ""

    def _try_variant(self, variant: InputVariant, forms: int) -> BetterForm | None:
        """Compare a variant with the images as they are; on more images where few leave it open."""
        known = self.known
        after = self._predict_variant(variant, slice(0, known)) == self.labels[:known]
        net = int(after.sum()) - int(self._find_correct(known).sum())
        if net > 0 and known < len(self.images) and self._compare_variant(variant, after, forms) is None:
            self._extend_predictions(len(self.images))
            more = self._predict_variant(variant, slice(known, len(self.images))) == self.labels[known:]
            after = torch.cat([after, more])
        return self._compare_variant(variant, after, forms)

    def _compare_variant(self, variant: InputVariant, after: Tensor, forms: int) -> BetterForm | None:
        """Compare a variant with the images as they are, without those that are rejected without a class."""
        base, n = self.classifier.contract, len(after)
        known = ~(self.rejected[:n] & (self.predictions[:n] == NO_CLASS))
        return compare_form(
            self._find_correct(n)[known],
            after[known],
            self.labels[:n][known],
            num_classes=self.classifier.num_classes,
            forms=forms,
            kind="images",
            form=variant.describe_differences(base),
            remedy=variant.format_remedy(base),
        )

    def _find_order(self, forms: int) -> BetterForm | None:
        """Find an order of the classes that fits the answers better, on more images where any may."""
        classes = self.classifier.num_classes
        if can_assign_classes(classes, len(self.images)):
            self._extend_predictions(len(self.images))
        labels = self.labels[: len(self.predictions)]
        return find_better_order(self.predictions, labels, classes, self.class_names, forms)

    def _predict_variant(self, variant: InputVariant, rows: slice | Tensor) -> Tensor:
        """Return the predictions for images in another form; none where the model refuses them."""
        changed = apply_contract(self.classifier, variant.contract)
        try:
            logits = self._compute_logits(changed, variant.change_images(self.images[rows]))
        except UnreachableError:
            raise
        except ModelError:  # such as for pixels outside [0, 1]
            return torch.full_like(self.labels[rows], NO_CLASS)
        return find_predicted_classes(logits, changed.num_classes)

    def _compute_logits(self, classifier: Classifier, images: Tensor) -> Tensor:
        """Return the logits of some images, on the CPU, in batches that fit into memory."""
        size = compute_default_batch_size(self.images)
        self.passes += len(images)
        with torch.no_grad():
            parts = [
                classifier(images[start : start + size].to(classifier.device)).float().cpu()
                for start in range(0, len(images), size)
            ]
        return torch.cat(parts) if parts else torch.zeros(0, classifier.num_classes)


def _choose_evenly(is_chosen: Tensor) -> Tensor:
    """Return up to `SCREENING_IMAGES` of the chosen positions, evenly spread over them."""
    rows = is_chosen.nonzero().flatten()
    return rows[torch.linspace(0, len(rows) - 1, min(SCREENING_IMAGES, len(rows))).long()]


def choose_form(forms: Sequence[BetterForm]) -> BetterForm | None:
    """Return the form with the highest accuracy, or a more usual one that is nearly as good."""
    best = max((form.correct / form.n for form in forms), default=0.0)
    near = [form for form in forms if form.correct / form.n >= best - NEAR_BEST_SHARE]
    return near[0] if near else None
