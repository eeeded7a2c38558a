"""What is counted, and what may not be: denominators, worst cases, cells that do not count."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import SAMPLE_PLANS, STOP_CLASS

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.family_labels import build_family_labels
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore

pytestmark = pytest.mark.usefixtures("blank_figures")

PLAIN = EvaluatedModel(model="signs-plain", defense="none")


def cell_record(**changes) -> CellRecord:
    return replace(
        CellRecord(
            key="k", position=0, model="m", defense="none", attack="pgd-linf-8", card="pgd-linf-8",
            norm="Linf", eps=8 / 255, threat="linf-8", goal="untargeted", images=4, status="done",
        ),
        **changes,
    )  # fmt: skip


def outcome(
    position: int, *, correct: bool = True, broken: bool = False, status: str = "ok"
) -> OutcomeRecord:
    return OutcomeRecord(
        cell="k", position=position, image=f"image-{position}", label=0,
        clean_prediction=0 if correct else 1, adversarial_prediction=1 if broken else 0,
        clean_correct=correct, broken=broken, moved_elsewhere=False, margin=0.5, fragile=False,
        linf=0.01, l2=0.1, l1=1.0, broken_8bit=True if broken else None,
        forward_passes=2, backward_passes=1, seconds=0.1, status=status,
    )  # fmt: skip


def verdicts(marks: str) -> list[OutcomeRecord]:
    """One outcome a letter: h held, b broken, w wrong untouched."""
    return [outcome(place, correct=mark != "w", broken=mark == "b") for place, mark in enumerate(marks)]


def test_denominators_and_the_identity_of_v5(content):
    for cell in content.evidence.cells:
        if not cell.is_done:
            continue
        tally = cell.tally
        assert cell.robust_accuracy.count == tally.clean_correct - tally.broken - tally.errors
        assert cell.robust_accuracy.n == tally.n == cell.record.images
        assert cell.attack_success.n == tally.clean_correct
        assert cell.attack_success.count == tally.broken


def test_the_worst_case_is_pointwise_and_at_most_the_least(content):
    worst = next(one for one in content.evidence.worst_cases if len(one.attacks) == 3)
    singles = [
        cell
        for cell in content.evidence.cells
        if cell.subject == worst.subject and cell.threat == worst.threat and not cell.targeted
    ]
    assert worst.robust_accuracy.value <= min(cell.robust_accuracy.value for cell in singles)
    for image, verdict in worst.verdicts.items():
        assert verdict.robust == all(cell.verdicts[image].robust for cell in singles)
        assert verdict.broken == any(cell.verdicts[image].broken for cell in singles)
    correct, broken = (
        sum(getattr(v, name) for v in worst.verdicts.values()) for name in ("clean_correct", "broken")
    )
    assert worst.robust_accuracy.count == correct - broken


def test_attacks_that_break_different_images_add_up():
    first = build_cell_result(cell_record(attack="a-linf-8"), verdicts("hbhw"))
    second = build_cell_result(cell_record(attack="b-linf-8"), verdicts("hhbw"))
    (worst,) = find_worst_cases([first, second])
    assert first.robust_accuracy == second.robust_accuracy == compute_clopper_pearson(2, 4)
    assert worst.robust_accuracy == compute_clopper_pearson(1, 4)
    assert worst.attack_success == compute_clopper_pearson(2, 3)
    assert worst.is_complete


def test_targeted_goals_and_other_source_classes_stay_apart(content):
    stop = next(plan for plan in SAMPLE_PLANS if plan.targets)
    assert not any(stop.attack in worst.attacks for worst in content.evidence.worst_cases)
    everything = build_cell_result(cell_record(attack="a-linf-8"), verdicts("hbhw"))
    some = build_cell_result(cell_record(attack="b-linf-8", sources=(STOP_CLASS,)), verdicts("bbbw"))
    assert len(find_worst_cases([everything, some])) == 2


@pytest.mark.parametrize(
    ("record", "marks", "standing"),
    [
        (cell_record(), "hbhw", "done"),
        (cell_record(status="pending"), "", "not run"),
        (cell_record(status="running"), "hb", "partial"),
        (cell_record(status="partial", error="1 of 4 images could not be evaluated"), "hbhw", "partial"),
        (cell_record(), "hbh", "partial"),
        (cell_record(status="error", error="boom"), "hb", "error"),
        (cell_record(status="timeout", error="too slow"), "hb", "timeout"),
        (cell_record(status="skipped", error="no gradients"), "", "skipped"),
    ],
)
def test_only_a_cell_with_all_its_outcomes_has_shares(record, marks, standing):
    cell = build_cell_result(record, verdicts(marks))
    assert cell.reported_status == standing
    for share in (cell.robust_accuracy, cell.clean_accuracy, cell.attack_success, cell.attack_success_8bit):
        assert share.is_known == (standing == "done")
    (worst,) = find_worst_cases([cell])
    assert worst.missing_attacks == (() if standing == "done" else ("pgd-linf-8",))
    assert worst.robust_accuracy.is_known == (standing == "done")


def test_an_attack_whose_every_candidate_was_rejected_is_void():
    rows = [replace(row, status="rejected", error="outside the ball") for row in verdicts("hhhh")]
    cell = build_cell_result(cell_record(), rows)
    assert cell.reported_status == "void"
    assert "4 candidates" in (cell.problem or "")


def test_images_with_errors_are_never_robust():
    rows = [*verdicts("hhh"), replace(outcome(3), status="error", error="boom")]
    assert build_cell_result(cell_record(), rows).robust_accuracy == compute_clopper_pearson(3, 4)


def test_clean_accuracy_comes_from_the_cell_with_most_images(content):
    assert content.evidence.compute_clean_accuracy(PLAIN).n == 96


def test_the_headline_is_the_threat_with_most_attacks(content):
    assert content.evidence.headline_threat is not None
    assert content.evidence.headline_threat.name == "linf-8"


def test_models_are_compared_on_the_same_images(content):
    (pair,) = content.evidence.compare_models(content.evidence.headline_threat)
    held = [content.evidence.get_worst_case(subject, pair.threat) for subject in (pair.first, pair.second)]
    assert pair.first.model == "signs-pgd-at"
    difference = held[0].robust_accuracy.count - held[1].robust_accuracy.count
    assert pair.comparison.only_first - pair.comparison.only_second == difference
    assert pair.comparison.n == 96


def test_labels_of_attacks_stay_distinct():
    names = ("pgd50-linf-8", "pgd50-linf-2", "fgsm-linf-8", "pgd50-linf-8[steps=9]")
    cells = [build_cell_result(cell_record(attack=name), verdicts("hbhw")) for name in names]
    assert list(build_family_labels(cells).values()) == [
        "pgd50-linf-8",
        "pgd50-linf-2",
        "fgsm",
        "pgd50[steps=9]",
    ]


def test_secrets_and_homes_stay_behind(tmp_path, content):
    text = str(content.evidence)
    for secret in ("AWS_SECRET", "wJalrXUtnFEMI", "hunter2", "/home/somebody"):
        assert secret not in text
    assert "~/weights" in text


def test_a_model_may_have_class_names_of_its_own(content):
    evidence = replace(content.evidence, models=[{"id": "signs-plain", "class_names": ["Halt"]}])
    assert evidence.get_class_name("signs-plain", 0) == "Halt"
    assert evidence.get_class_name("signs-plain", 5) == "class 5"
    assert evidence.get_class_name("signs-pgd-at", STOP_CLASS) == "Stop"
    assert evidence.get_class_name("signs-pgd-at", None) == "no finite answer"


def test_a_run_that_recorded_nothing_but_cells_can_be_read(tmp_path):
    from robustbench_local.reports import write_report

    with RunStore.create_or_open(tmp_path / "run", resolved_yaml="{}", identity={}) as store:
        store.put_cell(cell_record(status="pending", key="0" * 64))
    page = write_report(tmp_path / "run")
    assert "Not known yet" in page.read_text(encoding="utf-8")
