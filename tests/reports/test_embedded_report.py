"""The report in ``reports/`` is what today's code makes of the evidence beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from robustbench_local.reports import write_report

pytestmark = pytest.mark.usefixtures("blank_figures")

FOLDER = Path(__file__).parents[2] / "reports" / "signs"
WRITTEN = ("results.json", "results.csv", "outcomes.csv", "report.md", "report.html")


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    copy = tmp_path_factory.mktemp("again") / "signs"
    shutil.copytree(FOLDER, copy)
    for name in WRITTEN:
        (copy / name).unlink()
    write_report(copy)
    return copy


@pytest.mark.parametrize("name", WRITTEN)
def test_the_report_is_up_to_date(again, name):
    def words(folder):
        # pictures may be compressed otherwise by another zlib
        return re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "picture", (folder / name).read_text("utf-8"))

    assert words(again) == words(FOLDER), "render again: rbl report reports/signs"


def test_its_reader_finds_the_headline_explained():
    guide = (FOLDER.parent / "README.md").read_text("utf-8")
    answer = (FOLDER / "report.md").read_text("utf-8")
    shares = re.findall(r"\d+\.\d%", guide)
    assert shares
    assert all(share in answer for share in shares)
