"""Ids and links of the headings of a page, so that every part of it can be linked to."""

from __future__ import annotations

import hashlib
import html
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count

MAX_SLUG_CHARACTERS = 40
"""Characters of a heading in its id."""
_HASH_CHARACTERS = 6
_HEADING_PATTERN = re.compile(r"(<summary[^>]*>)?<h([2-6])((?:\s[^>]*)?)>(.*?)</h\2>", re.DOTALL)
_REGION_PATTERN = re.compile(r'(role="region" aria-label=")([^"]*)"')
_ID_PATTERN = re.compile(r'\sid="([^"]*)"')
_TAG_PATTERN = re.compile(r"<[^>]*>")


def add_heading_anchors(page: str) -> str:
    """Add an id and a link to each heading of a page that this package rendered.

    A heading in a summary has no link of its own: it would be a control inside a control. Headings of level 2
    keep their ids. The id of a lower one is that of its section, a hyphen and the heading's letters and
    digits; a hash keeps apart what these leave out, so that the id depends on the section and the heading
    alone. Every id is a valid fragment without escapes, whatever the heading says.

    Args:
        page: HTML in which text from outside is escaped.

    Returns:
        The page. Ids are unique among those of the headings.
    """
    taken = set(_ID_PATTERN.findall(page))
    return "".join(_link_headings(page, taken))


def number_regions(page: str) -> str:
    """Number the labels of regions that occur more than once, so that a screen reader tells them apart."""
    met: Counter[str] = Counter()

    def number_label(match: re.Match[str]) -> str:
        head, label = match.groups()
        met[label] += 1
        return f'{head}{label}{f", {met[label]}" if met[label] > 1 else ""}"'

    return _REGION_PATTERN.sub(number_label, page)


def _link_headings(page: str, taken: set[str]) -> Iterator[str]:
    section, end = "", 0
    for match in _HEADING_PATTERN.finditer(page):
        summary, level, attributes, content = match.groups()
        known = _ID_PATTERN.search(attributes)
        text = " ".join(html.unescape(_TAG_PATTERN.sub("", content)).split())
        anchor = known[1] if known else _choose_unique(build_slug(section, text), taken)
        taken.add(anchor)
        if level == "2":
            section = anchor
        added = attributes if known else f'{attributes} id="{anchor}"'
        label = html.escape(f"Link to: {text}")
        link = "" if summary else f' <a class="anchor" href="#{anchor}" aria-label="{label}">#</a>'
        yield page[end : match.start()]
        yield f"{summary or ''}<h{level}{added}>{content}{link}</h{level}>"
        end = match.end()
    yield page[end:]


def build_slug(section: str, text: str) -> str:
    """Build the id of a heading from the id of its section and its text."""
    words = "-".join(re.findall(r"[a-z0-9]+", text.lower()))
    slug = words[:MAX_SLUG_CHARACTERS].strip("-")
    is_plain = slug == re.sub(r"[\s\-:,()]+", "-", text.lower()).strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:_HASH_CHARACTERS]
    return "-".join(filter(None, [section, slug, "" if is_plain else digest]))


def _choose_unique(slug: str, taken: set[str]) -> str:
    names = (slug if number == 1 else f"{slug}-{number}" for number in count(1))
    return next(name for name in names if name not in taken)
