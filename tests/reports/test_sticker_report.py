"""The forms of a report with stickers: page, JSON, CSV, Markdown, figures, terminal; and gates on them."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from dataclasses import replace

import pytest
from rich.console import Console
from sample_run import HOSTILE_CLASS_NAMES, SampleRun, build_run
from sample_stickers import FRAMES_PER_DRIVE, VIEWS_PER_SIGN, SampleStickers, build_sticker_run
from test_report_page import HtmlReader

from robustbench_local.cli.result_tables import build_results_table
from robustbench_local.reports import write_report
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.analysis.sticker_results import SIMULATION_LIMITS
from robustbench_local.reports.formatting.text import format_estimate, format_interval, format_percent
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.sections.stickers_section import STICKERS
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore, SurfaceRecord
from robustbench_local.store.digests import write_digests


@pytest.fixture(scope="module")
def stickers(tmp_path_factory, report_run):
    return report_run(build_sticker_run(tmp_path_factory.mktemp("stickers") / "run"))


@pytest.fixture(scope="module")
def content(stickers):
    with RunStore.open_readonly(stickers.run_dir) as store:
        return read_report_data(store)


def plain(text: str) -> str:
    return " ".join(text.replace("\xa0", " ").replace("\N{WORD JOINER}", "").split())


def test_the_page_is_well_formed_and_runs_nothing(stickers):
    page = HtmlReader(stickers.html)
    assert page.open == []
    assert "<script" not in stickers.html
    assert len(page.list_attributes("table")) == len(page.list_attributes("thead"))
    assert all("scope" in cell for cell in page.list_attributes("th"))
    assert all(not attributes.get("style") for _, attributes in page.elements)
    assert all(image.get("alt") for image in page.list_attributes("img"))
    assert all(image["src"].startswith("data:image/png") for image in page.list_attributes("img"))


def test_a_reader_finds_what_was_done_what_happened_and_what_it_does_not_prove(stickers, content):
    text = plain(HtmlReader(stickers.html).page_text)
    first = content.get_content(STICKERS).results[0]
    assert plain(SIMULATION_LIMITS) in text
    assert "if an attacker may put a sticker on 10% of the sign?" in text
    assert f"signs-plain, on 3 of 4 signs: {100 * first.attack_success.value:.1f}%" in text
    assert f"{plain(format_estimate(first.misread_rate))} not classified as Stop" in text
    assert "of the simulated views in which the clean sign is classified correctly" in text
    assert f"{first.drive_by.longest_run} of {FRAMES_PER_DRIVE}" in text
    assert "1 of 4 signs is excluded because the model misclassifies it in more than 5% of the clean" in text
    assert "mean confidence when misclassified as a target" in text.lower()
    assert text.index("Each frame surrounds one simulated view") < text.index("Some held-out views")
    assert text.count("Each frame surrounds one simulated view") == 1
    assert "photograph" not in text.partition("Methods and environment")[0]
    assert "random colours in the same place" in text
    assert "expected severity" in text.lower()
    success = content.get_content(STICKERS).results[1].attack_success
    assert f"signs-pgd-at under sticker-10: {100 * success.value:.1f}%" in text


def test_pictures_show_signs_that_count_and_what_was_read(stickers, content):
    pages = content.get_content(STICKERS).images[content.get_content(STICKERS).results[0].cell.record.key]
    assert [page.sign.image for page in pages] == ["signs/test/14/00000", "signs/test/14/00001"]
    first = pages[0]
    assert (len(first.view_images), len(first.frame_images)) == (8, 12)
    assert {one.outcome for one in (*first.view_images, *first.frame_images)} <= {"success", "correct"}
    looks = first.sign.views["approach"]
    assert [one.size_pixels for one in first.frame_images] == sorted(
        one.size_pixels for one in first.frame_images
    )
    assert first.frame_images[-1].size_pixels == looks.size_pixels[-1]
    assert first.prediction_without_camera == "Speed limit 50"
    assert first.stickered_image.shape == first.clean_image.shape == (32, 32, 3)
    shown = [
        image
        for image in HtmlReader(stickers.html).list_attributes("img")
        if "px large" in (image.get("alt") or "")
    ]
    assert len(shown) == 2 * 2 * (8 + 12)


def test_other_reports_have_no_such_section(sample):
    assert "stickers" not in {attributes.get("id") for _, attributes in HtmlReader(sample.html).elements}
    assert not (sample.page_path.parent / "sticker_views.csv").exists()
    assert json.loads(sample.read_text("results.json"))["stickers"] == []


def test_the_drive_by_has_an_interval_over_signs_and_none_over_frames(stickers, content):
    drive = content.get_content(STICKERS).results[0].drive_by
    over_frames = compute_clopper_pearson(
        round(drive.success_share * drive.counted_frames), drive.counted_frames
    )
    assert plain(f"{drive.successful_drives.count} of 3 {format_interval(drive.successful_drives)}") in plain(
        HtmlReader(stickers.html).page_text
    )
    assert (
        f"{drive.successful_drives.count} of 3 ({format_interval(drive.successful_drives)})"
        in stickers.read_text("report.md")
    )
    for name in ("report.html", "report.md"):
        assert format_percent(drive.success_share) in stickers.read_text(name)
        assert format_interval(over_frames) not in stickers.read_text(name)


def test_a_void_model_does_not_decide_what_the_tables_hold(tmp_path, report_run):
    run = build_sticker_run(tmp_path / "run")
    database = sqlite3.connect(run / "run.db")
    database.execute(
        "UPDATE outcomes SET status = 'void', clean_correct = 0, broken = 0 WHERE cell LIKE '00%'"
    )
    write_digests(database)
    database.commit()
    database.close()
    page = report_run(run)
    tables = re.findall(r'<table class="booktabs signs">.*?</table>', page.html, re.DOTALL)
    widths = [
        [
            sum(int(span or 1) for span in re.findall(r'<t[hd](?: [^>]*?(?:colspan="(\d+)")?[^>]*)?>', row))
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        ]
        for table in tables
    ]
    assert widths == [[6, 6, 6], [6, 6]], "the views, and the drives of those that have any"
    text = plain(HtmlReader(page.html).page_text)
    assert "Severity, from 0 to 1: made up." in text
    assert "Speed limit 50 0.30" in text
    lines = page.read_text("report.md").splitlines()
    start = next(
        place for place, line in enumerate(lines) if line.startswith("| model | attack success over views")
    )
    assert len({line.count("|") for line in lines[start : start + 4]}) == 1


def test_results_json_has_every_number(stickers, content):
    results = json.loads(stickers.read_text("results.json"))
    first = results["stickers"][0]
    counted = content.get_content(STICKERS).results[0]
    assert first["sticker_success"]["value"] == counted.attack_success.value
    views, signs = first["sticker_success"], first["sticker_success_over_signs"]
    assert (signs["value"], signs["n"]) == (views["value"], views["n"])
    assert signs["low"] < views["low"] < views["high"] < signs["high"]
    assert (first["signs"], first["signs_counted"], first["signs_broken"]) == (4, 3, counted.broken_signs)
    assert [control["is_met"] for control in first["controls"]] == [True, True, True, False, True]
    assert "exact McNemar" in first["controls"][3]["reason"]
    assert "no clear difference" in first["controls"][3]["consequence"]
    assert first["controls"][2]["misread_rate"]["value"] == counted.controls[2].misread_rate.value
    assert first["void_success"]["n"] + first["sticker_success"]["n"] == first["overall_success"]["n"]
    assert first["surface"] is None
    assert [control["invalid_count"] for control in first["controls"]] == [0] * 5
    assert first["no_views_comparison"]["p_value"] == counted.no_views_comparison.p_value
    assert (
        sum(sum(square["n"] for square in row) for row in first["view_map"]["success"]) == 3 * VIEWS_PER_SIGN
    )
    assert first["drive_by"]["longest_run"] == counted.drive_by.longest_run
    assert (first["drive_by"]["value"], first["drive_by"]["n"]) == (
        counted.drive_by.success_share,
        3 * FRAMES_PER_DRIVE,
    )
    assert (first["drive_by"]["low"], first["drive_by"]["high"]) == (None, None)
    assert first["drive_by"]["successful_drives"]["value"] == counted.drive_by.successful_drives.value
    worst = first["view_map"]["worst"]
    assert (worst["bins"], worst["level"], worst["low"]) == (
        12,
        1 - 0.05 / 12,
        counted.view_map.worst_bin.estimate.low,
    )
    assert first["severity"]["worst"] == pytest.approx(0.3)
    assert [sign["status"] for sign in first["by_sign"]] == ["counted"] * 3 + ["void"]
    assert results["worst_case"] == []
    assert results["cells"][0]["measure"] == "views"


def test_every_look_is_a_row_of_a_spreadsheet(stickers, content):
    rows = list(csv.DictReader(io.StringIO(stickers.read_text("sticker_views.csv"))))
    assert len(rows) == 2 * 4 * (6 * VIEWS_PER_SIGN + 2 * FRAMES_PER_DRIVE)
    chosen = [
        row for row in rows if (row["model"], row["kind"], row["counted"]) == ("signs-plain", "view", "True")
    ]
    right = {
        (row["position"], row["number"])
        for row in chosen
        if row["condition"] == "clean" and row["prediction"] == row["label"]
    }
    hits = [
        row
        for row in chosen
        if row["condition"] == "sticker"
        and row["prediction_name"].startswith("Speed limit")
        and (row["position"], row["number"]) in right
    ]
    assert (len(hits), len(right)) == (
        content.get_content(STICKERS).results[0].attack_success.count,
        content.get_content(STICKERS).results[0].attack_success.n,
    )
    head, *lines = csv.reader(io.StringIO(stickers.read_text("results.csv")))
    shares = [line[head.index("sticker_success")] for line in lines]
    assert [float(share) for share in shares] == [
        one.attack_success.value for one in content.get_content(STICKERS).results
    ]


def test_markdown_has_the_same_tables(stickers):
    text = stickers.read_text("report.md")
    assert "## Stickers" in text
    assert SIMULATION_LIMITS in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    rules = [place for place, line in enumerate(tables) if line.startswith("| ---")]
    widths = [line.count("|") for line in tables]
    assert all(widths[place] == widths[place - 1] == widths[place + 1] for place in rules)


def test_the_table_of_cells_has_no_second_answer(stickers):
    html, lines = plain(HtmlReader(stickers.html).page_text), stickers.read_text("report.md").splitlines()
    (row,) = (line for line in lines if line.startswith("| signs-pgd-at | sticker-10 | done"))
    cells = row.strip("| ").split(" | ")
    told = ["signs that count 3 of 4", "—", "success in most views 0 of 3 (0.0\N{EN DASH}70.8%)", "—"]
    assert [plain(cell) for cell in cells[4:8]] == told
    assert f"{told[0]}; {told[2]}" in html


def test_a_surface_that_is_not_the_sign_is_named(tmp_path, report_run):
    surface = SurfaceRecord(what="the mask '<b>'", pixels=30.4, covered=30.4, image_pixels=1024)
    sample = SampleStickers(models=("signs-plain",), eps=1.0, threat="poster-100", surface=surface)
    page = report_run(build_sticker_run(tmp_path / "run", sample))
    title = "if an attacker may put a sticker anywhere on the mask '<b>' (3.0% of the image, on average)?"
    covers = "A sticker may cover all of the surface: on average 30 of 1,024 pixels, 3.0% of the image."
    for text in (
        plain(HtmlReader(page.html).page_text),
        plain(page.read_text("report.md").replace("&lt;b&gt;", "<b>")),
    ):
        assert title in text
        assert re.search("poster-100:? sticker anywhere on the mask '<b>'", text)
        assert f"{covers} The surface is the mask '<b>'." in text
        assert "of the sign?" not in text
    assert json.loads(page.read_text("results.json"))["stickers"][0]["surface"]["share"] == 30.4 / 1024
    part = replace(sample, eps=0.1, threat="sticker-10", surface=replace(surface, covered=3.0))
    text = plain(report_run(build_sticker_run(tmp_path / "part", part)).read_text("report.md"))
    assert "put a sticker on 10% of the mask" in text
    assert "A sticker may cover 10% of the surface: on average 3 of 1,024 pixels, 0.3% of" in text


def test_each_map_is_a_figure(stickers):
    names = {path.name for path in (stickers.page_path.parent / "figures").iterdir()}
    assert {"stickers-1.png", "stickers-2.png"} <= names


def test_the_terminal_says_it_in_a_line(stickers, content):
    console = Console(width=160, record=True)
    with console.capture() as captured:
        console.print(build_results_table(json.loads(stickers.read_text("results.json"))))
    shown = plain(captured.get())
    assert "sticker-10: views of 3 of 4 signs" in shown
    assert f"{100 * content.get_content(STICKERS).results[1].attack_success.value:.1f}%" in shown


def test_findings_name_the_controls_that_fail(tmp_path, content):
    (text,) = (finding.text for finding in content.findings if "control" in finding.text)
    assert "signs-plain, control “optimized without views, on the sign as it is”" in text
    run = build_sticker_run(
        tmp_path / "run", SampleStickers(models=("signs-pgd-at",), sign_count=1, void_count=0)
    )
    with RunStore.open_readonly(run) as store:
        found = [finding.text for finding in read_report_data(store).findings]
    (text,) = (text for text in found if "control" in text)
    shares = (
        "on the sign as it is”: 0.0% (0.0\N{EN DASH}1.8%, n = 200) of the views, clearly lower (p < 0.001)"
    )
    follows = "optimizing over views makes no clear difference; 5 views misclassified only under"
    assert f"{shares} expected; {follows}" in plain(text)
    run = build_sticker_run(
        tmp_path / "other", SampleStickers(models=("signs-plain",), sign_count=2, void_count=2)
    )
    page = plain(HtmlReader(write_report(run).read_text(encoding="utf-8")).page_text)
    assert "is invalid: no sign is classified correctly in 95% of its clean views" in page
    assert "No answer: no sign is classified correctly in enough of its clean views." in page


def test_a_patch_and_hostile_names_are_shown_as_they_are(tmp_path, report_run):
    sample = SampleStickers(
        models=("<script>alert(1)</script>",), norm="patch", threat="patch-10", has_controls=False,
        class_names=HOSTILE_CLASS_NAMES,
    )  # fmt: skip
    page = report_run(build_sticker_run(tmp_path / "run", sample))
    assert "<script" not in page.html
    assert "<img src=x" not in page.html
    assert HtmlReader(page.html).open == []
    assert "put a patch beside the sign on 10% of the image" in plain(HtmlReader(page.html).page_text)
    fields = list(csv.reader(io.StringIO(page.read_text("sticker_views.csv"))))
    assert not any(field.startswith(("=", "+", "@")) for row in fields for field in row)


@pytest.mark.parametrize(
    ("gate", "rulings"),
    [
        ({"threat": "sticker-10", "max": 0.005}, ["fail", "fail"]),
        ({"threat": "sticker-10", "max": 0.6}, ["pass", "pass"]),
        ({"attack": "sticker-10", "model": "signs-pgd-at", "max": 0.2}, ["pass"]),
        ({"attack": "sticker-10", "model": "signs-pgd-at", "max": 0.1}, ["inconclusive"]),
        ({"attack": "sticker-10", "model": "signs-pgd-at", "max": 0.03}, ["inconclusive"]),
        ({"attack": "sticker-10", "model": "signs-pgd-at", "max": 0.03, "on": "estimate"}, ["pass"]),
        ({"threat": "sticker-19", "max": 0.5}, ["inconclusive"]),
    ],
)
def test_gates_on_the_share_of_views(content, gate, rulings):
    report = judge_evidence(content.evidence, [{"metric": "sticker_success", **gate}])
    assert [one.ruling for one in report.verdicts] == rulings, report.summary_lines


@pytest.mark.parametrize(
    ("sample", "condition", "ruling", "reason"),
    [
        (
            SampleStickers(sign_count=20, void_count=11),
            None,
            "inconclusive",
            "more than half of the signs are void (11 of 20)",
        ),
        (SampleStickers(sign_count=8, void_count=4), None, "pass", ""),
        (SampleStickers(), "clean", "inconclusive", "the control “the whole sign painted” reaches 0.0%"),
        (
            SampleStickers(),
            "barred",
            "inconclusive",
            "the control “the whole sign painted” has no result: it violated the threat model",
        ),
        (SampleStickers(has_controls=False), None, "pass", ""),
        (
            SampleStickers(eps=1.0),
            None,
            "inconclusive",
            (
                "the control “the whole sign painted” has no result: "
                "not run, since the attack may already paint the whole"
            ),
        ),
    ],
)
def test_a_gate_passes_only_with_its_controls(tmp_path, sample, condition, ruling, reason):
    run = build_sticker_run(tmp_path / "run", replace(sample, models=("signs-plain",)))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    for sign in evidence.cells[0].signs:
        looks = sign.views["view"]
        if condition == "clean":
            looks.predictions["whole-sign"] = looks.predictions["clean"]
        elif condition == "barred":
            looks.predictions.pop("whole-sign")
            object.__setattr__(looks, "invalid_controls", frozenset({"whole-sign"}))
    gate = {"metric": "sticker_success", "threat": "sticker-10", "max": 0.6}
    report = judge_evidence(evidence, [gate])
    (verdict,) = report.verdicts
    assert (verdict.ruling, report.exit_code) == (ruling, 4 if reason else 0)
    assert plain(reason) in plain(verdict.reason)
    assert plain(format_estimate(evidence.cells[0].sticker_success_over_signs)) in plain(verdict.reason)
    failing = judge_evidence(evidence, [{**gate, "max": 0.01}])
    assert failing.exit_code == 1, "what is broken stays broken, whatever the controls say"


def test_a_poster_that_turns_nearly_all_views_is_not_weak_and_one_that_turns_enough_need_not_be(tmp_path):
    run = build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",), eps=1.0))
    with RunStore.open_readonly(run) as store:
        evidence = read_evidence(store)
    success = evidence.cells[0].sticker_success
    assert 0.1 < success.low < success.high < 0.6
    gate = {"metric": "sticker_success", "threat": "sticker-10"}
    verdicts = judge_evidence(evidence, [{**gate, "min": 0.1}, {**gate, "max": 0.6}]).verdicts
    assert [one.ruling for one in verdicts] == ["pass", "inconclusive"]
    for sign in evidence.cells[0].signs:
        sign.views["view"].predictions["sticker"][:-10] = 0
    assert 0.9 < evidence.cells[0].sticker_success.value < 1
    (verdict,) = judge_evidence(evidence, [{**gate, "max": 0.999}]).verdicts
    assert (verdict.ruling, plain(verdict.reason).endswith("views of 3 of 4 signs")) == ("pass", True)


def test_gates_keep_looks_and_images_apart(content, tmp_path):
    others = [{"metric": "attack_success", "attack": "sticker-10", "max": 0.5}]
    assert (
        judge_evidence(content.evidence, others).verdicts[0].reason.startswith("the run has no such result")
    )
    with RunStore.open_readonly(build_run(tmp_path / "run", SampleRun(has_images=False))) as store:
        digital = judge_evidence(
            read_report_data(store).evidence,
            [{"metric": "sticker_success", "attack": "stop-to-speed-limit", "max": 1}],
        )
    assert digital.exit_code == 4
    run = build_sticker_run(tmp_path / "void", SampleStickers(sign_count=1, void_count=1))
    with RunStore.open_readonly(run) as store:
        void = judge_evidence(
            read_report_data(store).evidence,
            [{"metric": "sticker_success", "threat": "sticker-10", "max": 1}],
        )
    assert [one.reason for one in void.verdicts] == ["no view counts: every sign is excluded"] * 2
