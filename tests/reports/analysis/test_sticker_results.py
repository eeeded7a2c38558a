"""Numbers of stickers: held-out views, controls, bins, the drive-by; against counting by hand."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from sample_run import SPEED_LIMIT_CLASSES, STOP_CLASS
from sample_stickers import (
    FRAMES_PER_DRIVE,
    MISREAD_SIZE_PIXELS,
    VIEWS_PER_SIGN,
    SampleStickers,
    build_sticker_run,
)

from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.analysis.sticker_results import build_sticker_results, describe_sticker
from robustbench_local.reports.analysis.sticker_viewpoints import SIGN_SIDE_SHARE, build_view_map
from robustbench_local.reports.formatting.text import format_estimate
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore
from robustbench_local.store.digests import write_digests
from robustbench_local.threats.physical import camera


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build_sticker_run(tmp_path_factory.mktemp("stickers") / "run")


@pytest.fixture(scope="module")
def results(run):
    with RunStore.open_readonly(run) as store:
        return build_sticker_results(read_evidence(store))


def plain(text: str) -> str:
    return text


def by_hand(run, model: int, condition: str, accept) -> tuple[int, int]:
    """Hits and views, counted over the rows of the store without any of the report's code."""
    hits = total = 0
    with RunStore.open_readonly(run) as store:
        key = store.read_cells()[model].key
        looks = {
            (one.position, one.condition): one.predictions
            for one in store.read_view_predictions(key)
            if one.kind == "view"
        }
        for row in store.read_outcomes(key):
            if row.status != "ok":
                continue
            for clean, read in zip(looks[row.position, "clean"], looks[row.position, condition], strict=True):
                total += clean == STOP_CLASS
                hits += clean == STOP_CLASS and accept(read)
    return hits, total


@pytest.mark.parametrize("model", [0, 1])
def test_success_is_over_views_in_which_the_clean_sign_is_read_rightly(run, results, model):
    hits, total = by_hand(run, model, "sticker", lambda read: read in SPEED_LIMIT_CLASSES)
    success = results[model].attack_success
    assert (success.count, success.n) == (hits, total)
    assert total == 3 * VIEWS_PER_SIGN
    assert 0 < hits < total
    kept = by_hand(run, model, "sticker", lambda read: read == STOP_CLASS)[0]
    assert results[model].misread_rate.count == total - kept


def test_void_signs_are_listed_and_do_not_count(results):
    (void,) = results[0].void_signs
    assert void.status == "void"
    assert void.clean_accuracy.value == pytest.approx(0.8)
    assert results[0].counted_signs == 3
    assert [row.sign.is_counted for row in results[0].rows] == [True, True, True, False]


def test_controls_are_kept_or_not(run, results):
    clean, nothing, chance, flat, whole = results[0].controls
    assert (nothing.success_share.count, nothing.is_met, nothing.reason) == (0, True, "")
    assert nothing.success_share.n == 3 * VIEWS_PER_SIGN
    assert clean.success_share.n == 4 * VIEWS_PER_SIGN
    assert (clean.success_share.value, clean.is_met) == (pytest.approx((3 + 0.8) / 4), True)
    assert (
        chance.success_share.count
        == by_hand(run, 0, "random-colours", lambda read: read in SPEED_LIMIT_CLASSES)[0]
    )
    assert (chance.success_share.value, chance.is_met) == (pytest.approx(0.02), True)
    assert 0.001 < results[0].no_views_comparison.p_value < 0.05
    assert (flat.is_met, results[1].controls[3].is_met) == (False, True)
    assert plain(flat.expected) == "clearly lower (p < 0.001)"
    assert "exact McNemar p" in flat.reason
    assert (whole.success_share.value, whole.is_met) == (1.0, True)
    assert [one.remarks for one in (clean, nothing, chance, whole)] == [""] * 4, "kept: nothing follows"
    assert clean.name == "clean sign, no sticker (all signs, void ones too)"


