"""One card for each threat model: what the attacker may do, knows and spends, with an example."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.example_gallery import get_example_gallery
from robustbench_local.reports.analysis.threat_cards import (
    ThreatCard,
    ThreatExample,
    build_threat_cards,
    find_threat_example,
    format_example_size,
)
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    MISSING_TEXT,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.store import RunStore

MAX_NAMED_ATTACKS = 6
"""Attacks that a card names; of more, their number is given."""


class ShownThreatCard(NamedTuple):
    """A card with its example."""

    card: ThreatCard
    """What the attacker may do, knows and spends."""
    example: ThreatExample | None
    """The first example of the run's stored ones that uses the whole budget; None without a stored one."""


class ThreatsSection(Section[tuple[ShownThreatCard, ...]]):
    """The threat models of the attacks."""

    anchor = "threat-models"
    title = "Threat models: what the attacker may do"
    link_text = "Threat models"
    template = "threats.html.j2"

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[ShownThreatCard, ...]:
        """Build the cards, each with an adversarial example that the run stored."""
        gallery = get_example_gallery(store, evidence)
        return tuple(
            ShownThreatCard(card, find_threat_example(gallery, card)) for card in build_threat_cards(evidence)
        )

    def to_markdown(self, content: tuple[ShownThreatCard, ...], evidence: Evidence) -> Iterable[str]:
        """Render one table."""
        yield from ("## Threat models", "")
        yield from render_table(
            [
                "budget",
                "an attacker may",
                "goal",
                "knowledge",
                "attacks",
                "forward passes per image",
                "images",
            ],
            (
                [
                    escape_markdown(part)
                    for part in (
                        card.title,
                        "; ".join([card.permission, *card.budget_notes]),
                        "; ".join(card.goals),
                        self.list_knowledge(card),
                        self.list_attacks(card),
                        self.describe_queries(card),
                        self.describe_images(card),
                    )
                ]
                for card, _ in content
            ),
        )
        yield ""

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``threat_models``: one entry for each budget of an attacker."""
        return {"threat_models": [_encode_card(card) for card in build_threat_cards(evidence)]}

    def list_knowledge(self, card: ThreatCard) -> str:
        """List what the attackers know."""
        return join_in_sentence(card.knowledge)

    def list_attacks(self, card: ThreatCard) -> str:
        """Name the attacks, or give their number."""
        labels = [isolate_direction(label) for label in card.attack_labels]
        if len(labels) <= MAX_NAMED_ATTACKS:
            return join_in_sentence(labels)
        more = format_count(len(labels) - MAX_NAMED_ATTACKS, "more attack")
        return join_in_sentence([*labels[:MAX_NAMED_ATTACKS], more])

    def describe_queries(self, card: ThreatCard) -> str:
        """Describe the forward passes per attacked image, those of the harness included."""
        if card.query_range is None:
            return MISSING_TEXT
        low, high, largest = card.query_range
        middle = f"{low:,.0f}" if low == high else f"{low:,.0f}{EN_DASH}{high:,.0f}"
        by_attack = "" if low == high else " by attack"
        return f"median {middle}{by_attack}, at most {largest:,}"

    def describe_images(self, card: ThreatCard) -> str:
        """Describe the number of images of the attacks."""
        fewest, most = card.image_counts
        return f"n = {most:,}" if fewest == most else f"n = {fewest:,} to {most:,} by attack"

    def describe_size(self, shown: ShownThreatCard) -> str:
        """Describe how much of the budget the example uses."""
        if shown.example is None:
            return ""
        size = format_example_size(shown.example, shown.card)
        if not size:
            return "a change within the budget"
        return f"the whole budget ({size})" if shown.example.is_at_eps else f"{size}, less than the budget,"


THREATS = ThreatsSection()


def _encode_card(card: ThreatCard) -> JsonDict:
    queries = card.query_range
    fewest, most = card.image_counts
    return {
        "threat": card.name,
        "norm": card.norm,
        "eps": card.eps,
        "attacker_may": card.permission,
        "budget_notes": list(card.budget_notes),
        "goals": list(card.goals),
        "knowledge": list(card.knowledge),
        "attacks": list(dict.fromkeys(cell.record.attack for cell in card.cells)),
        "queries": queries and {"median_low": queries[0], "median_high": queries[1], "largest": queries[2]},
        "images": {"fewest": fewest, "most": most},
    }
