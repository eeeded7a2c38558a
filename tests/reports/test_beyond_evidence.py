"""Distances, attackers who saw less, transfers and corruptions: what is counted, and apart from what."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from sample_run import EPS_8_OF_255, build_run
from sample_transfers import CORRUPTION_NAMES, MODELS, SEVERITIES, TRANSFER_SAMPLE

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.corruption_results import build_corruption_maps
from robustbench_local.reports.analysis.distances import CURVE_STEPS, build_distance_groups
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.gradient_masking import find_gradient_masking
from robustbench_local.reports.analysis.heatmap import build_heatmap
from robustbench_local.reports.analysis.read_run import find_worst_cases, read_evidence
from robustbench_local.reports.analysis.robustness_curves import build_curve_panels
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.transfer_results import build_transfer_matrices
from robustbench_local.reports.summary import headline
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore

PLAIN, HARDENED = (EvaluatedModel(model=model, defense="none") for model in MODELS)


@pytest.fixture(scope="module")
def evidence(transfer_sample_content) -> Evidence:
    return transfer_sample_content.evidence


def only(evidence: Evidence, keep) -> Evidence:
    cells = tuple(cell for cell in evidence.cells if keep(cell))
    return replace(evidence, cells=cells, worst_cases=tuple(find_worst_cases(cells)))


def cell_of(evidence: Evidence, subject: EvaluatedModel, attack: str):
    return next(cell for cell in evidence.cells if (cell.subject, cell.record.attack) == (subject, attack))


def test_black_boxes_count_in_the_worst_case_and_transfers_and_corruptions_do_not(evidence):
    attacks = {worst.threat.name: worst.attacks for worst in evidence.worst_cases}
    assert attacks == {
        "linf-8": ("pgd50-linf-8", "square-linf-8", "hopskipjump-linf-8", "curve-linf-8"),
        "l2-0.8": ("ddn-l2-0.8", "fmn-l2-0.8"),
        "l1-12": ("ead-l1-12",),
        "spatial-30": ("spatial-30",),
    }
    shown = {column.attack for column in build_heatmap(evidence).columns}
    assert not [name for name in shown if name and ("fgsm" in name or "fog" in name)]
    assert all(panel.attack != "mi-fgsm" for panel in build_curve_panels(evidence))


def test_the_headline_is_a_norm_even_where_more_attacks_turn_and_shift(evidence):
    assert evidence.headline_threat.name == "linf-8"
    spatial = only(evidence, lambda cell: cell.record.norm in {"spatial", "L1"})
    twice = replace(spatial.cells[1], record=replace(spatial.cells[1].record, attack="spatial-grid-30"))
    more = replace(spatial, worst_cases=tuple(find_worst_cases([*spatial.cells, twice])))
    assert more.headline_threat.norm == "L1"
    alone = only(evidence, lambda cell: cell.record.norm == "spatial")
    assert "may rotate the image by up to 30° and shift it by up to 10" in headline.describe_question(alone)


@pytest.mark.parametrize("knowledge", ["corruption", "transfer"])
def test_a_run_without_an_attack_on_the_models_themselves_claims_none(evidence, knowledge):
    shown = only(evidence, lambda cell: knowledge in {cell.record.norm, cell.record.knowledge})
    assert shown.headline_threat is None
    told = headline.describe_answer(shown)
    if knowledge == "corruption":
        assert "under noise, blur, weather and compression" in headline.describe_question(shown)
        assert "on average over 3 corruptions" in told
        assert told.endswith("an adversary can do more damage.")
    else:
        assert "only transferred" in told


def test_where_a_black_box_breaks_more_the_reader_is_told(evidence):
    black, transfer = find_gradient_masking(evidence)
    white = [cell_of(evidence, HARDENED, name) for name in ("pgd50-linf-8", "curve-linf-8")]
    square = cell_of(evidence, HARDENED, "square-linf-8")
    missed = [
        image
        for image, verdict in square.verdicts.items()
        if verdict.broken and not any(cell.verdicts[image].broken for cell in white)
    ]
    assert (black.subject, black.attacks, black.transferred) == (HARDENED, ("square-linf-8",), False)
    assert black.missed_share == compute_clopper_pearson(len(missed), 96)
    assert (transfer.subject, transfer.transferred) == (HARDENED, True)
    told = [finding.text for finding in list_findings(evidence) if finding.level == "untrusted"]
    assert told[0].startswith("D8, signs-pgd-at under L∞")
    assert told[1].startswith("D9, signs-pgd-at under L∞")
    assert "15 of 96 images" in told[1]
    worst = evidence.get_worst_case(HARDENED, transfer.threat)
    assert not any(
        verdict.robust for image, verdict in worst.verdicts.items() if image in worst.other_breaking_attacks
    )


def test_candidates_near_the_border_are_a_warning_unless_nearest_is_what_was_asked_for(evidence):
    cells = [cell_of(evidence, HARDENED, name) for name in ("pgd50-linf-8", "curve-linf-8")]
    close = tuple(replace(cell, tally=replace(cell.tally, fragile=cell.tally.n // 2)) for cell in cells)
    told = {
        one.level: one.text for one in list_findings(replace(evidence, cells=close)) if "noise" in one.text
    }
    assert told["warning"].startswith("Verdicts within floating-point noise")
    assert "pgd50-linf-8" in told["warning"]
    assert "curve-linf-8" not in told["warning"]
    assert "curve-linf-8 on signs-pgd-at (48 of 96)" in told["note"]
    assert "pgd50-linf-8" not in told["note"]


@pytest.mark.parametrize(("more", "size", "found"), [(2, 96, 0), (3, 96, 1), (3, 300, 1), (3, 301, 0)])
def test_few_images_are_no_surprise(evidence, more, size, found):
    """At least 3 and at least 1% of the images (trust diagnostics D8 and D9)."""
    white = cell_of(evidence, HARDENED, "pgd50-linf-8")
    held = next(iter(white.verdicts.values()))._replace(clean_correct=True, broken=False, robust=True)
    broken = held._replace(broken=True, robust=False)
    record = replace(white.record, attack="square-linf-8", knowledge="scores")
    names = [f"image-{number}" for number in range(size)]
    cells = (
        replace(white, verdicts=dict.fromkeys(names, held)),
        replace(
            white, record=record, verdicts=dict.fromkeys(names, held) | dict.fromkeys(names[:more], broken)
        ),
    )
    shown = replace(evidence, cells=cells, worst_cases=tuple(find_worst_cases(cells)))
    assert len(list(find_gradient_masking(shown))) == found


@pytest.mark.parametrize("who", ["white", "nobody"])
def test_an_attack_that_raised_on_an_image_says_nothing_about_it(evidence, who):
    """Three images that fall to a black box alone are a surprise, but not if the white box never finished."""
    white = cell_of(evidence, HARDENED, "pgd50-linf-8")
    held = next(iter(white.verdicts.values()))._replace(clean_correct=True, broken=False, robust=True)
    broken, unknown = held._replace(broken=True, robust=False), held._replace(robust=False)
    names = [f"image-{number}" for number in range(96)]
    seen = dict.fromkeys(names, held)
    record = replace(white.record, attack="square-linf-8", knowledge="scores")
    cells = (
        replace(white, verdicts=seen | dict.fromkeys(names[:3], unknown) if who == "white" else seen),
        replace(white, record=record, verdicts=seen | dict.fromkeys(names[:3], broken)),
    )
    shown = replace(evidence, cells=cells, worst_cases=tuple(find_worst_cases(cells)))
    assert [one.missed_share.count for one in find_gradient_masking(shown)] == ([] if who == "white" else [3])


def test_robust_accuracy_is_read_at_every_radius_from_one_search(transfer_sample, evidence):
    cell = cell_of(evidence, HARDENED, "curve-linf-8")
    with RunStore.open_readonly(transfer_sample.run_dir) as store:
        rows = store.read_outcomes(cell.record.key)
    group = next(one for one in build_distance_groups(evidence) if one.threat.name == "linf-8")
    reach = next(one for one in group.attack_distances if one.subject == HARDENED)
    assert len(reach.points) == CURVE_STEPS + 1
    for radius, share in reach.points:
        robust = sum(row.clean_correct and not (row.broken and row.linf <= radius) for row in rows)
        assert share == compute_clopper_pearson(robust, len(rows))
    values = [share.value for _, share in reach.points]
    assert values == sorted(values, reverse=True)
    assert reach.points[0][1] == cell.clean_accuracy
    assert reach.points[-1][1] == cell.robust_accuracy


def test_an_image_that_held_is_farther_and_is_not_dropped(transfer_sample, evidence):
    group = next(one for one in build_distance_groups(evidence) if one.threat.name == "linf-8")
    reach = next(one for one in group.attack_distances if one.subject == HARDENED)
    tally = cell_of(evidence, HARDENED, "curve-linf-8").tally
    assert reach.quartiles.n == tally.clean_correct
    assert reach.unbroken_count == tally.clean_correct - tally.broken > tally.broken
    assert math.isinf(reach.quartiles.median)
    assert reach.quartiles.lower < EPS_8_OF_255


def test_the_nearest_of_all_is_the_least_of_each_image(evidence):
    group = next(one for one in build_distance_groups(evidence) if one.threat.name == "l2-0.8")
    assert [one.label for one in group.attack_distances] == ["ddn", "fmn", "nearest of all"] * 2
    ddn, fmn = (cell_of(evidence, PLAIN, name).radii for name in ("ddn-l2-0.8", "fmn-l2-0.8"))
    nearest = sorted(min(ddn[image], fmn[image]) for image in ddn if ddn[image] > 0)
    assert group.attack_distances[2].quartiles.median == nearest[math.ceil(len(nearest) / 2) - 1]
    assert group.attack_distances[0].distance_ratio == pytest.approx(1)
    assert group.attack_distances[1].distance_ratio == pytest.approx(0.97 / 0.93)
    assert [panel.attack for panel in group.panels] == ["nearest of all", "ddn", "fmn"]


def test_a_distance_attack_that_failed_is_named_and_the_others_are_read(tmp_path):
    made = replace(
        TRANSFER_SAMPLE,
        statuses={**TRANSFER_SAMPLE.statuses, ("signs-plain", "ddn-l2-0.8"): "error"},
        images=32,
    )
    with RunStore.open_readonly(build_run(tmp_path / "run", made)) as store:
        group = next(
            one for one in build_distance_groups(read_evidence(store)) if one.threat.name == "l2-0.8"
        )
    assert group.problems == ("ddn on signs-plain: stopped by the user",)
    assert [one.label for one in group.attack_distances] == ["fmn", "ddn", "fmn", "nearest of all"]


def test_passes_are_counted_over_the_attacked_images(transfer_sample, evidence):
    cell = cell_of(evidence, HARDENED, "hopskipjump-linf-8")
    assert cell.query_stats == (10_000, 10_000, 9, 9)
    with RunStore.open_readonly(transfer_sample.run_dir) as store:
        wrong = [row for row in store.read_outcomes(cell.record.key) if not row.clean_correct]
    assert build_cell_result(replace(cell.record, images=len(wrong)), wrong).query_stats == (
        None,
        None,
        None,
        None,
    )


def test_transfers_have_a_matrix_of_their_own(evidence):
    (matrix,) = build_transfer_matrices(evidence)
    assert (matrix.attack, matrix.threat.name) == ("mi-fgsm-linf-8", "linf-8")
    assert [row.surrogate for row in matrix.rows] == list(MODELS)
    assert [square.status_text for square in (matrix.rows[0].entries[0], matrix.rows[1].entries[1])] == [
        "itself"
    ] * 2
    cell = cell_of(evidence, HARDENED, "mi-fgsm-linf-8[from=signs-plain]")
    assert matrix.rows[0].entries[1].estimate == cell.attack_success
    assert cell.attacker_knowledge == "transfer from signs-plain"
    assert not [finding for finding in list_findings(evidence) if finding.level == "incomplete"], (
        "nothing is missing"
    )


def test_corruptions_are_averaged_alike(evidence):
    for found in build_corruption_maps(evidence):
        assert found.severities == SEVERITIES
        assert [row.label for row in found.rows] == [kind.replace("_", " ") for kind in CORRUPTION_NAMES]
        shares = [[square.estimate.value for square in row.entries] for row in found.rows]
        everything = [share for row in shares for share in row]
        overall = found.mean_row.mean_entry.estimate
        assert overall.value == pytest.approx(sum(everything) / 9)
        assert overall.low < overall.value < overall.high
        assert overall.n == 96
        assert found.mean_row.entries[2].estimate.value == pytest.approx(sum(row[2] for row in shares) / 3)
        assert found.rows[1].mean_entry.estimate.value == pytest.approx(sum(shares[1]) / 3)
        assert found.image_counts == "96"


def test_a_mean_says_what_is_missing_from_it(evidence):
    shown = only(evidence, lambda cell: cell.record.attack != "fog-3")
    found = build_corruption_maps(shown)[0]
    assert found.rows[1].entries[1].status_text == "not run"
    assert found.mean_row.mean_entry.reason == "mean of 8 of 9"
    assert found.mean_row.entries[1].reason == "mean of 2 of 3"
    assert not found.mean_row.entries[0].reason
