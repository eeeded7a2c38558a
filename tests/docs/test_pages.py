"""Guides stay short, and their fragments of grid files are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_blocks import DOCS, PAGES, read_blocks
from pydantic import TypeAdapter

from robustbench_local.config.gate_policy import Policy
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid

MAX_WORDS = 420
"""Words of a guide that is read in three minutes, code included."""
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FRAGMENTS = [
    pytest.param(block, id=str(block))
    for path in PAGES
    for block in read_blocks(path)
    if block.language == "yaml" and not block.file.startswith((".github", "cards/"))
]
_GUIDES = [path for path in PAGES if path.parent.name == "how-to" or path.name == "ci.md"]


@pytest.mark.parametrize("path", _GUIDES, ids=lambda p: p.stem)
def test_a_guide_is_read_in_three_minutes(path: Path):
    text = _COMMENT.sub("", path.read_text(encoding="utf-8"))
    words = [word for word in text.split() if any(character.isalnum() for character in word)]
    assert len(words) <= MAX_WORDS


@pytest.mark.parametrize("block", _FRAGMENTS)
def test_fragments_of_grid_files_are_valid(block):
    """Each key of a fragment is one of its kind of file, and what stands there is what such a file takes."""
    fragment = parse_yaml(block.code, where=str(block), error=ConfigError)
    model = Policy if "policy" in block.file else Grid
    for key, value in fragment.items():
        field = next(f for name, f in model.model_fields.items() if key in (name, f.alias))
        TypeAdapter(_annotation(field)).validate_python(value)


def _annotation(field):
    from typing import Annotated

    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def test_every_guide_is_in_the_table_of_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [path for path in PAGES if path.is_relative_to(DOCS)]
    assert [path.name for path in pages if str(path.relative_to(DOCS)) not in index] == []


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda p: str(p.relative_to(DOCS)))
def test_links_lead_to_files_that_exist(path: Path):
    """Links into the generated reference are checked by Sphinx, which also writes it."""
    if {"_build", "reference"} & set(path.relative_to(DOCS).parts):
        return
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target and "reference/" not in target:
            assert (path.parent / target).exists(), target
