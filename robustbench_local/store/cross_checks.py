"""Consistency rules for every row: fields that contradict each other are damage too.

The rules are SQL, so that a hundred thousand rows take a fraction of a second. They find what digests cannot:
damage that is older than the digests, and errors of the program that wrote the rows. A rule is true of every
row that the harness can write; allowances for rounding are stated.
"""

# ruff: noqa: S608 - the parts of every statement are constants of this file

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from robustbench_local.store.records import CellStatus, Condition, OutcomeStatus, SearchPhase, ViewKind

EPS_SLACK_SHARE = 1e-4
"""Relative allowance for distances above eps; the harness itself allows 1e-5."""
EPS_SLACK_PIXEL_UNITS = 2e-6
"""Absolute allowance for distances above eps, in pixel units; the harness itself allows 1e-6 in Linf."""
RADIUS_SLACK_SHARE = 1e-6
"""Relative allowance for a certificate's radius below eps, for rounding."""


class Contradiction(NamedTuple):
    """A row that contradicts a rule, which this program never writes."""

    cell: str
    """Key of its cell."""
    description: str
    """The row, and its error."""


def _format_literals(kind: Any) -> str:
    return ", ".join(f"'{word}'" for word in get_args(kind))


def _build_type_rule(column: str, kind: str) -> str:
    return f"typeof({column}) = '{kind}'"


def _build_flag_rule(*columns: str) -> str:
    return " AND ".join(f"{_build_type_rule(column, 'integer')} AND {column} IN (0, 1)" for column in columns)


def _build_count_rule(*columns: str) -> str:
    return " AND ".join(f"{_build_type_rule(column, 'integer')} AND {column} >= 0" for column in columns)


def _build_number_rule(column: str) -> str:
    return f"({_build_type_rule(column, 'real')} AND abs({column}) < 9e999)"


NORMS = ("Linf", "L2", "L1", "L0", "spatial", "corruption", "sticker", "patch")
"""Norms and families of a cell; figures are named after them."""
_ATTACKED_CONDITION = "c.measure IN ('ball', 'distance') AND o.status = 'ok'"
"""An image that was attacked, or certified without an attack, with its last prediction in the row."""
_DISTANCE_EXPRESSION = (
    "CASE c.norm WHEN 'Linf' THEN o.linf WHEN 'L2' THEN o.l2 WHEN 'L1' THEN o.l1 WHEN 'L0' THEN o.l0 "
    "ELSE 0.0 END"
)
_RADIUS_EXPRESSION = (
    f"CASE c.norm WHEN 'L0' THEN c.eps ELSE c.eps * {1 + EPS_SLACK_SHARE!r} + {EPS_SLACK_PIXEL_UNITS!r} END"
)
"""The number of changed pixels is exact; other norms are rounded."""

