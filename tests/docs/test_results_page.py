"""docs/results.md quotes the cards of the shipped networks and the ratios that the benchmarks wrote."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import page
from robustbench_local.statistics import compute_clopper_pearson

ROOT = Path(__file__).parents[2]
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
BENCHMARKS = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
CARDS = sorted((ROOT / "robustbench_local" / "models" / "zoo").glob("*.yaml"))


def format_share(count: int, n: int) -> str:
    """A share as the page writes it: ``4.5% (3.3-6.0)``."""
    estimate = compute_clopper_pearson(count, n)
    value, low, high = (f"{100 * each:.1f}" for each in (estimate.value, estimate.low, estimate.high))
    return f"{value}% ({low}-{high})".replace("100.0", "100")


def list_measured(card: Path) -> list[dict[str, Any]]:
    """What a card measured, but for FGSM, which the page leaves out."""
    entries = yaml.safe_load(card.read_text(encoding="utf-8"))["provenance"]["measured"]
    return [entry for entry in entries if entry.get("attack") != "fgsm"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_figures_of_shipped_networks_are_those_of_their_cards(card):
    section = RESULTS.partition("## Shipped networks")[2].partition("\n## ")[0]
    (row,) = re.findall(rf"^\| `{re.escape(card.stem)}` \|.*$", section, re.MULTILINE)
    certified = " ".join(section.partition("Certified,")[2].split())
    for entry in list_measured(card):
        place = certified if "certificate" in entry else row
        assert format_share(entry["right"], entry["n"]) in place
        if entry.get("attack") == "autoattack":
            assert row.endswith("* |") == (entry["n"] == 200)


def test_ratios_beside_other_libraries_are_those_that_the_benchmarks_wrote():
    section = RESULTS.partition("## Beside other libraries")[2].partition("\n\nAutoAttack beside")[0]
    table = section[section.index("| attack |") :].partition("\n\n")[0]
    ratios = re.findall(r"\b\d+\.\d\d\b", table)
    assert len(ratios) > 10
    assert [ratio for ratio in ratios if f"| {ratio} |" not in BENCHMARKS] == []


def test_benchmarks_replace_their_part_of_their_page(tmp_path):
    file = tmp_path / "results.md"
    file.write_text(BENCHMARKS, encoding="utf-8")
    page.write_page("measured anew\n", file)
    text = file.read_text(encoding="utf-8")
    assert text.startswith(BENCHMARKS.partition("<!-- measured -->")[0])
    assert "measured anew" in text
    assert "### mnist-fast" not in text


def test_the_page_names_every_broken_model_of_the_study():
    part = RESULTS.partition("<!-- broken models -->")[2].partition("<!-- end -->")[0]
    with (ROOT / "docs" / "broken_models.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    broken = [row["case"] for row in rows if row["sound"] == "no"]
    assert f"{len(rows) - len(broken)} sound and {len(broken)} broken models" in part
    assert [name for name in broken if name not in part.partition("| caught by |")[2]] == []
