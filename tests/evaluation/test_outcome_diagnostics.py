"""What a single evaluation concludes from its outcomes, on both sides of each limit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import robustbench_local as rbl
from robustbench_local.attacks.adaptive.adaptive import Adaptive
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.evaluation.outcome_diagnostics import complete_diagnostics, list_diagnostic_notes
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.threats.threat_model import ThreatModel

JOB = SimpleNamespace(
    classifier=SimpleNamespace(name="model", num_classes=10), threat=ThreatModel(norm="Linf", eps=0.1)
)
CLEAN = compute_clopper_pearson(95, 100)


def make_rows(stages):
    """A row for each stage that succeeds; none for an image that resists, an x for a clean mistake."""
    return [
        SimpleNamespace(
            image=str(number),
            clean_correct=stage != "x",
            broken=stage not in {"", "x"},
            status="ok",
            stage="" if stage == "x" else stage,
        )
        for number, stage in enumerate(stages)
    ]


def make_result(identifier, status="ok", **changes):
    return DiagnosticResult(
        id=identifier, name="a check", model="model", status=status, sentence="It says so.", **changes
    )


def complete(method, stages=(), found=(), clean=CLEAN):
    results = complete_diagnostics(found, JOB, method, make_rows(stages), clean)
    return {result.id: result for result in results}


@pytest.mark.parametrize(("count", "status"), [(0, "ok"), (2, "info"), (3, "fail")])
def test_a_stage_without_gradients_that_succeeds_alone(count, status):
    found = complete(AutoAttack(), ["square"] * count + ["apgd-ce"] * 20 + [""] * 20 + ["x"] * 4)["D8"]
    assert (found.status, found.n, found.value) == (status, 44 + count, count / (44 + count))
    by_adaptive = complete(Adaptive(), ["square"] * count + ["apgd-ce"] * 20)["D8"].status
    assert by_adaptive == ("warn" if status == "fail" else status)  # its number counts them
    assert "D8" not in complete(rbl.PGD(), ["square"] * 3)
    assert "D8" not in complete(AutoAttack(), [])


@pytest.mark.parametrize(
    ("gap", "n", "status"), [(2, 10, "ok"), (3, 10, "warn"), (5, 100, "ok"), (6, 100, "warn")]
)
def test_losses_that_do_not_agree(gap, n, status):
    found = complete(AutoAttack(), ["apgd-t"] * gap + ["apgd-ce"] * (n - gap) + ["x"])["D17"]
    assert (found.status, found.n) == (status, n)


@pytest.mark.parametrize(("known", "status"), [("012", "ok"), ("0189", "warn"), ("789", "fail"), ("", "ok")])
def test_noise_against_the_attack(known, status):
    noise = make_result("D10", n=10, images=tuple(known))
    found = complete(rbl.PGD(), ["pgd"] * 7 + [""] * 3, [noise])["D10"]
    assert (found.status, found.images) == (status, ())
    unasked = make_result("D10", "not run")
    assert complete(rbl.PGD(), [""], [unasked])["D10"] == unasked


@pytest.mark.parametrize(
    ("method", "status"), [(rbl.PGD(), "fail"), (rbl.PGD(loss="margin"), "warn"), (AutoAttack(), "warn")]
)
def test_outputs_that_weaken_the_cross_entropy(method, status):
    found = complete(method, ["apgd-ce"], [make_result("D18", "warn"), make_result("D7", "warn")])
    assert (found["D18"].status, found["D7"].status) == (status, "warn")


@pytest.mark.parametrize(
    ("right", "n", "status"),
    [(95, 100, "ok"), (3, 20, "block"), (3, 19, "warn"), (4, 19, "ok"), (19, 100, "warn")],
)
def test_clean_accuracy(right, n, status):
    assert complete(rbl.PGD(), clean=compute_clopper_pearson(right, n))["D22"].status == status
    assert "D22" not in complete(rbl.PGD(), clean=compute_clopper_pearson(0, 0))


def test_the_order_and_the_notes():
    found = (
        make_result("D2"),
        make_result("D11", "not run"),
        make_result("D7", "fail", action="Run adaptive."),
    )
    results = complete_diagnostics(found, JOB, Adaptive(), make_rows(["square"] * 3), CLEAN)
    assert [result.id for result in results] == ["D2", "D7", "D8", "D11", "D17", "D22"]
    notes = list(list_diagnostic_notes(results))
    assert notes[0].startswith("D7 (fail): It says so. The attack adaptive ran already")
    assert notes[1].startswith("D8 (warn): ")
    assert "gradient masking. State the lower number, over all attacks" in notes[1]
    small = make_result("D11", "not run")
    assert list(list_diagnostic_notes([small])) == []


@pytest.mark.parametrize(("method", "status"), [(AutoAttack(), "fail"), (Adaptive(), "warn")])
def test_an_ensemble_that_chooses_among_its_networks(method, status):
    assert complete(method, ["x"], [make_result("D28", "warn")])["D28"].status == status