def test_what_random_colours_do_is_counted_beyond_the_targets(tmp_path):
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",)))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    for sign in evidence.cells[0].signs:
        sign.views["view"].predictions["random-colours"][1::10] = 13  # Yield, which nobody wants
    (result,) = build_sticker_results(evidence)
    clean, nothing, chance, *_ = result.controls
    assert (chance.success_share.count, chance.misread_rate.count) == (
        3 * VIEWS_PER_SIGN // 50,
        3 * (VIEWS_PER_SIGN // 50 + VIEWS_PER_SIGN // 10),
    )
    assert (nothing.misread_rate.count, nothing.misread_rate.n) == (0, 3 * VIEWS_PER_SIGN)
    assert not clean.misread_rate.is_known
    assert f"with random colours {format_estimate(chance.misread_rate)}" in describe_sticker(result)


def test_controls_that_fail_say_so(tmp_path):
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",), void_count=2))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
        (cell,) = evidence.cells
        for sign in cell.signs:  # as if random colours did as well as the sticker, and views did not help
            looks = sign.views["view"].predictions
            looks["random-colours"] = looks["without-views"] = looks["sticker"]
            looks["whole-sign"] = looks["clean"]
            looks["no-size"] = np.roll(looks["clean"], 1)  # read otherwise where nothing was put
        (result,) = build_sticker_results(evidence)
    assert [control.is_met for control in result.controls] == [False] * 5
    assert "views are classified otherwise than the clean sign" in plain(result.controls[1].reason)
    assert result.controls[0].success_share.value == pytest.approx(0.9)
    assert result.no_views_comparison.p_value == 1.0
    follows = [control.consequence for control in result.controls]
    assert len(set(follows)) == 5
    assert all(one.remarks.startswith(one.consequence) for one in result.controls)
    assert "the result only holds for the signs that count" in follows[0]
    assert "weak" in follows[-1]
    warned = [finding.text for finding in list_findings(evidence) if "control" in finding.text]
    assert all(any(one in text for text in warned) for one in follows)


def bar(run, condition: str, positions: tuple[int, ...]) -> None:
    """As an evaluation leaves it if the control breaks a rule on these signs."""
    database = sqlite3.connect(run / "run.db")
    for place in positions:
        unseen = "UPDATE sightings SET predictions = '[]', confidences = '[]'"
        database.execute(f"{unseen} WHERE position = ? AND condition = ?", (place, condition))
        told = f"control {condition}: pixels leave the box [0, 1]"
        database.execute("UPDATE outcomes SET error = ? WHERE position = ?", (told, place))
    write_digests(database)
    database.commit()
    database.close()


@pytest.mark.parametrize("positions", [(1,), (0, 1, 2)])
def test_a_control_that_breaks_a_rule_is_not_a_kept_one(tmp_path, results, positions):
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-pgd-at",)))
    bar(run, "without-views", positions)
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    (result,) = build_sticker_results(evidence)
    flat, before = result.controls[3], results[1].controls[2]
    assert (before.is_met, before.invalid_count) == (True, 0)
    assert (flat.is_met, flat.invalid_count, flat.success_share.n) == (
        None,
        len(positions),
        (3 - len(positions)) * VIEWS_PER_SIGN,
    )
    told = "control without-views: pixels leave the box [0, 1]"
    assert flat.reason == f"it violated the threat model on {len(positions)} of 3 signs ({told})"
    assert result.attack_success == results[1].attack_success
    assert [row.no_views_success.is_known for row in result.rows[:3]] == [
        one not in positions for one in range(3)
    ]
    assert any(flat.name in finding.text and told in finding.text for finding in list_findings(evidence))


def test_one_view_is_not_views(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), sign_count=1, void_count=0)
    )
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    looks = evidence.cells[0].signs[0].views["view"].predictions
    looks["sticker"], looks["without-views"] = looks["clean"].copy(), looks["clean"]
    looks["sticker"][0] = SPEED_LIMIT_CLASSES[0]
    (result,) = build_sticker_results(evidence)
    assert result.controls[3].reason.startswith(
        "1 view misclassified only under the sticker, 0 only under this control; exact"
    )


