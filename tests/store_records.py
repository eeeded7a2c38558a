"""Records for tests that need one and look at few of its fields."""

from __future__ import annotations

from typing import Any

from robustbench_local.store.records import OutcomeRecord


def make_outcome_record(**changes: Any) -> OutcomeRecord:
    """An image that is classified correctly and was not misclassified under attack."""
    fields: dict[str, Any] = {
        "cell": "k" * 64, "position": 0, "image": "test/0", "label": 0, "clean_prediction": 0,
        "adversarial_prediction": 0, "clean_correct": True, "broken": False, "moved_elsewhere": False,
        "margin": 1.0, "fragile": False, "linf": 0.0, "l2": 0.0, "l1": 0.0, "broken_8bit": None,
        "forward_passes": 1, "backward_passes": 0, "seconds": 0.0, "status": "ok",
    }  # fmt: skip
    return OutcomeRecord(**{**fields, **changes})
