"""Entry points of installed distributions as rows of ``rbl list``, from metadata; nothing is imported."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from robustbench_local.config.cards import list_shipped_names
from robustbench_local.extensions.entry_points import ExtensionKind, list_entry_points, refuse_own_names


@dataclass(frozen=True)
class OutsideRow:
    """An entry point in a list."""

    name: str
    """Its name in a grid."""
    what: str
    """Its distribution; the reason for a refusal, if any."""
    target: str
    """Location of its code, ``module:NAME``."""


def list_outside_rows(kind: ExtensionKind, own_names: Collection[str]) -> list[OutsideRow]:
    """List the entry points of a kind, including those that cannot be used.

    Args:
        kind: The kind of entries.
        own_names: Built-in names besides those of cards.
    """
    records = refuse_own_names(list_entry_points(kind), {*own_names, *list_shipped_names()})
    return [
        OutsideRow(
            record.name,
            f"refused, {record.problem} ({record.distribution})"
            if record.problem
            else f"from {record.distribution}",
            record.target,
        )
        for record in records
    ]
