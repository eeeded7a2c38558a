"""When a sign counts and when a sticker has succeeded, from both sides."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from store_records import make_outcome_record

from robustbench_local.evaluation.harness.sticker_job import _StickerEvidence
from robustbench_local.evaluation.harness.verify import Predictions
from robustbench_local.threats.threat_model import ThreatModel

LABEL, TARGET, OTHER = 0, 1, 2
VIEWS = 100


def judge(right: int, hits: int, elsewhere: int = 0):
    """The verdict on a sign that is read rightly in so many of its clean views, and misread in so many."""
    clean = torch.full((1, VIEWS), OTHER)
    clean[0, :right] = LABEL
    worn = torch.full((1, VIEWS), LABEL)
    worn[0, :hits] = TARGET
    worn[0, hits : hits + elsewhere] = OTHER
    image = torch.full((1, 3, 4, 4), 0.5)
    found = _StickerEvidence(
        scene=SimpleNamespace(labels=torch.tensor([LABEL]), images=image),
        stickers=SimpleNamespace(
            threat=ThreatModel(norm="sticker", eps=0.4, targets=(TARGET,), transformation="rectangles"),
            rejection_reasons=[None],
        ),
        predictions={
            ("clean", "view"): SimpleNamespace(
                find_correct_views=lambda labels: clean == labels[:, None], rejection_reasons=[None]
            ),
            ("sticker", "view"): SimpleNamespace(prediction=worn, rejection_reasons=[None]),
        },
        flat_images=image,
        flat_predictions=Predictions(
            prediction=torch.tensor([LABEL]), correct=torch.tensor([True]), margin=torch.tensor([1.0]),
            fragile=torch.tensor([False]), rejected=torch.tensor([False]),
        ),
    )  # fmt: skip
    return found.build_outcome(make_outcome_record(label=LABEL, clean_prediction=LABEL), 0, (1, 1))


@pytest.mark.parametrize(("hits", "broken"), [(0, False), (50, False), (51, True), (100, True)])
def test_a_sticker_succeeds_in_more_than_half_of_the_views(hits, broken):
    assert judge(right=VIEWS, hits=hits).broken == broken


@pytest.mark.parametrize(("elsewhere", "moved"), [(50, False), (51, True)])
def test_a_sign_is_moved_elsewhere_in_more_than_half_of_the_views(elsewhere, moved):
    record = judge(right=VIEWS, hits=0, elsewhere=elsewhere)
    assert (record.broken, record.moved_elsewhere) == (False, moved)


@pytest.mark.parametrize(("right", "status"), [(94, "void"), (95, "ok"), (96, "ok")])
def test_a_sign_is_void_below_the_share_of_its_clean_views(right, status):
    assert judge(right=right, hits=VIEWS).status == status


def test_views_in_which_the_clean_sign_is_misread_have_no_say():
    assert judge(right=96, hits=48).broken is False
    assert judge(right=96, hits=49).broken is True
