"""What differs between two runs is named, and which of their models and cells belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_differences import find_run_differences, has_same_images
from robustbench_local.reports.analysis.run_pairs import SubjectPair, pair_cells, pair_subjects
from robustbench_local.store import RunStore

NUMPY_3 = {"numpy": "3", "pyautoattack": "0.2.0"}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory) -> Evidence:
    run = SampleRun(failing_cell=None, has_images=False)
    with RunStore.open_readonly(build_run(tmp_path_factory.mktemp("sample") / "run", run)) as store:
        return read_evidence(store)


def change_cell(evidence: Evidence, index: int, **changes: Any) -> Evidence:
    """The evidence with one record changed; a mapping is added to the stored one."""
    cell = evidence.cells[index]
    merged = {
        name: {**getattr(cell.record, name), **value} if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    changed = replace(cell, record=replace(cell.record, **merged))
    return replace(evidence, cells=(*evidence.cells[:index], changed, *evidence.cells[index + 1 :]))


def rename_model(evidence: Evidence, old: str, new: str) -> Evidence:
    cells = tuple(
        replace(cell, record=replace(cell.record, model=new)) if cell.record.model == old else cell
        for cell in evidence.cells
    )
    return replace(evidence, cells=cells)


def select_model(evidence: Evidence, model: str) -> Evidence:
    return replace(evidence, cells=tuple(cell for cell in evidence.cells if cell.record.model == model))


def test_a_run_does_not_differ_from_itself(evidence):
    assert find_run_differences(evidence, evidence) == ()
    assert has_same_images(())


@pytest.mark.parametrize(
    ("change", "kind", "effect", "parts"),
    [
        (lambda e: replace(e, data={**e.data, "digest": "cd" * 32, "n": 12}), "data", "unpaired",
         ["signs, test, 96 images (digest ab12ab12ab12) in A", "12 images (digest cdcdcdcdcdcd) in B"]),
        (lambda e: replace(e, seed=7), "seed", "marked", ["seed: 0 in A, 7 in B"]),
        (lambda e: replace(e, identity={**e.identity, "code": "0.2.0+abc"}), "code", "marked",
         ["code that decides verdicts: 5f2c5f2c", "0.2.0+abc in B"]),
        (lambda e: replace(e, identity={**e.identity, "search_precision": "bf16"}), "setting", "marked",
         ["precision of the search: absent in A, bf16 in B"]),
        (lambda e: replace(e, identity={**e.identity, "version of torch": "2.15"}), "version", "marked",
         ["version of torch: absent in A, 2.15 in B"]),
        (lambda e: replace(e, environment={**e.environment, "versions": NUMPY_3}), "version", "noted",
         ["version of numpy: 2.4.6 in A, 3 in B"]),
        (lambda e: replace(e, environment={**e.environment, "device": "cuda"}), "device", "noted",
         ["device: cpu in A, cuda in B"]),
        (lambda e: replace(e, models=[{**e.models[0], "digest": "ff" * 16}, e.models[1]]), "weights", "noted",
         ["weights or settings of signs-plain: c0dec0dec0de in A, ffffffffffff in B"]),
        (lambda e: replace(e, models=[{**e.models[0], "class_names": ["x", "y"]}, e.models[1]]), "classes",
         "marked", ["classes of signs-plain: 16 classes (Speed limit 20, Speed limit 30, ...) in A"]),
        (lambda e: change_cell(e, 0, parameters={"steps": 9}), "attack", "marked",
         ["hyper-parameters of fgsm-linf-8 on signs-plain: steps 1 in A, steps 9 in B"]),
        (lambda e: change_cell(e, 0, identity={"attack": "FGSM()"}), "attack", "marked", ["FGSM() in B"]),
        (lambda e: change_cell(e, 0, identity={"code of my.py": "9"}), "attack", "marked", ["code of my.py"]),
        (lambda e: change_cell(e, 0, identity={"threat": "region='mask'"}), "threat model", "marked",
         ["threat model of fgsm-linf-8 on signs-plain: absent in A, region='mask' in B"]),
        (lambda e: change_cell(e, 0, identity={"surrogate": "aa"}), "surrogate", "marked", ["surrogate of"]),
        (lambda e: change_cell(e, 0, images=50), "images", "noted", ["96 images in A, 50 images in B"]),
        (lambda e: replace(e, cells=e.cells[1:]), "missing", "marked",
         ["fgsm-linf-8 (linf-8) on signs-plain: present in A, absent in B"]),
    ],
)  # fmt: skip
def test_each_difference_is_named_with_both_values(evidence, change, kind, effect, parts):
    differences = find_run_differences(evidence, change(evidence))
    assert [(difference.kind, difference.effect) for difference in differences] == [(kind, effect)]
    line = differences[0].describe_values("A", "B")
    assert all(part in line for part in parts), line
    assert has_same_images(differences) == (kind != "data")
    swapped = find_run_differences(change(evidence), evidence)
    assert [(one.kind, one.first, one.second) for one in swapped] == [
        (kind, differences[0].second, differences[0].first)
    ]


def test_a_difference_concerns_its_own_cells(evidence):
    other = change_cell(evidence, 0, parameters={"steps": 9})
    (difference,) = find_run_differences(evidence, other)
    assert difference.concerns_cell(evidence.cells[0].record.key)
    assert not difference.concerns_cell(evidence.cells[1].record.key)
    (seed,) = find_run_differences(evidence, replace(evidence, seed=7))
    assert seed.concerns_cell("any")


def test_unfinished_and_long_values(evidence):
    cell = evidence.cells[0]
    partial = replace(cell, reported_status="partial", problem="stopped after 3 of 96 images")
    other = replace(evidence, cells=(partial, *evidence.cells[1:]))
    (difference,) = find_run_differences(evidence, other)
    assert difference.kind == "unfinished"
    assert difference.second == "partial (stopped after 3 of 96 images)"
    skipped = replace(evidence, cells=(replace(cell, reported_status="skipped"), *evidence.cells[1:]))
    assert find_run_differences(skipped, skipped) == ()
    (long,) = find_run_differences(evidence, replace(evidence, seed="9" * 500))
    assert len(long.second) == 160


def test_an_attack_with_other_hyper_parameters_is_paired_by_its_card(evidence):
    changes = {"attack": "pgd50-linf-8[restarts=1]", "parameters": {"restarts": 1}}
    other = change_cell(evidence, 3, **changes)
    (difference,) = find_run_differences(evidence, other)
    assert difference.describe_values("A", "B") == (
        "hyper-parameters of pgd50-linf-8[restarts=1] on signs-plain: restarts absent in A, restarts 1 in B"
    )


def test_models_are_paired_by_name_or_as_the_user_says(evidence):
    assert [str(pair.second) for pair in pair_subjects(evidence, evidence)] == ["signs-plain", "signs-pgd-at"]
    one, other = select_model(evidence, "signs-plain"), select_model(evidence, "signs-pgd-at")
    (single,) = pair_subjects(one, other)
    assert single.is_renamed
    assert len(pair_cells(one, other, single).pairs) == len(one.cells)
    (chosen,) = pair_subjects(evidence, evidence, {"signs-pgd-at": "signs-plain"})
    assert (chosen.first.model, chosen.second.model) == ("signs-pgd-at", "signs-plain")


def test_models_without_a_partner_are_refused_in_one_line(evidence):
    other = rename_model(rename_model(evidence, "signs-plain", "v1"), "signs-pgd-at", "v2")
    with pytest.raises(
        ConfigError,
        match=r"no model in common: 'signs-plain' and .* 'v1' and 'v2' in the second\. Say which",
    ):
        pair_subjects(evidence, other)
    with pytest.raises(ConfigError, match=r"no model 'signs-plian'.*Did you mean signs-plain\?"):
        pair_subjects(evidence, other, {"signs-plian": "v1"})
    defended = tuple(
        replace(cell, record=replace(cell.record, defense=defense))
        for cell in select_model(evidence, "signs-plain").cells
        for defense in ("jpeg-75", "median-3")
    )
    with pytest.raises(ConfigError, match="with several defenses: 'signs-plain \\+ jpeg-75'"):
        pair_subjects(evidence, replace(evidence, cells=defended), {"signs-plain": "signs-plain"})
    (pair,) = pair_subjects(
        evidence, replace(evidence, cells=defended), {"signs-plain": "signs-plain + jpeg-75"}
    )
    assert isinstance(pair, SubjectPair)
    assert pair.second.defense == "jpeg-75"
