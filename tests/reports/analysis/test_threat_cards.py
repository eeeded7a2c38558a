"""Threat cards: what the attacker may do, in other units too, and the example that shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustbench_local.reports.analysis.threat_cards import (
    build_threat_cards,
    describe_units,
    find_threat_example,
    format_example_size,
)
from robustbench_local.reports.sections.examples_section import EXAMPLES
from robustbench_local.reports.sections.threats_section import THREATS, ShownThreatCard


@pytest.fixture(scope="module")
def cards(content):
    return build_threat_cards(content.evidence)


def test_one_card_for_each_budget_of_an_attacker(content, cards, transfer_sample_content):
    assert [card.name for card in cards] == ["linf-8", "linf-2", "linf-4", "l2-0.5"]
    assert sum(len(card.cells) for card in cards) == len(content.evidence.cells)
    norms = {card.norm for card in build_threat_cards(transfer_sample_content.evidence)}
    assert "spatial" in norms
    assert "corruption" not in norms


def test_a_card_says_goals_knowledge_and_queries(cards):
    card = cards[0]
    assert card.permission == "change every pixel by at most 8/255"
    assert card.goals == (
        "any image misclassified as any other class",
        "images of Stop misclassified as one of 8 classes",
    )
    assert THREATS.list_knowledge(card) == "white-box"
    medians = [cell.query_stats.median for cell in card.cells]
    assert card.query_range[:2] == (min(medians), max(medians))
    assert "by attack, at most" in THREATS.describe_queries(card)
    assert THREATS.describe_images(card) == "n = 6 to 96 by attack"
    silent = replace(
        card,
        cells=tuple(replace(cell, query_stats=type(cell.query_stats)(*[None] * 4)) for cell in card.cells),
    )
    assert THREATS.describe_queries(silent) == "\N{EM DASH}"


@pytest.mark.parametrize(
    ("norm", "eps", "shape", "words"),
    [
        ("Linf", 8 / 255, (), ["8 of the 255 steps of an 8-bit channel, 3.1% of its range"]),
        (
            "L2",
            0.5,
            (3, 32, 32),
            [
                "127.5/255 as the length of the change",
                "spread evenly, 2.3/255 in each of the 3,072 values of an image",
            ],
        ),
        ("L2", 0.5, (), ["127.5/255 as the length of the change"]),
        (
            "L1",
            12,
            [3, 32, 32],
            [
                "3,060/255 as the sum of all changes",
                "spread evenly, 1/255 in each of the 3,072 values of an image",
            ],
        ),
        ("L0", 64, (3, 32, 32), ["6.2% of the 1,024 pixels of an image"]),
        ("spatial", 30, (3, 32, 32), []),
    ],
)
def test_a_budget_in_other_units(norm, eps, shape, words):
    assert list(describe_units(norm, eps, shape)) == words


def test_the_example_is_one_at_eps_or_the_largest(content, cards):
    gallery = content.get_content(EXAMPLES)
    for card in cards:
        example = find_threat_example(gallery, card)
        size = example.tile.cell.success_norms[example.tile.image_id][card.norm]
        assert example.tile.cell in card.cells
        assert example.is_at_eps == (size >= 0.95 * card.eps)
        assert format_example_size(example, card)
        doubled = replace(card, eps=card.eps * 2)
        larger = find_threat_example(gallery, doubled)
        assert not larger.is_at_eps
        sizes = [
            tile.cell.success_norms[tile.image_id][card.norm]
            for row in gallery.rows
            for tile in row.tiles
            if tile.example and tile.cell in card.cells
        ]
        assert larger.tile.cell.success_norms[larger.tile.image_id][card.norm] == max(sizes)
        assert "less than the budget" in THREATS.describe_size(ShownThreatCard(doubled, larger))
    spatial = replace(cards[0], norm="spatial")
    assert format_example_size(find_threat_example(gallery, spatial), spatial) == ""
    assert find_threat_example(replace(gallery, rows=()), cards[0]) is None


def test_the_page_shows_the_card_or_says_why_there_is_no_picture(sample, content):
    assert sample.html.count('class="threat-card"') == 4
    assert "An attacker may change every pixel by at most 8/255." in sample.html
    assert "No picture: the run stored no adversarial example" not in sample.html
    (entry, *_) = THREATS.to_json(content.evidence)["threat_models"]
    assert entry["attacker_may"] == "change every pixel by at most 8/255"
    assert entry["images"] == {"fewest": 6, "most": 96}
    assert "| L∞ ≤ 8/255 | change every pixel" in sample.read_text("report.md")