def test_a_poster_has_no_whole_sign_beside_it(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), eps=1.0, threat="poster-100")
    )
    with RunStore.open_readonly(run) as store:
        (result,) = build_sticker_results(read_evidence(store))
    whole = result.controls[-1]
    assert (whole.name, whole.is_met, whole.success_share.is_known) == ("the whole sign painted", None, False)
    assert whole.reason.startswith("not run, since the attack may already paint the whole surface; a low")


def test_what_is_left_out_is_counted_beside(tmp_path, results):
    first = results[0]
    hits = [looks_hit(row.sign) for row in first.rows]
    assert (first.void_success.count, first.void_success.n) == hits[3]
    assert hits[3][1] == VIEWS_PER_SIGN - VIEWS_PER_SIGN // 5
    assert (first.overall_success.count, first.overall_success.n) == tuple(map(sum, zip(*hits, strict=True)))
    assert first.overall_success.n == first.attack_success.n + first.void_success.n
    assert first.other_class_rate.count == first.misread_rate.count - first.attack_success.count
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",)))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    (text,) = (one.text for one in list_findings(evidence) if "is excluded because" in one.text)
    why = "1 of 4 signs is excluded because the model misclassifies it in more than 5% of the clean views."
    shares = f"on the one excluded, attack success is {format_estimate(first.void_success)}, on all together"
    assert why in text
    assert f"the 3 that it classifies best; {shares} {format_estimate(first.overall_success)}." in text
    evidence.cells[0].signs[3].views["view"].predictions["clean"][:] = 13
    (text,) = (one.text for one in list_findings(replace(evidence)) if "is excluded because" in one.text)
    assert "no view of the one excluded is classified correctly" in text


def test_signs_that_were_not_attacked_are_told_apart_from_void_ones(tmp_path):
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",)))
    database = sqlite3.connect(run / "run.db")
    for table in ("sightings", "views"):
        database.execute(f"DELETE FROM {table} WHERE position = 0")
    database.execute("UPDATE outcomes SET status = 'clean-wrong', clean_correct = 0 WHERE position = 0")
    write_digests(database)
    database.commit()
    database.close()
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    texts = [one.text for one in list_findings(evidence)]
    assert any(
        "1 of 4 signs is excluded because the model misclassifies it in more" in text for text in texts
    )
    assert any(
        "1 of 4 signs was not attacked because the model misclassifies it without a sticker." in text
        for text in texts
    )
    (result,) = build_sticker_results(evidence)
    assert (result.sign_count_text, result.overall_success.n) == (
        "2 of 4 signs",
        2 * VIEWS_PER_SIGN + VIEWS_PER_SIGN - VIEWS_PER_SIGN // 5,
    )


def test_where_every_sign_is_void_the_warning_says_what_the_sticker_did(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), sign_count=2, void_count=2)
    )
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    (result,) = build_sticker_results(evidence)
    (text,) = (one.text for one in list_findings(evidence) if "is invalid" in one.text)
    assert text.endswith(
        f"Over the views in which they are, attack success is {format_estimate(result.void_success)}."
    )
    assert result.void_success.count > 0


def looks_hit(sign) -> tuple[int, int]:
    """Views turned into a speed limit, and views in which the clean sign is read rightly."""
    read = sign.views["view"].predictions
    right = read["clean"] == STOP_CLASS
    return int((np.isin(read["sticker"], SPEED_LIMIT_CLASSES) & right).sum()), int(right.sum())


