"""What axe-core finds in a page of a browser against WCAG 2.2, levels A and AA."""

from __future__ import annotations

from typing import Any

import pytest

_RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def list_violations(page: Any) -> list[str]:
    """Each rule that a page breaks with the elements that do; the test is skipped where axe is missing.

    Whatever is folded is opened before.
    """
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="needs pip install axe-playwright-python"
    )
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found = axe.Axe().run(page, options={"runOnly": _RULES, "resultTypes": ["violations"]}).response
    assert len(found["passes"]) > 10  # it has looked
    return [
        f"{violation['id']}: {node['target']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]
