"""A run's files after something changed them: noticed by every reader, or without influence on any figure."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from contextlib import closing
from typing import Any

from fault import register_fault
from workplace import CommandResult, DeviationError, FaultWorkspace

FAMILY = "damaged stores"
TIME_KEYS = ("seconds", "started")


def finish_run(place: FaultWorkspace) -> dict[str, Any]:
    """A finished run in ``out``, and what its report says."""
    place.run().expect_code(0, 1)
    return drop_times(place.read_results())


def drop_times(content: Any) -> Any:
    """The same content without what the clock says."""
    if isinstance(content, dict):
        return {key: drop_times(value) for key, value in content.items() if key not in TIME_KEYS}
    return [drop_times(entry) for entry in content] if isinstance(content, list) else content


def expect_noticed_or_harmless(place: FaultWorkspace, before: dict[str, Any], damage: str) -> None:
    """Every reader either stops with one line and exit code 2, or tells the same as before."""
    report = place.run_command("report", "out")
    _check_exit_code(report, damage, "rbl report")
    if report.code == 0 and drop_times(place.read_results()) != before:
        raise DeviationError(f"{damage}: rbl report tells other figures in silence")
    gate = place.run_command("gate", "out")
    if gate.code not in {0, 1} or report.code != 0:
        _check_exit_code(gate, damage, "rbl gate")
    if report.code == 2 and gate.code in {0, 1} and "digest" in report.output:
        raise DeviationError(f"{damage}: rbl gate rules on what rbl report refuses")


def _check_exit_code(result: CommandResult, damage: str, command: str) -> None:
    if result.code not in {0, 1, 2, 4}:
        raise DeviationError(f"{damage}: {command} ends with {result.code}: {result.format_tail()}")


FLAG_COLUMNS = (
    "clean_correct",
    "broken",
    "moved_elsewhere",
    "fragile",
    "broken_8bit",
    "certified",
    "abstained",
)


def _choose_row(
    connection: sqlite3.Connection, table: str, draw: random.Random
) -> tuple[dict[str, Any], str, list[Any]]:
    """A row of a table, the condition that finds it again by its primary key, and that condition's values."""
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    keys = [column[1] for column in columns if column[5]]
    rows = connection.execute(f"SELECT * FROM {table} ORDER BY {', '.join(keys)}").fetchall()
    row = dict(zip([column[1] for column in columns], draw.choice(rows), strict=True))
    return row, " AND ".join(f"{key} = ?" for key in keys), [row[key] for key in keys]


def _change_field(place: FaultWorkspace, table: str, draw: random.Random) -> str | None:
    """Change a field of a row; what was changed, or None if SQLite itself refuses it."""
    with closing(sqlite3.connect(place.folder / "out" / "run.db")) as connection:
        row, where, values = _choose_row(connection, table, draw)
        column = draw.choice([name for name in row if name != "seconds"])
        old = row[column]
        choices = [0, 1, None, -1, 7, 0.5, "x", b"\x00", "", 1e308]
        if isinstance(old, int) and column in FLAG_COLUMNS:
            choices = [1 - old]
        query = f"UPDATE {table} SET {column} = ? WHERE {where}"
        try:
            connection.execute(query, (draw.choice([value for value in choices if value != old]), *values))
        except sqlite3.IntegrityError:
            return None
        connection.commit()
    return f"{column} of a row of {table}, which was {old!r},"


@register_fault(FAMILY, has_variants=True)
def a_field_of_a_row(place: FaultWorkspace, draw: random.Random) -> None:
    before = finish_run(place)
    damage = _change_field(place, "outcomes", draw)
    if damage is None:
        return
    report = place.run_command("report", "out")
    if report.code != 2:
        raise DeviationError(f"{damage} is changed without notice: exit code {report.code}")
    expect_noticed_or_harmless(place, before, damage)


@register_fault(FAMILY, has_variants=True)
def a_field_of_another_table(place: FaultWorkspace, draw: random.Random) -> None:
    before = finish_run(place)
    damage = _change_field(place, draw.choice(["cells", "meta", "identity", "digests", "events"]), draw)
    if damage is None:
        return
    for arguments in (["report", "out"], ["gate", "out"]):
        result = place.run_command(*arguments)
        if result.code != 2:
            raise DeviationError(
                f"{damage} is changed without notice: {arguments[0]} ends with {result.code}"
            )
    expect_noticed_or_harmless(place, before, damage)