def test_a_sticker_that_turns_nothing_has_no_worst_bin_and_nothing_to_compare(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), sign_count=1, void_count=0)
    )
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
        looks = evidence.cells[0].signs[0].views["view"].predictions
        looks["sticker"] = looks["without-views"] = looks["clean"]
        (result,) = build_sticker_results(evidence)
    assert result.attack_success.count == 0
    assert result.view_map.worst_bin is None
    assert "at worst" not in describe_sticker(result)
    flat = result.controls[3]
    assert (flat.is_met, flat.reason) == (None, "the sticker itself succeeds in no view")


def test_targets_add_up_to_all_views(results):
    *targets, together, other, own = results[0].prediction_shares
    assert [share.name for share in (together, other, own)] == [
        "any target",
        "another wrong class",
        "correct class",
    ]
    assert sum(share.share.count for share in targets) == together.share.count
    assert together.share.count + other.share.count + own.share.count == results[0].attack_success.n
    assert targets[2].severity == pytest.approx(0.3)


def test_an_untargeted_sticker_wants_any_wrong_class(tmp_path):
    run = build_sticker_run(tmp_path / "run", SampleStickers(targets=(), models=("signs-plain",)))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    (result,) = build_sticker_results(evidence)
    assert [share.name for share in result.prediction_shares] == ["any wrong class", "correct class"]
    assert result.attack_success.count == result.misread_rate.count > 0
    assert evidence.worst_cases == ()
    assert evidence.headline_threat is None


def test_bins_hold_every_view_once_and_name_the_worst(results):
    found = results[0].view_map
    squares = [square for row in found.rows for square in row]
    assert sum(square.estimate.n for square in squares) == results[0].attack_success.n
    assert sum(square.estimate.count for square in squares) == results[0].attack_success.count
    assert found.distance_labels == ("16 to 23", "23 to 32", "32 to 45", "45 to 64")
    assert found.angle_labels == ("0 to 15", "15 to 30", "30 and more")
    assert found.rows[0][0].estimate.count == 0, f"too far: under {MISREAD_SIZE_PIXELS['signs-plain']} px"
    assert found.worst_bin.estimate.value == 1.0
    assert found.worst_bin.estimate.n >= 10


def test_the_interval_of_the_worst_bin_allows_for_its_choice(results):
    found = results[1].view_map
    eligible = [square.estimate for row in found.rows for square in row if square.estimate.n >= 10]
    worst = max(eligible, key=lambda one: one.value)
    assert 1 < len(eligible) == found.worst_bin.bin_count
    assert found.worst_bin.estimate == compute_clopper_pearson(
        worst.count, worst.n, level=1 - 0.05 / len(eligible)
    )
    assert found.worst_bin.estimate.low < worst.low < worst.high < found.worst_bin.estimate.high
    assert str(found.worst_bin).endswith(f", interval corrected for {len(eligible)} bins")


def test_small_images_show_no_more_of_a_sign_that_is_nearer(results):
    assert "from 25.6 pixels on, views have the same resolution" in results[0].view_map.note
    views = [results[0].rows[0].sign.views["view"]]
    assert SIGN_SIDE_SHARE == camera.SIGN_SHARE
    assert build_view_map(views, SPEED_LIMIT_CLASSES, (3, 64, 224)).note.startswith(
        "The model's images are 64 pixels"
    )
    for shape in [(3, 224, 224), (3, 80, 80), ()]:
        assert build_view_map(views, SPEED_LIMIT_CLASSES, shape).note == ""


def test_the_longest_run_of_frames(results):
    drive = results[0].drive_by
    assert drive.frame_count == FRAMES_PER_DRIVE
    assert drive.counted_frames == 3 * FRAMES_PER_DRIVE
    rng = [np.random.default_rng([place, FRAMES_PER_DRIVE]) for place in range(3)]
    longest, turned = 0, []
    for one in rng:
        yaw = one.uniform(-45, 45, FRAMES_PER_DRIVE)
        marks = (16 * 4 ** np.linspace(0, 1, FRAMES_PER_DRIVE) >= 24) & (np.abs(yaw) < 30)
        turned.append(int(marks.sum()))
        text = "".join("x" if mark else "." for mark in marks)
        longest = max(longest, *map(len, text.split(".")))
    assert drive.longest_run == longest > 1
    assert max(row.drive_by.longest_run for row in results[0].rows[:3]) == longest
    assert drive.success_share == pytest.approx(sum(turned) / (3 * FRAMES_PER_DRIVE))
    assert 0 < sum(one >= FRAMES_PER_DRIVE / 2 for one in turned) < 3
    assert drive.successful_drives == compute_clopper_pearson(
        sum(one >= FRAMES_PER_DRIVE / 2 for one in turned), 3
    )


