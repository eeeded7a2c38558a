"""Every heading can be linked to, under an id that holds whatever the heading says."""

from __future__ import annotations

import itertools
import re

import pytest

from robustbench_local.reports.page.heading_anchors import (
    MAX_SLUG_CHARACTERS,
    add_heading_anchors,
    build_slug,
)

IDS = re.compile(r'\sid="([^"]*)"')


@pytest.mark.parametrize("kind", ["sample", "hostile", "transfer_sample"])
def test_ids_are_unique_and_links_lead_somewhere(request, kind):
    html = request.getfixturevalue(kind).html
    ids = IDS.findall(html)
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids)
    headings = re.findall(r"<h([2-6])([^>]*)>", html)
    assert len(headings) > 10
    assert all(" id=" in attributes for _, attributes in headings)
    assert set(re.findall(r'href="#([^"]*)"', html)) <= set(ids)
    levels = [int(level) for level in re.findall(r"<h([1-6])", html)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_equal_headings_differ_by_section_then_by_number():
    page = '<h2 id="a">A</h2><h3>Same</h3><h3 class="x">Same</h3><h2 id="b">B</h2><h3><bdi>Same</bdi></h3>'
    linked = add_heading_anchors(page)
    assert IDS.findall(linked) == ["a", "a-same", "a-same-2", "b", "b-same"]
    assert (
        '<h3 class="x" id="a-same-2">Same <a class="anchor" href="#a-same-2" aria-label="Link to: Same">'
        in linked
    )


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("All together", "s-all-together"),
        ("x" * MAX_SLUG_CHARACTERS, "s-" + "x" * MAX_SLUG_CHARACTERS),
        ("x" * (MAX_SLUG_CHARACTERS + 1), "s-" + "x" * MAX_SLUG_CHARACTERS + "-"),
        ("עצור", "s-"),
        ('"><script>', "s-script-"),
        ("", "s"),
    ],
)
def test_what_letters_and_digits_leave_out_is_a_hash(text, slug):
    made = build_slug("s", text)
    assert made == slug or (slug.endswith("-") and re.fullmatch(re.escape(slug) + "[0-9a-f]{6}", made))
    assert build_slug("s", text + "́") != made