@register_fault(FAMILY, has_variants=True)
def a_byte_of_the_database(place: FaultWorkspace, draw: random.Random) -> None:
    before = finish_run(place)
    path = place.folder / "out" / "run.db"
    content = bytearray(path.read_bytes())
    bits = [(draw.randrange(len(content)), 1 << draw.randrange(8)) for _ in range(draw.choice([1, 1, 1, 20]))]
    for at, bit in bits:
        content[at] ^= bit
    path.write_bytes(content)
    expect_noticed_or_harmless(place, before, f"bits {bits[:3]} of run.db")


@register_fault(FAMILY, has_variants=True)
def a_database_that_was_cut(place: FaultWorkspace, draw: random.Random) -> None:
    before = finish_run(place)
    path = place.folder / "out" / "run.db"
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])
    expect_noticed_or_harmless(place, before, "run.db cut short")


@register_fault(FAMILY, has_variants=True)
def rows_that_are_gone(place: FaultWorkspace, draw: random.Random) -> None:
    before = finish_run(place)
    with closing(sqlite3.connect(place.folder / "out" / "run.db")) as connection:
        table = draw.choice(["outcomes", "outcomes", "cells", "meta"])
        _, where, values = _choose_row(connection, table, draw)
        connection.execute(f"DELETE FROM {table} WHERE {where}", values)
        connection.commit()
    report = place.run_command("report", "out")
    if report.code == 0 and drop_times(place.read_results()) != before:
        raise DeviationError(f"a row of {table} that is gone is not noticed")
    expect_noticed_or_harmless(place, before, f"a row of {table} gone")


@register_fault(FAMILY, has_variants=True)
def images_that_are_others(place: FaultWorkspace, draw: random.Random) -> None:
    place.edit_grid(
        "gates:\n",
        '  - {card: pgd50-linf-8, eps: ["32/255", "64/255"], steps: 6}\ngates:\n',
    )
    finish_run(place)
    arrays = sorted((place.folder / "out").rglob("*.safetensors"))
    if len(arrays) < 2:
        raise DeviationError(f"the run keeps {len(arrays)} files of images")
    kind = draw.choice(["swapped", "blackened", "cut", "gone", "one pixel"])
    one, other = draw.sample(arrays, 2)
    if kind == "swapped":
        content = one.read_bytes()
        shutil.copyfile(other, one)
        other.write_bytes(content)
    elif kind == "cut":
        one.write_bytes(one.read_bytes()[:-40])
    elif kind == "gone":
        one.unlink()
    else:
        _change_pixels(one, kind)
    result = place.run_command("report", "out")
    if result.code == 0 and "image" not in result.output and not _is_reported(place):
        raise DeviationError(f"evidence images that were {kind} are not noticed")


def _change_pixels(path, kind: str) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(path)
    pixels = arrays["adversarial"].copy()
    if kind == "blackened":
        pixels[:] = 0
    else:
        pixels.flat[7] = 1 - pixels.flat[7]
    save_file({**arrays, "adversarial": pixels}, path)


def _is_reported(place: FaultWorkspace) -> bool:
    text = (place.folder / "out" / "report.md").read_text("utf-8").lower()
    return "damaged" in text or "do not match" in text or "digest" in text


@register_fault(FAMILY)
def a_schema_that_is_damaged(place: FaultWorkspace, _draw: random.Random) -> None:
    finish_run(place)
    with closing(sqlite3.connect(place.folder / "out" / "run.db")) as connection:
        connection.execute("DROP TABLE outcomes")
        connection.commit()
    result = place.run_command("report", "out").expect_code(2)
    if "free some space" in result.output:
        raise DeviationError("a damaged schema is taken for a full disk")
    result = place.run()
    if result.code == 70 or "free some space" in result.output:
        raise DeviationError(f"a damaged schema: {result.format_tail()}")


@register_fault(FAMILY)
def a_database_that_is_something_else(place: FaultWorkspace, _draw: random.Random) -> None:
    finish_run(place)
    (place.folder / "out" / "run.db").write_text(json.dumps({"a": 1}))
    place.run_command("report", "out").expect_code(2)
    place.run().expect_code(2, 4)


@register_fault(FAMILY)
def digests_that_are_gone(place: FaultWorkspace, _draw: random.Random) -> None:
    finish_run(place)
    with closing(sqlite3.connect(place.folder / "out" / "run.db")) as connection:
        connection.execute("DROP TABLE digests")
        connection.execute("UPDATE outcomes SET broken = 0")
        connection.commit()
    for arguments in (("report", "out"), ("gate", "out")):
        place.run_command(*arguments).expect_code(2).expect_words("damaged")
    place.run().expect_code(2)
    place.run("--recompute-damaged").expect_code(2)
