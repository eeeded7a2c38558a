"""The forms of a report with distances, black boxes, transfers and corruptions; and gates on them."""

from __future__ import annotations

import json
import math
import re

import pytest
from rich.console import Console
from test_report_page import HtmlReader

from robustbench_local.cli.result_tables import build_results_table
from robustbench_local.errors import ConfigError
from robustbench_local.reports.analysis.gates import judge_evidence
from robustbench_local.reports.formatting.text import (
    format_budget,
    format_distance,
    format_ratio,
    get_attack_family,
)
from robustbench_local.reports.sections.corruptions_section import CORRUPTIONS

SECTIONS = ("far", "sight", "transfers", "corruptions")


def test_sections_appear_only_where_there_is_something_to_say(transfer_sample, sample):
    shown, ordinary = HtmlReader(transfer_sample.html), HtmlReader(sample.html)
    ids = {attributes.get("id") for _, attributes in shown.elements}
    links = {attributes.get("href") for attributes in shown.list_attributes("a")}
    assert set(SECTIONS) <= ids
    assert {f"#{name}" for name in SECTIONS} <= links
    assert not {attributes.get("id") for _, attributes in ordinary.elements} & set(SECTIONS)


def test_the_page_is_well_formed_and_runs_nothing(transfer_sample):
    page = HtmlReader(transfer_sample.html)
    assert page.open == []
    assert "<script" not in transfer_sample.html
    assert len(page.list_attributes("table")) == len(page.list_attributes("thead"))
    assert all("scope" in cell for cell in page.list_attributes("th"))
    assert all(not attributes.get("style") for _, attributes in page.elements)


def test_the_page_says_what_each_attacker_saw_and_spent(transfer_sample):
    text = HtmlReader(transfer_sample.html).page_text
    assert "hopskipjump-linf-8 L∞ ≤ 8/255 labels" in text
    assert "10,000, 10,000" in text
    assert "Average case, no adversary" in text
    assert "rotation ≤ 30°, shift ≤ 10%" in text


def test_the_curve_of_a_distance_attack_has_few_marks_on_a_fine_line(transfer_sample):
    far = re.search(r'<h2 id="far">.*?</section>', transfer_sample.html, re.DOTALL)
    assert far is not None
    first = re.search(r"<svg viewBox=\"0 0 360.*?</svg>", far[0], re.DOTALL)
    assert first is not None
    line = re.search(r'class="line" points="([^"]*)"', first[0])
    assert line is not None
    assert len(line[1].split()) == 33
    assert first[0].count("<title>signs-plain") == 5


def test_results_json_has_the_keys_for_programs(transfer_sample, transfer_sample_content):
    results = json.loads(transfer_sample.read_text("results.json"))
    cells = {(cell["model"], cell["attack"]): cell for cell in results["cells"]}
    curve, ball = cells["signs-pgd-at", "curve-linf-8"], cells["signs-pgd-at", "square-linf-8"]
    assert "distance" not in ball
    assert (ball["knowledge"], ball["surrogate"], ball["measure"]) == ("scores", None, "ball")
    assert ball["queries"].keys() == {"median", "largest", "median_broken", "largest_broken"}
    assert curve["distance"]["median"] is None, "farther than eps"
    assert curve["distance"]["n_unbroken"] == 60
    assert curve["distance"]["curve"][-1]["radius"] == curve["eps"]
    assert curve["distance"]["curve"][-1]["value"] == curve["robust_accuracy"]["value"]
    transferred = cells["signs-plain", "mi-fgsm-linf-8[from=signs-pgd-at]"]
    assert (transferred["knowledge"], transferred["surrogate"]) == ("transfer", "signs-pgd-at")
    assert results["transfers"][0]["surrogates"] == ["signs-plain", "signs-pgd-at"]
    assert results["corruptions"][0]["mean"]["value"] == pytest.approx(
        transfer_sample_content.get_content(CORRUPTIONS)[0].mean_row.mean_entry.estimate.value
    )
    assert "fog-3" not in {worst["threat"] for worst in results["worst_case"]}


def test_results_csv_says_it_too(transfer_sample):
    head, *rows = transfer_sample.read_text("results.csv").splitlines()
    names = head.split(",")
    curve = dict(zip(names, next(row for row in rows if ",ddn-l2-0.8," in row).split(","), strict=True))
    assert (curve["measure"], curve["unbroken"]) == ("distance", "0")
    assert float(curve["distance_lower"]) < float(curve["distance_median"]) < 0.8
    assert curve["forward_passes_largest_broken"] == "9"


def test_markdown_has_the_same_tables(transfer_sample):
    text = transfer_sample.read_text("report.md")
    for title in ("Distances: L2", "Attacker knowledge", "Transfer: mi-fgsm", "Common corruptions"):
        assert f"## {title}" in text
    assert "square-linf-8 (scores)" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.count("|") for line in tables]
    rules = [place for place, line in enumerate(tables) if line.startswith("| ---")]
    assert all(widths[place] == widths[place - 1] == widths[place + 1] for place in rules)


