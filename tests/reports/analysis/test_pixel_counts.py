"""L0 in reports: numbers of pixels in words, and successes of other norms that change few pixels."""

from __future__ import annotations

import math

import pytest

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.reports.formatting.text import (
    describe_budget,
    format_axis_label,
    format_budget,
    format_distance,
    get_attack_family,
)
from robustbench_local.store import CellRecord, OutcomeRecord


def make_cell(attack, norm, eps, *, pixels, broken):
    record = CellRecord(
        key=attack, position=0, model="m", defense="none", attack=attack, card=attack, norm=norm, eps=eps,
        threat=f"{norm}-{eps:g}".lower(), goal="untargeted", images=len(pixels), status="done",
        measure="distance" if norm == "L0" else "ball",
    )  # fmt: skip
    rows = [
        OutcomeRecord(
            cell=attack, position=place, image=f"image-{place}", label=0, clean_prediction=0,
            adversarial_prediction=int(is_broken), clean_correct=True, broken=is_broken,
            moved_elsewhere=False, margin=0.5, fragile=False, linf=eps, l2=1.0, l1=1.0, l0=count,
            broken_8bit=is_broken or None, forward_passes=2, backward_passes=1, seconds=0.1, status="ok",
        )
        for place, (count, is_broken) in enumerate(zip(pixels, broken, strict=True))
    ]  # fmt: skip
    return build_cell_result(record, rows)


@pytest.mark.parametrize(("count", "said"), [(1, "1 pixel"), (12, "12 pixels"), (1200, "1,200 pixels")])
def test_a_budget_is_a_number_of_pixels(count, said):
    assert format_budget("L0", count) == f"L0 ≤ {said}"
    assert describe_budget("L0", count) == f"change at most {said}, in any way"
    assert format_distance("L0", float(count)) == said
    assert format_distance("L0", math.inf, max_radius=count) == f"> {said}"
    assert format_axis_label("L0") == "number of changed pixels (L0)"
    assert get_attack_family(f"sigma-zero-l0-{count}") == "sigma-zero"


def test_a_success_of_another_norm_counts_if_it_changes_few_enough_pixels():
    """Unknown numbers, of runs older than the field, never count."""
    few = make_cell("sigma-zero-l0-3", "L0", 3.0, pixels=(2, 3, 0, 0), broken=(True, True, False, False))
    other = make_cell("pgd", "Linf", 0.5, pixels=(9, 9, 3, math.nan), broken=(True, True, True, True))
    [worst] = [case for case in find_worst_cases([few, other]) if case.threat.norm == "L0"]
    assert set(worst.other_breaking_attacks) == {"image-2"}
    assert worst.attack_success.count == 3
    assert few.radii == {"image-0": 2, "image-1": 3, "image-2": math.inf, "image-3": math.inf}
