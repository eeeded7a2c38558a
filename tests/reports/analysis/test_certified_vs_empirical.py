"""Between proof and attack: the same images, and what happens when the two contradict each other (D25)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sample_run import EPS_8_OF_255, SamplePlan, SampleRun, build_run

from robustbench_local.cli.main import run_command
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.certified_vs_empirical import (
    build_accuracy_bounds,
    find_violations,
    has_blocking_violation,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gates import judge_run_dir
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.summary.headline import describe_answer, describe_comparisons
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore

pytestmark = pytest.mark.usefixtures("blank_figures")

PGD = SamplePlan(
    attack="pgd50-linf-8",
    card="pgd50-linf-8",
    norm="Linf",
    eps=EPS_8_OF_255,
    threat="linf-8",
    strength=0.97,
    passes_per_image=(2, 1),
)
SMALL = replace(PGD, attack="pgd50-linf-2", eps=2 / 255, threat="linf-2")


def _run(folder: Path, **certificate) -> Path:
    """Two models under PGD; a certificate proves every image of the robust one that PGD did not break.

    Args:
        folder: Where to.
        certificate: ``compute_eps`` of the certificate; ``wrong``: how many broken images it proves as well;
            fields of its cell record.
    """
    run = build_run(folder / "run", SampleRun(plans=(PGD, SMALL), failing_cell=None, has_images=False))
    wrong, eps = certificate.pop("wrong", 0), certificate.pop("eps", EPS_8_OF_255)
    with RunStore.create_or_open(run, **_identity(run)) as store:
        cell = next(
            cell for cell in store.read_cells() if (cell.model, cell.attack) == ("signs-pgd-at", PGD.attack)
        )
        record = replace(
            cell,
            key="c" * 64,
            attack="certify-crown-linf-8",
            card="certify-crown-linf-8",
            measure="certificate",
            eps=eps,
            position=99,
            **certificate,
        )
        rows = store.read_outcomes(cell.key)
        broken = [row.image for row in rows if row.broken][:wrong]
        store.put_cell(record)
        store.add_outcomes(record.key, [_proof(row, record, row.image in broken) for row in rows])
        store.set_status(record.key, "done", None)
    return run


def _identity(run: Path) -> dict:
    with RunStore.open_readonly(run) as store:
        return {
            "resolved_yaml": (run / "run.yaml").read_text(encoding="utf-8"),
            "identity": store.read_identity(),
        }


def _proof(row: OutcomeRecord, record: CellRecord, wrong: bool) -> OutcomeRecord:
    holds = row.clean_correct and (wrong or not row.broken)
    return replace(
        row,
        cell=record.key,
        broken=False,
        broken_8bit=None,
        certified=holds,
        status="ok",
        linf=0.0,
        l2=0.0,
        l1=0.0,
    )


def _evidence(run: Path) -> Evidence:
    with RunStore.open_readonly(run) as store:
        return read_evidence(store)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return _run(tmp_path_factory.mktemp("sound"))


@pytest.fixture(scope="module")
def violated(tmp_path_factory) -> Path:
    return _run(tmp_path_factory.mktemp("violated"), wrong=3)


def test_a_bracket_counts_the_same_images(sound: Path):
    evidence = _evidence(sound)
    (bracket,) = build_accuracy_bounds(evidence)
    worst = next(
        one for one in evidence.worst_cases if one.subject == bracket.subject and one.threat == bracket.threat
    )
    assert bracket.empirical_accuracy == worst.robust_accuracy
    assert bracket.certified_accuracy == bracket.empirical_accuracy  # made so
    assert bracket.undecided_count == 0
    assert bracket.certificates == ("certify-crown-linf-8",)
    assert bracket.attacks == ("pgd50-linf-8",)
    assert not has_blocking_violation(evidence)
    assert judge_run_dir(sound).exit_code == 0
    assert "(certified)" in bracket.sentence


def test_images_that_the_certificate_was_not_asked_about_do_not_count(sound: Path):
    with RunStore.open_readonly(sound) as store:
        evidence = read_evidence(store)
        record = next(cell for cell in store.read_cells() if cell.measure == "certificate")
        rows = store.read_outcomes(record.key)[:40]
    fewer = build_cell_result(replace(record, images=40), rows)
    (bracket,) = build_accuracy_bounds(replace(evidence, cells=(*evidence.attack_cells, fewer)))
    assert bracket.certified_accuracy.n == bracket.empirical_accuracy.n == 40
    assert bracket.certified_accuracy.count == sum(bool(row.certified) for row in rows)
    assert bracket.empirical_accuracy.count == bracket.certified_accuracy.count


def test_a_certificate_is_no_attack_and_no_reading_of_untouched_images(sound: Path):
    evidence = _evidence(sound)
    (cell,) = evidence.certificate_cells
    assert not cell.is_in_worst_case
    assert all(cell.record.attack not in worst.attacks for worst in evidence.worst_cases)
    assert set(cell.certified_radii.values()) == {EPS_8_OF_255}
    assert len(cell.certified_radii) == cell.tally.certified == cell.tally.robust
    assert not any("differently from cell to cell" in finding.text for finding in list_findings(evidence))


def test_a_violated_certificate_blocks_the_answer_and_names_the_images(violated: Path):
    evidence = _evidence(violated)
    (violation,) = find_violations(evidence)
    broken = violation.attack_cell.success_norms
    assert len(violation.images) == 3
    assert set(violation.images) <= set(broken)
    finding = list_findings(evidence)[0]
    assert finding.level == "void"
    assert "Certificate violated" in finding.text
    assert all(image in finding.text for image in violation.images)
    assert describe_answer(evidence).startswith("No answer: ")
    assert describe_comparisons(evidence) == []


def test_a_violated_certificate_is_an_exit_code_of_its_own(
    violated: Path, sound: Path, tmp_path: Path, capsys
):
    report = judge_run_dir(violated)
    assert report.exit_code == 70
    assert report.summary_lines[0].startswith(
        "blocked: certificate violated: certify-crown-linf-8 certified 3 images"
    )
    assert run_command(["gate", str(violated)]) == 70
    assert run_command(["report", str(violated), "-o", str(tmp_path / "report.html")]) == 70
    assert "blocked: certificate violated" in capsys.readouterr().err
    assert run_command(["report", str(sound), "-o", str(tmp_path / "sound.html")]) == 0


def test_a_proof_of_a_smaller_ball_is_not_violated_by_a_larger_attack(tmp_path: Path):
    evidence = _evidence(_run(tmp_path, wrong=2, eps=0.4 / 255, threat="linf-0.4"))
    assert not find_violations(evidence)
    assert not build_accuracy_bounds(evidence)  # there is no attack on that ball


def test_a_break_within_the_proven_distance_counts_whatever_the_attack_was_allowed(tmp_path: Path):
    run = _run(tmp_path, wrong=2, eps=5 / 255, threat="linf-5")
    evidence = _evidence(run)
    sizes = {
        image: lengths["Linf"]
        for cell in evidence.attack_cells
        for image, lengths in cell.success_norms.items()
    }
    for violation in find_violations(evidence):
        assert violation.attack_cell.record.eps <= 5 / 255 or all(
            sizes[each] <= 5 / 255 for each in violation.images
        )


def test_a_certificate_that_may_err_is_only_doubted(tmp_path: Path):
    evidence = _evidence(_run(tmp_path, wrong=1, alpha=0.001))
    assert not has_blocking_violation(evidence)
    assert any(
        one.level == "warning" and "the certificate errs on" in one.text for one in list_findings(evidence)
    )


def test_a_certificate_of_the_votes_says_nothing_about_attacks_on_the_model_alone(tmp_path: Path):
    evidence = _evidence(_run(tmp_path, wrong=1, concerns="smoothed"))
    assert not find_violations(evidence)
    assert not build_accuracy_bounds(evidence)


def test_brackets_are_in_every_form_of_the_report(sound: Path, violated: Path, tmp_path: Path):
    page = write_report(sound, tmp_path / "sound" / "report.html")
    results = json.loads((page.parent / "results.json").read_text(encoding="utf-8"))
    (bracket,) = results["accuracy_bounds"]
    assert bracket["certified_accuracy"]["value"] == bracket["empirical_accuracy"]["value"]
    assert bracket["undecided"] == 0
    assert results["gates"]["violations"] == []
    assert "Certified and empirical robust accuracy" in page.read_text(encoding="utf-8")
    assert "## Certified and empirical robust accuracy" in (page.parent / "report.md").read_text(
        encoding="utf-8"
    )
    page = write_report(violated, tmp_path / "violated" / "report.html")
    assert "No answer: " in page.read_text(encoding="utf-8")
    assert json.loads((page.parent / "results.json").read_text(encoding="utf-8"))["gates"]["violations"]