def test_a_drive_on_which_the_clean_sign_is_never_read_rightly_is_none(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), sign_count=2, void_count=0)
    )
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
        (cell,) = evidence.cells
        cell.signs[0].views["approach"].predictions["clean"][:] = 13
        (one,) = build_sticker_results(evidence)
        cell.signs[1].views["approach"].predictions["clean"][:] = 13
        (none,) = build_sticker_results(replace(evidence))
    assert (one.drive_by.counted_frames, one.drive_by.successful_drives.n) == (FRAMES_PER_DRIVE, 1)
    assert (none.drive_by.counted_frames, none.drive_by.successful_drives.n, none.drive_by.longest_run) == (
        0,
        0,
        0,
    )
    assert math.isnan(none.drive_by.success_share)


def test_severity_is_of_views_and_not_of_signs(results):
    severity = results[0].severity
    expected = sum(share.share.count * share.severity for share in results[0].prediction_shares[:8])
    assert severity.expected.value == pytest.approx(expected / results[0].attack_success.n)
    assert (severity.worst_severity, severity.worst_class) == (pytest.approx(0.3), 2)
    assert results[0].mean_confidence == pytest.approx(0.75)


def test_a_sentence_sums_it_up(tmp_path, results):
    text = describe_sticker(results[0])
    assert text.startswith(f"{100 * results[0].attack_success.value:.1f}%")
    assert "of the views of 3 of 4 signs are misclassified as a target" in text
    assert "of 3 signs in more than half of their views; at worst 100.0%" in text
    first = results[0]
    rate = format_estimate(first.other_class_rate)
    assert (
        f"In a further {rate} the sign is misclassified as a class that is not a target"
        in describe_sticker(first)
    )
    assert (
        f"not classified as Stop: {format_estimate(first.misread_rate)}, with random colours"
        in describe_sticker(first)
    )
    assert first.worst_severity_text.startswith("0.30: Speed limit 50, ")
    assert first.worst_severity_text.endswith(f" of {first.attack_success.n} views")
    run = build_sticker_run(tmp_path / "run", SampleStickers(void_count=4))
    with RunStore.open_readonly(run) as store:
        (first, _) = build_sticker_results(read_evidence(store))
    assert describe_sticker(first).startswith("void: 4 signs")
    assert not first.attack_success.is_known
    assert math.isnan(first.mean_confidence)
    assert first.view_map.rows == ()
    assert first.drive_by is None


def test_few_signs_are_told_sign_by_sign(tmp_path):
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-plain",), sign_count=4, void_count=1)
    )
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    shares = [
        sign.views["view"].mark_successes("sticker", SPEED_LIMIT_CLASSES).mean()
        for sign in evidence.cells[0].signs[:3]
    ]
    (told,) = [one.text for one in list_findings(evidence) if one.text.startswith("Few signs")]
    spread = f"3 signs: {100 * min(shares):.1f}% to {100 * max(shares):.1f}%"
    assert f"sticker-10 on signs-plain ({spread})" in plain(told)
    many = build_sticker_run(
        tmp_path / "many", SampleStickers(models=("signs-plain",), sign_count=20, void_count=0)
    )
    with RunStore.open_readonly(many) as store:
        assert not [one for one in list_findings(read_evidence(store)) if one.text.startswith("Few signs")]
