"""Every text that a run holds may be hostile: report.md shows it, and neither Markdown nor HTML runs it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sample_run import build_run
from sample_stickers import build_sticker_run
from sample_transfers import TRANSFER_SAMPLE

from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.writers.report_markdown import render_markdown
from robustbench_local.store import RunStore
from robustbench_local.store.digests import write_digests

HOSTILE = "<img src=x onerror=alert(1)>[a](javascript:b)|`c`"
"""Put before and behind every word of the run: HTML, a link, and what ends a cell of a table."""
DECIDING = frozenset(
    {
        "key",
        "cell",
        "norm",
        "goal",
        "measure",
        "concerns",
        "status",
        "knowledge",
        "condition",
        "kind",
        "level",
        "search_phase",
    }
    | {"time", "original_hash", "adversarial_hash", "metric", "on", "min", "max", "digest", "part"}
)
"""Fields whose words the program reads itself; each is one of a few, and anything else is damage."""


def spoil(value: object, key: str = "") -> object:
    if isinstance(value, str):
        return value if key in DECIDING else HOSTILE + value + HOSTILE
    if isinstance(value, dict):
        return {name: spoil(item, name) for name, item in value.items()}
    return [spoil(item, key) for item in value] if isinstance(value, list) else value


def make_hostile(run: Path) -> None:
    """Spoil all words of all rows, everywhere alike, and see to it that nobody takes it for damage."""
    with closing(sqlite3.connect(run / "run.db")) as raw:
        for table in ("cells", "outcomes", "events"):
            columns = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            for column in columns:
                if column in DECIDING or column in {"targets", "sources", "identity"}:
                    continue
                if column in {"parameters", "surface"}:
                    rows = raw.execute(
                        f"SELECT key, {column} FROM {table} WHERE {column} NOT NULL"
                    ).fetchall()
                    for key, content in rows:
                        text = json.dumps(spoil(json.loads(content)))
                        raw.execute(f"UPDATE {table} SET {column} = ? WHERE key = ?", (text, key))
                    continue
                where = f"typeof({column}) = 'text' AND {column} <> 'none'"
                raw.execute(f"UPDATE {table} SET {column} = ?1 || {column} || ?1 WHERE {where}", (HOSTILE,))
        for key, content in raw.execute("SELECT key, value FROM meta").fetchall():
            text = json.dumps(spoil(json.loads(content), key))
            raw.execute("UPDATE meta SET value = ? WHERE key = ?", (text, key))
        write_digests(raw)
        raw.commit()


@pytest.mark.parametrize(
    "sample",
    [build_run, lambda folder: build_run(folder, TRANSFER_SAMPLE), build_sticker_run],
    ids=["run", "beyond", "stickers"],
)
def test_no_field_reaches_markdown_raw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Callable[[Path], Path]
) -> None:
    run = sample(tmp_path / "run")
    make_hostile(run)
    with RunStore.open_readonly(run) as store:
        content = read_report_data(store)
    check_escaped(render_markdown(content, [f"figures/{HOSTILE}.png"]))
    # no run has such a norm, but whoever writes a sentence should not know that
    monkeypatch.setattr("robustbench_local.reports.analysis.threat.format_budget", lambda *_: HOSTILE)
    check_escaped(render_markdown(content, ["figures/robust-accuracy.png"]))


def check_escaped(text: str) -> None:
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") > 50
    for line in text.splitlines():
        assert "<img" not in line
        assert not re.search(r"(?<!\\)\[a(?<!\\)\]\(javascript", line)
        assert not re.search(r"(?<!\\)`c", line)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    rules = [place for place, line in enumerate(rows) if line.startswith("| ---")]
    assert all(widths[place] == widths[place - 1] for place in rules)
    assert all(widths[place] == widths[place + 1] for place in rules if place + 1 < len(rows))
