"""The design pages name files that exist and show their drawings."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).parents[2]
DESIGN = sorted((ROOT / "docs" / "design").glob("*.md"))


@pytest.mark.parametrize("page", DESIGN, ids=lambda page: page.stem)
def test_files_that_a_design_page_names_exist(page):
    named = re.findall(r"`([\w/]+(?:\.py|/))`", page.read_text(encoding="utf-8"))
    assert named
    folders = (ROOT / "robustbench_local", ROOT)
    assert [name for name in named if not any((folder / name).exists() for folder in folders)] == []


@pytest.mark.parametrize("page", DESIGN, ids=lambda page: page.stem)
def test_a_design_page_shows_a_drawing_for_light_and_dark(page):
    (name,) = re.findall(r"!\[[^\]]+\]\(([\w-]+\.svg)\)", page.read_text(encoding="utf-8"))
    text = (page.parent / name).read_text(encoding="utf-8")
    ET.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert set(re.findall(r"font-family: ([\w-]+)", text)) <= {"sans-serif", "monospace"}
    assert not re.search(r"<image|<script|@import|https?://(?!www\.w3\.org/2000/svg)", text)
