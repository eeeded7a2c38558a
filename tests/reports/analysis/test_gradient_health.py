"""Images on which gradient attacks had nothing to follow: in doubt, unless something else decides them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gradient_health import find_gradient_doubts
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.store import CellRecord, OutcomeRecord
from robustbench_local.store.records import MISSING_GRADIENT_SHARE


def row(image: int, *, broken: bool = False, **gradients: int) -> OutcomeRecord:
    return OutcomeRecord(
        cell="k", position=image, image=f"{image}.png", label=0, clean_prediction=0,
        adversarial_prediction=int(broken), clean_correct=True, broken=broken, moved_elsewhere=False,
        margin=1.0, fragile=False, linf=0.0, l2=0.0, l1=0.0, broken_8bit=broken or None, forward_passes=10,
        backward_passes=10, seconds=0.0, status="ok", **gradients,
    )  # fmt: skip


def cell(attack: str, rows: list[OutcomeRecord], **changes):
    parameters = changes.pop("parameters", {"method": attack, "loss": "ce"})
    record = CellRecord(
        key=attack, position=0, model="net", defense="none", attack=attack, card=attack, norm="Linf",
        eps=8 / 255, threat="linf-8", goal="untargeted", images=len(rows), status="done",
        parameters=parameters,
    )  # fmt: skip
    return build_cell_result(replace(record, **changes), rows)


def evidence(*cells) -> Evidence:
    return Evidence(cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def doubted(*cells) -> set[str]:
    return {image for doubt in find_gradient_doubts(evidence(*cells)) for image in doubt.images}


NOTHING = {"gradient_steps": 10, "zero_gradient_steps": 10}
LOST = {"gradient_steps": 10, "nonfinite_gradient_steps": 10, "unconfirmed_gradient_steps": 10}
REPAIRED = {"gradient_steps": 10, "nonfinite_gradient_steps": 10, "nonfinite_gradient_entries": 30}
FINE = {"gradient_steps": 10}

PLUS, RAND = ({"method": "autoattack", "version": version} for version in ("plus", "rand"))


@pytest.mark.parametrize("gradients", [NOTHING, LOST])
def test_what_nothing_was_tried_on_is_in_doubt(gradients):
    assert doubted(cell("pgd", [row(0, **gradients), row(1, **FINE), row(2, broken=True, **gradients)])) == {
        "0.png"
    }


def test_a_confirmed_repair_raises_no_doubt_and_is_told_loudly():
    cells = [cell("pgd", [row(0, **REPAIRED)])]
    assert doubted(*cells) == set()
    told = [finding for finding in list_findings(evidence(*cells)) if "NaN or infinite" in finding.text]
    assert [finding.level for finding in told] == ["warning"]


@pytest.mark.parametrize("missing", [4, 5])
def test_half_of_the_looks_decide(missing: int):
    found = doubted(cell("pgd", [row(0, gradient_steps=10, zero_gradient_steps=missing)]))
    assert found == ({"0.png"} if missing >= 10 * MISSING_GRADIENT_SHARE else set())


@pytest.mark.parametrize(
    ("other", "settles"),
    [
        (cell("square", [row(0)], knowledge="scores"), True),
        (cell("boundary", [row(0)], knowledge="labels"), True),
        (cell("mi-fgsm", [row(0, **FINE)], knowledge="transfer"), False),
        (cell("square", [row(1)], knowledge="scores"), False),
        (cell("square", [row(0)], knowledge="scores", threat="linf-4", eps=4 / 255), False),
        (cell("square", [row(0)], knowledge="scores", goal="targeted", targets=(1,)), False),
        (
            cell("autoattack", [row(0, **NOTHING)], parameters=PLUS),
            True,
        ),
        (
            cell("autoattack", [row(0, **NOTHING)], parameters=RAND),
            False,
        ),
        (cell("pgd-margin", [row(0, **FINE)]), True),
        (cell("pgd-margin", [row(0, **NOTHING)]), False),
        (cell("pgd-margin", [row(0, broken=True, **FINE)]), True),
    ],
)
def test_what_else_met_the_image_settles_it(other, settles: bool):
    assert doubted(cell("pgd", [row(0, **NOTHING)]), other) == (set() if settles else {"0.png"})


def test_an_untargeted_black_box_settles_a_targeted_attack():
    aimed = cell("pgd", [row(0, **NOTHING)], goal="targeted", targets=(1,))
    assert doubted(aimed) == {"0.png"}
    assert doubted(aimed, cell("square", [row(0)], knowledge="scores")) == set()


def test_the_remedy_fits_the_cause():
    (saturated,) = find_gradient_doubts(evidence(cell("pgd", [row(0, **NOTHING)])))
    assert "margin loss" in saturated.hint
    (lost,) = find_gradient_doubts(evidence(cell("pgd", [row(0, **LOST)])))
    assert "margin" not in lost.hint
    assert "square" in lost.hint


@pytest.mark.parametrize("black_box", [False, True])
def test_gradients_that_lead_astray_leave_all_that_they_did_not_break_in_doubt(black_box: bool):
    cells = [cell("pgd", [row(0, **FINE), row(1, broken=True, **FINE)]), cell("pgd-margin", [row(0, **FINE)])]
    if black_box:
        cells.append(cell("square", [row(0)], knowledge="scores"))
    about = {"id": "net", "defense": "none", "misleading_gradients": True}
    (*found,) = find_gradient_doubts(replace(evidence(*cells), models=(about,)))
    assert [doubt.images for doubt in found] == ([] if black_box else [{"0.png"}])
    assert all("do not describe how" in doubt.reason and "margin" not in doubt.hint for doubt in found)
    assert doubted(*cells) == set()
