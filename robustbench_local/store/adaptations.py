"""Adaptations of attacks to models, stored with the run under the keys of their cells."""

from __future__ import annotations

from dataclasses import asdict

from robustbench_local.store.records import AdaptationRecord
from robustbench_local.store.run_store import RunStore

_KEY_PREFIX = "adaptation of cell "


def save_adaptation(store: RunStore, cell_key: str, adaptation: AdaptationRecord) -> None:
    """Store the adaptation of a cell's attack; it is on the disk when this returns."""
    store.set_meta(f"{_KEY_PREFIX}{cell_key}", asdict(adaptation))


def read_adaptation(store: RunStore, cell_key: str) -> AdaptationRecord | None:
    """Return the stored adaptation of a cell's attack; None if there is none."""
    stored = store.read_meta(f"{_KEY_PREFIX}{cell_key}")
    return None if stored is None else AdaptationRecord(**stored)
