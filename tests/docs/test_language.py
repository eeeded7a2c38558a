"""Pages use the words of the field, not a dialect of our own."""

from __future__ import annotations

import re

import pytest
from doc_blocks import DOCS, ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "reports/README.md")),
    *(path for path in sorted(DOCS.rglob("*.md")) if not {"_build", "reference"} & set(path.parts)),
]
WORDS = {
    r"rightly|untouched": "correctly classified, without an attack",
    r"remed(?:y|ies)": "defense",
    r"naive attacker|attacker who knows": "attack that is unaware of the defense, adaptive attack",
    r"read as": "misclassified as",
    r"wrong readings?": "misclassification",
    r"proven share": "certified accuracy at radius r",
    r"kept apart": "held-out",
    r"broke|what is left of": "misclassified, robust accuracy",
}
"""Words that are not used, and what to say instead."""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_the_words_of_the_field(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = [
        f"{match[0]!r}: say {instead}"
        for words, instead in WORDS.items()
        for match in re.finditer(rf"\b(?:{words})\b", text, re.IGNORECASE)
    ]
    assert found == []
