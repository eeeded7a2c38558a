"""Every ruling of a gate, its exit code, and what a malformed gate is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sample_run import SampleRun, build_run

from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.gates import judge_evidence, judge_run_dir
from robustbench_local.store import RunStore

# With 96 images: signs-pgd-at has a worst case of 42.7% (32.7-53.2%) under linf-8, signs-plain 0 to 4%.
HARDENED = {"metric": "robust_accuracy", "threat": "linf-8", "model": "signs-pgd-at"}


@pytest.mark.parametrize(
    ("limit", "ruling", "code"),
    [
        ({"min": 0.30}, "pass", 0),
        ({"min": 0.40}, "inconclusive", 4),
        ({"min": 0.80}, "fail", 1),
        ({"min": 0.40, "on": "estimate"}, "pass", 0),
        ({"min": 0.50, "on": "estimate"}, "fail", 1),
        ({"min": 0.50, "on": "upper"}, "pass", 0),
        ({"min": 0.80, "on": "upper"}, "fail", 1),
        ({"max": 0.80}, "pass", 0),
        ({"max": 0.50}, "inconclusive", 4),
        ({"max": 0.30}, "fail", 1),
        ({"max": 0.50, "on": "estimate"}, "pass", 0),
        ({"max": 0.35, "on": "lower"}, "pass", 0),
        ({"min": 0.80, "level": "warn"}, "fail", 0),
        ({"min": 0.40, "level": "warn"}, "inconclusive", 0),
    ],
)
def test_rulings_and_exit_codes(content, limit, ruling, code):
    report = judge_evidence(content.evidence, [HARDENED | limit])
    (verdict,) = report.verdicts
    assert 0.40 < verdict.estimate.value < 0.50
    assert 0.30 < verdict.estimate.low < 0.35
    assert 0.50 < verdict.estimate.high < 0.55
    assert (verdict.ruling, report.exit_code) == (ruling, code)


def test_without_a_model_each_one_is_judged(content):
    report = judge_evidence(content.evidence, [{"metric": "robust_accuracy", "threat": "linf-8", "min": 0.3}])
    assert [(str(one.subject), one.ruling) for one in report.verdicts] == [
        ("signs-plain", "fail"),
        ("signs-pgd-at", "pass"),
    ]
    assert report.exit_code == 1
    assert report.summary_lines[0].startswith("FAIL  signs-plain  robust_accuracy[linf-8] = ")


def test_a_failed_gate_outweighs_an_inconclusive_one(content):
    gates = [HARDENED | {"min": 0.4}, HARDENED | {"min": 0.9}]
    assert judge_evidence(content.evidence, gates).exit_code == 1


def test_a_cell_that_failed_makes_its_gate_inconclusive(content):
    gate = {"metric": "robust_accuracy", "threat": "l2-0.5", "min": 0.01}
    plain, hardened = judge_evidence(content.evidence, [gate]).verdicts
    assert (plain.ruling, hardened.ruling) == ("inconclusive", "pass")
    assert "autoattack-l2-0.5" in plain.reason


@pytest.mark.parametrize("status", ["pending", "partial", "error", "skipped"])
def test_a_missing_attack_leaves_a_kept_limit_open_but_not_a_broken_one(build_evidence, status):
    evidence = build_evidence(statuses={("signs-pgd-at", "autoattack-linf-8"): status})
    kept = judge_evidence(evidence, [HARDENED | {"min": 0.3}])
    broken = judge_evidence(evidence, [HARDENED | {"min": 0.9}])
    assert (kept.exit_code, broken.exit_code) == (4, 1)
    assert "autoattack-linf-8" in kept.summary_lines[1]


def test_a_gate_on_cells_that_do_not_exist_is_inconclusive(content):
    report = judge_evidence(
        content.evidence, [{"metric": "robust_accuracy", "threat": "linf-99", "min": 0.1}]
    )
    assert report.exit_code == 4
    assert "no such result" in report.summary_lines[1]


def test_a_threat_gate_does_not_see_targeted_goals_but_an_attack_gate_does(content):
    by_threat = judge_evidence(content.evidence, [HARDENED | {"min": 0.3}])
    by_attack = judge_evidence(
        content.evidence,
        [{"metric": "attack_success", "attack": "stop-to-speed-limit", "model": "signs-plain", "max": 0.1}],
    )
    assert len(by_threat.verdicts) == 1
    assert by_attack.exit_code == 1
    assert by_attack.verdicts[0].estimate.n == 6


def test_an_attack_alone_and_a_card_at_every_radius(content):
    alone = judge_evidence(
        content.evidence,
        [{"metric": "robust_accuracy", "attack": "fgsm-linf-8", "model": "signs-pgd-at", "min": 0.5}],
    )
    assert [one.ruling for one in alone.verdicts] == ["pass"]
    card = judge_evidence(
        content.evidence,
        [{"metric": "robust_accuracy", "attack": "pgd50-linf-8", "model": "signs-pgd-at", "min": 0.1}],
    )
    assert len(card.verdicts) == 3


def test_clean_accuracy_needs_no_threat(content):
    report = judge_evidence(content.evidence, [{"metric": "clean_accuracy", "min": 0.8}])
    assert [one.ruling for one in report.verdicts] == ["pass", "pass"]


def test_no_gates_pass_and_say_so(content):
    report = judge_evidence(content.evidence, [])
    assert (report.exit_code, report.summary_lines) == (0, ["the grid file has no gates"])


def test_a_run_that_was_stopped_before_it_wrote_down_its_gates_is_not_judged(tmp_path):
    run = tmp_path / "run"
    store = RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"seed": "0"})
    store.close()
    report = judge_run_dir(run)
    assert report.exit_code == 4
    assert report.summary_lines == [
        "the run stopped before it stored its gates, so none was evaluated; run the same command again"
    ]
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"seed": "0"}) as store:
        store.set_meta("gates", [])
    assert judge_run_dir(run).exit_code == 0


def test_the_runs_own_gates_are_used(tmp_path):
    gate = {
        "metric": "robust_accuracy",
        "threat": "linf-8",
        "attack": None,
        "model": None,
        "min": 0.99,
        "max": None,
    }
    run = build_run(
        tmp_path / "run",
        SampleRun(images=16, has_images=False, gates=(gate | {"on": "lower", "level": "error"},)),
    )
    assert judge_run_dir(run).exit_code == 1
    assert judge_run_dir(run, []).exit_code == 0


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"metric": "accuracy", "threat": "linf-8", "min": 0.5}, "metric must be one of"),
        ({"metric": "robust_accuracy", "threat": "linf-8"}, "either min or max"),
        ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5, "max": 0.6}, "either min or max"),
        ({"metric": "robust_accuracy", "min": 0.5}, "needs a threat or an attack"),
        ({"metric": "robust_accuracy", "threat": "linf-8", "min": 45}, "between 0 and 1"),
        ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5, "on": "mean"}, "on must be one of"),
        ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.5, "lvl": "warn"}, "unknown key 'lvl'"),
    ],
)
def test_malformed_gates_are_told_what_is_wrong(content, entry, told):
    with pytest.raises(ConfigError, match=told):
        judge_evidence(content.evidence, [entry])


@pytest.mark.parametrize("agrees", [False, True])
def test_no_gate_passes_on_attacks_that_followed_a_twin_unlike_the_model(content, agrees):
    twin = {"same_labels": 57 + agrees, "compared": 64, "agrees": agrees}
    models = tuple({**about, "twin": twin} for about in content.evidence.models)
    cells = tuple(
        replace(cell, record=replace(cell.record, twin="zoo:other")) for cell in content.evidence.cells
    )
    caveat = "attacks followed a twin that gives only 57 of 64 clean images the same label"
    for evidence, is_named in (
        (replace(content.evidence, models=models, cells=cells), not agrees),
        (replace(content.evidence, models=models), False),  # no attack followed it
    ):
        low, high = HARDENED | {"min": 0.3}, HARDENED | {"min": 0.8}
        passed, ignored, failed = judge_evidence(evidence, [low, low | {"trust": "ignore"}, high]).verdicts
        assert (passed.ruling == "inconclusive") is is_named
        assert (ignored.ruling, failed.ruling) == ("pass", "fail")
        assert (caveat in passed.reason) is (caveat in ignored.reason) is is_named
        assert caveat not in failed.reason
