"""The site builds without a warning, and asks nothing of the network when it is read."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.extra
@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_works_offline(tmp_path):
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library, reason="the extra 'docs' is not installed")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(DOCS),
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "searchindex.js").is_file()
    loaded = [
        (page.name, address)
        for page in tmp_path.rglob("*.html")
        for address in re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]+)", page.read_text("utf-8")
        )
    ]
    assert loaded == []
