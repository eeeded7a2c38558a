"""Words, findings, answer, matrix, curves, gallery and fonts, each by itself."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_run import SPEED_LIMIT_CLASSES, SampleRun

from robustbench_local.reports.analysis.confusion_by_target import build_target_matrices
from robustbench_local.reports.analysis.example_images import encode_png
from robustbench_local.reports.analysis.robustness_curves import build_curve_panels
from robustbench_local.reports.analysis.run_warnings import list_findings
from robustbench_local.reports.formatting.fonts import select_drawable_text
from robustbench_local.reports.formatting.text import (
    format_duration,
    format_estimate,
    format_percent,
    format_radius,
    format_size_within,
    redact_private_data,
)
from robustbench_local.reports.sections.curves_section import CURVES
from robustbench_local.reports.sections.method_section import METHOD
from robustbench_local.reports.sections.parts import format_share
from robustbench_local.reports.sections.targets_section import TARGETS
from robustbench_local.reports.summary import headline
from robustbench_local.statistics import compute_clopper_pearson
from robustbench_local.store import RunStore


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0.0%"),
        (1.0, "100.0%"),
        (0.542, "54.2%"),
        (0.0002, "<0.1%"),
        (0.9998, ">99.9%"),
        (math.nan, "—"),
    ],
)
def test_a_share_is_never_rounded_to_certainty(share, text):
    assert format_percent(share) == text


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (1 / 255, "1/255"), (128 / 255, "128/255"), (float(np.float32(8 / 255)), "8/255"),
     (0.3, "0.3"), (0.5, "0.5"), (0.0, "0"), (1.0, "1"), (0.0314, "0.0314"), (math.nan, "—")],
)  # fmt: skip
def test_radii_are_written_as_people_write_them(eps, text):
    assert format_radius(eps) == text


@pytest.mark.parametrize(
    ("size", "max_size", "text"),
    [
        (76 / 255, 0.3, "0.298"),
        (0.3, 0.3, "0.3"),
        (8.0000004 / 255, 8 / 255, "8/255"),
        (7.53 / 255, 8 / 255, "7.53/255"),
        (0.5, 1, "0.5"),
        (float("nan"), 0.3, "—"),
    ],
)
def test_a_measured_size_is_written_as_its_budget(size, max_size, text):
    assert format_size_within(size, max_size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (42, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        ("/home/ann/x.pt", "~/x.pt"),
        ("/Users/ann/x y", "~/x y"),
        (r"C:\Users\ann\x", r"~\x"),
        ("at /home/ann: no", "at ~: no"),
        ("https://ann:pw@host/x", "https://***@host/x"),
        ("/homely/x", "/homely/x"),
        ("a\x00b\x1b", "a�b�"),
        ("bad \udcff", "bad \\udcff"),
    ],
)
def test_private_things_are_taken_out(raw, kept):
    assert redact_private_data({"a": [raw, (raw,)], "n": 3}) == {"a": [kept, [kept]], "n": 3}


@pytest.mark.parametrize("home", ["/srv/people/ann", "/"])
def test_the_home_folder_is_shortened_unless_it_is_everything(monkeypatch, home):
    monkeypatch.setattr(Path, "home", lambda: Path(home))
    expected = "~/run, /srv/people/anna" if home != "/" else "/srv/people/ann/run, /srv/people/anna"
    assert redact_private_data("/srv/people/ann/run, /srv/people/anna") == expected


def texts(evidence, level: str) -> list[str]:
    return [finding.text for finding in list_findings(evidence) if finding.level == level]


def test_findings_name_what_is_missing_and_what_is_odd(content):
    incomplete, warnings = texts(content.evidence, "incomplete"), texts(content.evidence, "warning")
    failure = "RuntimeError: the attack raised in ~/secret-project/attack.py, line 12"
    assert incomplete == [f"autoattack-l2-0.5 on signs-plain failed: {failure}."]
    assert any("NaN or infinite logits" in text and "2 images" in text for text in warnings)
    assert any(
        "violated the threat model" in text and "fgsm-linf-8 on signs-plain (1 of" in text
        for text in warnings
    )
    assert any("rounded to 8 bits" in text for text in texts(content.evidence, "note"))
    assert any("Only 6 images under stop-to-speed-limit: " in text for text in warnings)
    alike = tuple(cell for cell in content.evidence.cells if not cell.targeted)
    warnings = texts(replace(content.evidence, cells=alike), "warning")
    assert any("Only 96 images: the 95" in text for text in warnings)
    assert any(text.startswith("1 file of the data") for text in warnings)


def test_the_gravest_findings_come_first(content):
    order = ["void", "untrusted", "incomplete", "warning", "note"]
    levels = [order.index(finding.level) for finding in list_findings(content.evidence)]
    assert levels == sorted(levels)


def test_cells_that_never_ran_share_one_sentence(build_evidence):
    waiting = {(model, f"pgd50-linf-{eps}"): "pending" for model in SampleRun().models for eps in (2, 4, 8)}
    (sentence,) = texts(build_evidence(statuses=waiting, failing_cell=None), "incomplete")
    assert sentence.startswith("6 cells of 14 were not run: pgd50-linf-2 on signs-plain, ")


def test_a_model_whose_clean_answers_change_is_told(content):
    cell = content.evidence.cells[0]
    image, verdict = next((image, v) for image, v in cell.verdicts.items() if v.clean_correct)
    turned = replace(cell, verdicts={**cell.verdicts, image: verdict._replace(clean_correct=False)})
    evidence = replace(content.evidence, cells=(turned, *content.evidence.cells[1:]))
    assert any("1 clean image differently" in text for text in texts(evidence, "warning"))


@pytest.mark.parametrize(("correct", "level"), [(5, "void"), (40, "void"), (44, "warning"), (90, None)])
def test_a_model_that_guesses_is_void(content, correct, level):
    first = content.evidence.cells[0]
    cells = [replace(first, tally=replace(first.tally, clean_correct=correct, broken=0, broken_8bit=0))]
    data = {**content.evidence.data, "class_names": ["a", "b", "c"]}
    evidence = replace(content.evidence, cells=tuple(cells), data=data)
    found = [finding.level for finding in list_findings(evidence) if "Clean accuracy" in finding.text]
    assert found == ([level] if level else [])


def test_the_users_own_question_is_asked(build_evidence):
    assert headline.describe_question(build_evidence(question="Is it safe?")) == "Is it safe?"


def test_one_model_is_named_in_the_question_and_many_are_cut_short(content, build_evidence):
    one = build_evidence(models=("solo",), failing_cell=None, images=32)
    assert headline.describe_question(one).startswith(
        "What is the robust accuracy of solo when an attacker may change every pixel"
    )
    assert headline.describe_answer(one).startswith(
        "Share of images classified correctly although an attacker may change every pixel by at most 8/255: "
        f"{format_estimate(one.worst_cases[0].robust_accuracy)}. Worst case over"
    )


def test_many_models_are_cut_to_the_first_and_the_last(build_evidence):
    many = build_evidence(models=tuple(f"m{number}" for number in range(6)), failing_cell=None, images=32)
    assert "of 6 models, the highest is m" in headline.describe_answer(many)
    pair, *sentences = headline.describe_comparisons(many)
    assert pair.startswith("Strongest pair of classes: ")
    assert len(sentences) == 5


def test_equal_models_tie(content):
    worst = [one for one in content.evidence.worst_cases if one.threat == content.evidence.headline_threat]
    same = replace(worst[0], subject=worst[1].subject)
    _, sentence = headline.describe_comparisons(replace(content.evidence, worst_cases=(worst[0], same)))
    assert sentence.startswith("No significant difference between signs-plain and signs-pgd-at")


def test_an_unfinished_attack_is_confessed_in_the_answer(build_evidence):
    evidence = build_evidence(statuses={("signs-plain", "fgsm-linf-8"): "error"}, failing_cell=None)
    assert headline.describe_answer(evidence).endswith("; unfinished attacks can only lower this.")


def test_the_matrix_accounts_for_every_clean_correct_image(content):
    (matrix,) = content.get_content(TARGETS).matrices
    assert matrix.target_names == tuple(SampleRun().class_names[index] for index in SPEED_LIMIT_CLASSES)
    assert matrix.excluded_count == 90
    for row, cell in zip(
        matrix.rows, (cell for cell in content.evidence.cells if cell.targeted), strict=True
    ):
        assert (
            sum(row.target_counts) + row.other_target_count + row.nonfinite_count
            == row.attack_success.count
            == cell.tally.broken
        )
        assert (
            sum(row.target_counts)
            + row.other_target_count
            + row.nonfinite_count
            + row.other_class_count
            + row.robust_count
            == cell.tally.clean_correct
        )
        assert row.other_class_count == cell.tally.moved_elsewhere
        assert row.attack_success == compute_clopper_pearson(cell.tally.broken, cell.tally.clean_correct)


class Failing:
    """A store in which the attack raised on every image that it did not break."""

    def __init__(self, store):
        self.store = store

    def read_outcomes(self, key):
        rows = self.store.read_outcomes(key)
        return [row if row.broken else replace(row, status="error", moved_elsewhere=False) for row in rows]


def test_an_image_whose_attack_raised_is_not_held(sample, content):
    with RunStore.open_readonly(sample.run_dir) as store:
        (matrix,) = build_target_matrices(Failing(store), content.evidence)
    for row, before in zip(matrix.rows, content.get_content(TARGETS).matrices[0].rows, strict=True):
        assert row.robust_count == 0
        assert row.other_class_count == before.other_class_count + before.robust_count
        assert row.attack_success == before.attack_success
    assert any(row.robust_count for row in content.get_content(TARGETS).matrices[0].rows)


def test_curves_start_at_the_clean_accuracy_and_fall(content):
    panels = build_curve_panels(content.evidence)
    assert [(panel.norm, panel.attack) for panel in panels] == [
        ("Linf", "worst case over all attacks"),
        ("Linf", "pgd50"),
    ]
    for panel in panels:
        assert panel.radii == [0.0, 2 / 255, 4 / 255, 8 / 255]
        for curve in panel.curves:
            assert curve.points[0][1] == content.evidence.compute_clean_accuracy(curve.subject)
            values = [estimate.value for _, estimate in curve.points]
            assert values == sorted(values, reverse=True)


def test_every_mark_of_a_chart_is_a_number_of_its_table(content, sample):
    (panel, *_) = build_curve_panels(content.evidence)
    for eps, estimates in panel.rows:
        assert [curve.points[panel.radii.index(eps)][1] for curve in panel.curves] == list(estimates)
    shorter = replace(panel.curves[0], points=panel.curves[0].points[:2])
    assert replace(panel, curves=(shorter, *panel.curves[1:])).rows[-1][1][0] is None
    encoded = CURVES.to_json(content.evidence)["curves"]
    assert [point["radius"] for point in encoded[0]["points"]] == panel.radii
    assert {entry["quantity"] for entry in encoded} == {"robust accuracy"}
    assert format_share(None) == "\N{EM DASH}"
    first = panel.curves[0].points[1][1]
    assert f"| 2/255 | {format_share(first)} |" in sample.read_text("report.md")
    assert sample.html.count("Numbers of these charts") == 1


def test_one_radius_makes_no_curve(content):
    cells = tuple(cell for cell in content.evidence.cells if cell.record.threat == "linf-8")
    worst = tuple(one for one in content.evidence.worst_cases if one.threat.name == "linf-8")
    assert not build_curve_panels(replace(content.evidence, cells=cells, worst_cases=worst))


def test_large_pictures_are_scaled_down_and_small_ones_kept():
    for side, expected in ((32, 32), (400, 160)):
        with Image.open(io.BytesIO(encode_png(np.full((side, side, 3), 0.5, dtype=np.float32)))) as picture:
            assert picture.size == (expected, expected)
            assert picture.getpixel((0, 0)) == (128, 128, 128)


def test_names_that_no_font_can_draw_get_a_number():
    assert select_drawable_text("Stop", "class 3") == "Stop"
    assert select_drawable_text("\U000f0000", "class 3") == "class 3"
    assert select_drawable_text(" ", "class 3") == "class 3"


def test_the_preprocessing_of_each_model_is_stated_once(content):
    """A model with a defense has that of its baseline; older runs say nothing."""
    known = {"preprocessing": {"text": "shorter side 256, bicubic, center 224x224; BGR, 0..255"}}
    models = [
        {"id": "a_b"} | known,
        {"id": "a_b", "defense": "jpeg"} | known,
        {"id": "old", "preprocessing": None},
    ]
    evidence = replace(content.evidence, models=models)
    lines = [line for line in METHOD.to_markdown((), evidence) if "Preprocessing" in line]
    assert lines == [
        "- Preprocessing inside **a\\_b**: shorter side 256, bicubic, center 224x224; BGR, 0..255."
    ]
