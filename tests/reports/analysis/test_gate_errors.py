"""Images on which an attack raised an error never decide a gate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.image_verdict import ImageVerdict

ON_HARDENED = {"threat": "linf-8", "attack": "fgsm-linf-8", "model": "signs-pgd-at"}
ERROR = ImageVerdict(clean_correct=True, broken=False, robust=False)


@pytest.fixture
def with_errors(content):
    """A function: the sample run in which FGSM raised an error on a share of the images of one model."""

    def build(share: float):
        def change(cell):
            if (cell.record.attack, cell.record.model) != ("fgsm-linf-8", "signs-pgd-at"):
                return cell
            names = list(cell.verdicts)
            broken = set(names[: int(share * len(names))])
            return replace(
                cell, verdicts={name: ERROR if name in broken else one for name, one in cell.verdicts.items()}
            )

        return replace(content.evidence, cells=tuple(map(change, content.evidence.cells)))

    return build


@pytest.mark.parametrize(
    ("share", "limit", "ruling"),
    [
        (0.0, {"min": 0.3}, "pass"),
        (0.6, {"min": 0.4}, "inconclusive"),  # measured: it fails, because an error is not robust
        (0.6, {"min": 0.99}, "fail"),  # it fails whatever these images are
        (0.6, {"metric": "attack_success", "max": 0.5}, "inconclusive"),  # measured: it passes
        (0.02, {"min": 0.3}, "pass"),
    ],
)
def test_errors_make_a_gate_inconclusive_only_if_they_could_change_it(with_errors, share, limit, ruling):
    report = judge_evidence(with_errors(share), [{"metric": "robust_accuracy", **ON_HARDENED, **limit}])
    (verdict,) = report.verdicts
    assert verdict.ruling == ruling
    assert ("raised an error on 57 images" in verdict.reason) == (ruling == "inconclusive")