_OUTCOME_RULES: Sequence[tuple[str, str]] = (
    (
        _build_count_rule("o.position", "o.label", "o.forward_passes", "o.backward_passes"),
        "a count is not an integer",
    ),
    (
        " AND ".join(
            f"({column} IS NULL OR ({_build_count_rule(column)}))"
            for column in ("o.clean_prediction", "o.adversarial_prediction")
        ),
        "a prediction is not a class index",
    ),
    (
        _build_flag_rule("o.clean_correct", "o.broken", "o.moved_elsewhere", "o.fragile", "o.abstained"),
        "a flag is neither 0 nor 1",
    ),
    (
        (
            f"(o.broken_8bit IS NULL OR ({_build_flag_rule('o.broken_8bit')})) AND "
            f"(o.certified IS NULL OR ({_build_flag_rule('o.certified')}))"
        ),
        "a flag is neither 0 nor 1",
    ),
    (f"o.margin IS NULL OR {_build_number_rule('o.margin')}", "its margin is not a finite number"),
    (
        f"o.radius IS NULL OR ({_build_type_rule('o.radius', 'real')} AND o.radius >= 0)",
        "its radius is not a distance",
    ),
    (
        " AND ".join(
            f"({column} IS NULL OR ({_build_number_rule(column)} AND {column} >= 0))"
            for column in ("o.linf", "o.l2", "o.l1", "o.l0")
        ),
        "a distance is not a finite number of at least 0",
    ),
    (f"{_build_number_rule('o.seconds')}", "its time is not a number"),
    (f"o.status IN ({_format_literals(OutcomeStatus)})", "its status is unknown"),
    (
        " AND ".join(
            _build_type_rule(column, "text")
            for column in ("o.image", "o.original_hash", "o.adversarial_hash")
        ),
        "a text field is not text",
    ),
    (f"o.error IS NULL OR {_build_type_rule('o.error', 'text')}", "a text field is not text"),
    ("o.position < c.images", "its position is beyond the images of the cell"),
    ("o.broken <= o.clean_correct", "it is broken without being clean-correct"),
    (
        "o.broken = 0 OR o.status NOT IN ('clean-wrong', 'error', 'timeout', 'void')",
        "it is broken without a verdict",
    ),
    ("o.clean_correct = 0 OR o.clean_prediction IS o.label", "it is clean-correct with a wrong prediction"),
    ("o.status <> 'clean-wrong' OR o.clean_correct = 0", "it is both clean-correct and clean-wrong"),
    (
        "o.status <> 'ok' OR c.measure = 'certificate' OR o.clean_correct = 1",
        "it was attacked without being clean-correct",
    ),
    ("o.moved_elsewhere = 0 OR o.broken = 0", "it is both broken and moved elsewhere"),
    ("coalesce(o.broken_8bit, 0) <= o.broken", "it is broken only in 8 bits"),
    (
        (
            f"NOT ({_ATTACKED_CONDITION} AND o.broken = 0 AND c.goal = 'untargeted') "
            "OR o.adversarial_prediction IS o.label OR o.abstained = 1"
        ),
        "it is not broken, but its last prediction is wrong",
    ),
    (
        (
            f"NOT ({_ATTACKED_CONDITION} AND o.broken = 1 AND c.goal = 'untargeted') "
            "OR o.adversarial_prediction IS NOT o.label OR coalesce(o.margin, 0) <= 0"
        ),
        "it is broken, but its last prediction is correct",
    ),
    (
        (
            f"NOT ({_ATTACKED_CONDITION} AND o.broken = 1 AND c.goal = 'targeted') "
            "OR o.adversarial_prediction IN (SELECT value FROM json_each(c.targets))"
        ),
        "it is broken, but its last prediction is not a target",
    ),
    (
        (
            f"NOT ({_ATTACKED_CONDITION} AND o.broken = 0 AND c.goal = 'targeted') "
            "OR o.adversarial_prediction NOT IN (SELECT value FROM json_each(c.targets))"
        ),
        "it is not broken, but its last prediction is a target",
    ),
    (
        (f"NOT ({_ATTACKED_CONDITION} AND o.broken = 1) OR {_DISTANCE_EXPRESSION} <= {_RADIUS_EXPRESSION}"),
        "it is broken from outside the ball",
    ),
    (
        "coalesce(o.certified, 0) = 0 OR (o.clean_correct = 1 AND o.broken = 0 AND o.abstained = 0)",
        "it is certified but not correct",
    ),
    (
        (
            "NOT (o.certified = 1 AND c.measure = 'certificate' AND o.radius IS NOT NULL) "
            f"OR o.radius >= c.eps * {1 - RADIUS_SLACK_SHARE!r}"
        ),
        "it is certified beyond its radius",
    ),
    (
        "o.certified IS NULL OR c.measure = 'certificate' OR o.certified = 1",
        "an attacked image has a failed certificate",
    ),
    (
        (
            "o.abstained = 0 OR c.measure = 'certificate' "
            "OR (o.broken = 0 AND o.adversarial_prediction IS NOT o.label)"
        ),
        "its last answer is no rejection",
    ),
    (
        f"{_build_count_rule('o.draws', 'o.successful_draws')} AND o.successful_draws <= o.draws",
        "more draws are successful than there are",
    ),
    (
        f"o.broken_fixed_draw IS NULL OR ({_build_flag_rule('o.broken_fixed_draw')} AND o.clean_correct = 1)",
        "it is broken with a fixed draw without being clean-correct",
    ),
    (
        (
            f"{_build_count_rule('o.twin_forward_passes', 'o.twin_backward_passes')} AND "
            f"(o.twin_clean_correct IS NULL OR ({_build_flag_rule('o.twin_clean_correct')})) AND "
            f"o.search_phase IN ({_format_literals(SearchPhase)})"
        ),
        "an entry about the twin is of a wrong kind",
    ),
    (
        (
            f"o.twin_broken IS NULL OR ({_build_flag_rule('o.twin_broken')} "
            "AND (o.twin_broken = 0 OR coalesce(o.twin_clean_correct, 0) = 1))"
        ),
        "it is broken for the twin without being clean-correct for it",
    ),
)

