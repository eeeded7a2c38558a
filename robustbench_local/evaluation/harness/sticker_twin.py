"""What the float twin of a shipped model answers to the stickers that were crafted for the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.twin_view import TwinView
from robustbench_local.evaluation.harness.outcome import get_class_index
from robustbench_local.evaluation.harness.output_differences import compute_differences
from robustbench_local.evaluation.harness.sticker_scene import CraftedStickers, StickerScene, ViewPredictions
from robustbench_local.evaluation.harness.verify import Predictions, predict
from robustbench_local.store.records import MIN_CLEAN_SHARE, OutcomeRecord
from robustbench_local.threats.threat_model import ThreatModel


@contextmanager
def open_twin_counter(view: TwinView | None, count: int) -> Iterator[PassCounter | None]:
    """Count the passes of a view's twin while open; yields None without a view."""
    if view is None:
        yield None
        return
    with view.twin.count_passes(count) as counter:
        yield counter


@dataclass(frozen=True, kw_only=True)
class TwinViewAnswers:
    """The twin's answers to the same views of the same signs."""

    threat: ThreatModel
    """Its goal."""
    labels: Tensor
    """True classes, (N,)."""
    clean_views: ViewPredictions
    """The views of the clean signs."""
    sticker_views: ViewPredictions
    """The views of the signs with the sticker."""
    clean: Predictions
    """The clean images."""
    flat: Predictions
    """The images with the sticker."""
    differences: tuple[list[float | None], list[float | None]]
    """How far the outputs are apart, on clean images and with the sticker."""

    def add_to_outcome(
        self, record: OutcomeRecord, index: int, spent: PassCounter, success_share: float
    ) -> OutcomeRecord:
        """Add the answers to the outcome of the model; the same rules decide as for the model.

        Args:
            record: The outcome of the model.
            index: Index of the sign.
            spent: The counter of the twin's passes.
            success_share: Share of the views above which a sticker succeeds.
        """
        right = self.clean_views.find_correct_views(self.labels)[index]
        predicted, label = self.sticker_views.prediction[index][right], self.labels[index].cpu()
        hits = self.threat.is_success(predicted, label.expand(len(predicted))) & (predicted >= 0)
        is_clean = float(right.double().mean()) >= MIN_CLEAN_SHARE
        return replace(
            record,
            twin_clean_prediction=get_class_index(self.clean.prediction[index]),
            twin_clean_correct=is_clean,
            twin_prediction=get_class_index(self.flat.prediction[index]),
            twin_broken=is_clean and int(hits.sum()) > success_share * len(predicted),
            clean_difference=self.differences[0][index],
            adversarial_difference=self.differences[1][index],
            twin_forward_passes=int(spent.forward_passes[index]),
            twin_backward_passes=int(spent.backward_passes[index]),
            search_phase="search" if record.broken else "",
        )


def compare_sticker_views(
    view: TwinView, signs: StickerScene, crafted: CraftedStickers, flat: Tensor
) -> TwinViewAnswers:
    """Ask the twin about the views that decide the verdict on the model.

    Args:
        view: The model with its twin.
        signs: The signs.
        crafted: Their stickers.
        flat: The images with the stickers, (N, C, H, W).
    """
    twin = view.twin
    seen = replace(signs, classifier=twin)
    with torch.no_grad():
        return TwinViewAnswers(
            threat=crafted.threat,
            labels=signs.labels,
            clean_views=seen.predict_views(None, signs.test_views),
            sticker_views=seen.predict_views(crafted, signs.test_views),
            clean=predict(twin, signs.images, signs.labels),
            flat=predict(twin, flat, signs.labels),
            differences=(
                compute_differences(view.inner, twin, signs.images),
                compute_differences(view.inner, twin, flat),
            ),
        )