def test_figures_are_drawn_for_each_section(transfer_sample):
    names = {path.name for path in (transfer_sample.page_path.parent / "figures").iterdir()}
    assert {
        "how-far-1.png",
        "how-far-2.png",
        "transfer-1.png",
        "corruptions-1.png",
        "corruptions-2.png",
    } < names


def test_the_terminal_says_what_was_seen_and_sums_corruptions_up(transfer_sample):
    console = Console(width=140, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(build_results_table(json.loads(transfer_sample.read_text("results.json"))))
    shown = captured.get()
    assert "square-linf-8 (scores)" in shown
    assert "mi-fgsm-linf-8[from=signs-plain]" in shown
    assert shown.count("mean over 3 corruptions") == 2
    assert "fog" not in shown


HARDENED = {"model": "signs-pgd-at"}


@pytest.mark.parametrize(
    ("gate", "ruling"),
    [
        ({"threat": "l2-0.8", "min": 0.3}, "pass"),
        ({"threat": "l2-0.8", "min": 0.52}, "inconclusive"),
        ({"threat": "l2-0.8", "min": 0.7}, "fail"),
        ({"threat": "l2-0.8", "min": 0.52, "on": "estimate"}, "pass"),
        ({"threat": "l2-0.8", "max": 0.7}, "pass"),
        ({"attack": "fmn-l2-0.8", "min": 0.3}, "pass"),
        ({"threat": "linf-8", "min": 0.03}, "inconclusive"),  # a black box beats white-box attacks (D8)
        ({"threat": "linf-8", "min": 0.03, "trust": "ignore"}, "pass"),  # more than half: farther than 8/255
        ({"threat": "linf-8", "min": 0.05}, "inconclusive"),  # nobody looked as far
        ({"threat": "linf-8", "min": 0.05, "on": "estimate"}, "inconclusive"),
        ({"threat": "linf-8", "max": 0.01}, "fail"),
        ({"threat": "l1-12", "min": 0.1}, "inconclusive"),  # no attack there measures distances
    ],
)
def test_gates_on_the_median_distance(transfer_sample_content, gate, ruling):
    report = judge_evidence(
        transfer_sample_content.evidence, [{"metric": "median_distance", **HARDENED, **gate}]
    )
    assert [one.ruling for one in report.verdicts] == [ruling], report.summary_lines


def test_a_distance_may_exceed_one_but_must_be_a_distance(transfer_sample_content):
    judge_evidence(
        transfer_sample_content.evidence, [{"metric": "median_distance", "threat": "l2-0.8", "min": 2.5}]
    )
    for limit in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="a limit is 0 or more"):
            judge_evidence(
                transfer_sample_content.evidence,
                [{"metric": "median_distance", "threat": "l2-0.8", "min": limit}],
            )


def test_gates_on_other_families_and_on_names_that_are_not_there(transfer_sample_content):
    def lines(**gate):
        return judge_evidence(
            transfer_sample_content.evidence, [{"metric": "robust_accuracy", **gate}]
        ).summary_lines

    assert [line[:6] for line in lines(threat="fog-3", min=0.5)] == ["FAIL  ", "PASS  ", "1 pass"]
    assert lines(threat="spatial-30", min=0.5, **HARDENED)[0].startswith("PASS")
    assert "did you mean fog-3?" in lines(threat="frog-3", min=0.5)[1]
    by_threat = judge_evidence(
        transfer_sample_content.evidence,
        [{"metric": "attack_success", "threat": "linf-8", "max": 1.0, **HARDENED}],
    )
    assert len(by_threat.verdicts) == 1, "transfers have no say in a threat"
    named = judge_evidence(
        transfer_sample_content.evidence,
        [{"metric": "attack_success", "attack": "mi-fgsm-linf-8", "max": 0.2}],
    )
    assert [one.ruling for one in named.verdicts] == ["fail", "fail"]


@pytest.mark.parametrize(
    ("norm", "size", "text"),
    [("Linf", 2.5 / 255, "2.50/255"), ("L2", 0.1, "0.100"), ("L1", 1234.5, "1,234"), ("L2", 12.0, "12.0"),
     ("L2", math.inf, "> 3"), ("L2", math.nan, "—")],
)  # fmt: skip
def test_distances_in_words(norm, size, text):
    assert format_distance(norm, size, max_radius=3.0) == text


@pytest.mark.parametrize(
    ("norm", "eps", "text"),
    [("L1", 12.0, "L1 ≤ 12"), ("spatial", 30.0, "rotation ≤ 30°, shift ≤ 10%"),
     ("spatial", 10.0, "rotation ≤ 10°, shift ≤ 3.33%"), ("corruption", 3.0, "severity 3")],
)  # fmt: skip
def test_budgets_of_every_family(norm, eps, text):
    assert format_budget(norm, eps) == text


def test_families_lose_their_threat():
    names = ("ead-l1-12", "rotate-spatial-30", "pgd50-linf-8[steps=9]", "fog-3")
    assert [get_attack_family(name) for name in names] == ["ead", "rotate", "pgd50[steps=9]", "fog-3"]
    assert format_ratio(math.inf) == "∞"