_CELL_RULES: Sequence[tuple[str, str]] = (
    (_build_count_rule("c.position", "c.images", "c.excluded"), "a count is not an integer"),
    (
        " AND ".join(
            _build_type_rule(f"c.{column}", "text")
            for column in ("key", "model", "defense", "attack", "card", "norm", "threat", "note", "knowledge")
        ),
        "a text field is not text",
    ),
    (f"{_build_number_rule('c.eps')} AND c.eps >= 0", "its eps is not a radius"),
    (f"{_build_number_rule('c.alpha')} AND c.alpha BETWEEN 0 AND 1", "its alpha is not a probability"),
    (f"c.norm IN ({', '.join(map(repr, NORMS))})", "its norm is unknown"),
    ("c.goal IN ('untargeted', 'targeted')", "its goal is unknown"),
    ("c.measure IN ('ball', 'distance', 'certificate', 'views')", "its measure is unknown"),
    ("c.concerns IN ('model', 'smoothed')", "the subject of its certificates is unknown"),
    (f"c.status IN ({_format_literals(CellStatus)})", "its status is unknown"),
    (
        (
            "json_valid(c.targets) AND json_valid(c.sources) AND json_valid(c.parameters) "
            "AND json_valid(c.identity) AND (c.surface IS NULL OR json_valid(c.surface))"
        ),
        "a list is not valid JSON",
    ),
    (
        "(SELECT count(*) FROM outcomes o WHERE o.cell = c.key) <= c.images",
        "it has more outcomes than images",
    ),
    (
        "(SELECT count(DISTINCT image) = count(*) FROM outcomes o WHERE o.cell = c.key)",
        "an image occurs in it twice",
    ),
)

_SIGHTING_RULES: Sequence[tuple[str, str]] = (
    (_build_count_rule("o.position"), "a count is not an integer"),
    (f"o.condition IN ({_format_literals(Condition)})", "its condition is unknown"),
    (f"o.kind IN ({_format_literals(ViewKind)})", "its kind is unknown"),
    (
        (
            "json_valid(o.predictions) AND json_valid(o.confidences) "
            "AND json_array_length(o.predictions) = json_array_length(o.confidences)"
        ),
        "its predictions and confidences do not match",
    ),
)

_VIEW_RULES: Sequence[tuple[str, str]] = (
    (_build_count_rule("o.position"), "a count is not an integer"),
    (f"o.kind IN ({_format_literals(ViewKind)})", "its kind is unknown"),
    (
        " AND ".join(f"json_valid(o.{name})" for name in ("distance", "yaw", "pitch", "roll")),
        "a list is not valid JSON",
    ),
)


def find_contradictions(connection: sqlite3.Connection) -> Iterator[Contradiction]:
    """Yield rows whose fields contradict each other or their cell: the first in each table of a cell.

    Args:
        connection: An open database of the current schema.
    """
    problem = _build_first_broken_rule(_CELL_RULES)
    inner = f"SELECT c.key, {problem} AS problem FROM cells c"
    query = f"SELECT key, NULL, problem FROM ({inner}) WHERE problem NOT NULL"
    yield from _build_contradictions(connection, query, "")
    tables = (("outcomes", _OUTCOME_RULES), ("sightings", _SIGHTING_RULES), ("views", _VIEW_RULES))
    for table, rules in tables:
        problem = _build_first_broken_rule(rules)
        inner = (
            f"SELECT o.cell AS cell, o.position AS position, {problem} AS problem "
            f"FROM {table} o JOIN cells c ON c.key = o.cell"
        )
        query = f"SELECT cell, min(position), problem FROM ({inner}) WHERE problem NOT NULL GROUP BY cell"
        yield from _build_contradictions(connection, query, f" in {table}")
    yield from _find_unknown_classes(connection)


def _build_contradictions(connection: sqlite3.Connection, query: str, where: str) -> Iterator[Contradiction]:
    for cell, position, problem in connection.execute(query).fetchall():
        row = "" if position is None else f"image {position}{where}: "
        yield Contradiction(str(cell), f"{row}{problem}")


def _build_first_broken_rule(rules: Sequence[tuple[str, str]]) -> str:
    """Build an SQL expression for the message of the first rule that a row breaks, else NULL."""
    cases = " ".join(f"WHEN NOT coalesce(({rule}), 0) THEN '{words}'" for rule, words in rules)
    return f"CASE {cases} END"


def _find_unknown_classes(connection: sqlite3.Connection) -> Iterator[Contradiction]:
    """Yield rows with classes that the model does not have, if its number of classes is known."""
    models = connection.execute(
        "SELECT json_extract(m.value, '$.id'), max(json_extract(m.value, '$.num_classes')) "
        "FROM meta, json_each(meta.value) m WHERE meta.key = 'models' AND json_valid(meta.value) "
        "AND json_type(m.value) = 'object' GROUP BY 1"
    ).fetchall()
    for model, classes in models:
        if not isinstance(classes, int):
            continue
        query = (
            "SELECT o.cell, min(o.position), 'a class is not among the ' || ? || ' of the model' "
            "FROM cells c JOIN outcomes o ON o.cell = c.key WHERE c.model = ? "
            "AND max(o.label, coalesce(o.clean_prediction, 0) - o.abstained, "
            "coalesce(o.adversarial_prediction, 0) - o.abstained) >= ? GROUP BY o.cell"
        )
        for cell, position, problem in connection.execute(query, (classes, model, classes)).fetchall():
            yield Contradiction(str(cell), f"image {position} in outcomes: {problem}")
