"""The record of a run that is one shard of a larger one: which shard, and how many images it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from robustbench_local.shard import Shard
from robustbench_local.store.records import CellRecord
from robustbench_local.store.run_folder import SHARD_PART
from robustbench_local.store.run_reader import RunReader

SHARD_KEY = "shard"
"""Metadata key of the record; missing in whole runs."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """A shard of a run, and its share of the images."""

    shard: Shard
    """Which shard of how many."""
    images: int
    """Number of images of the data that are its own."""
    of: int
    """Number of images of the data."""
    cells: Mapping[str, int] = field(default_factory=dict)
    """Key of each cell -> number of the cell's images that the shard runs."""

    @property
    def title(self) -> str:
        """The shard in words, such as ``shard 2 of 8: 128 of 1,024 images``."""
        return f"{self.shard.title}: {self.images:,} of {self.of:,} images"

    def confine_cell(self, cell: CellRecord) -> CellRecord:
        """Return the record of a cell with the number of images that the shard runs."""
        return replace(cell, images=self.cells.get(cell.key, cell.images))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            "index": self.shard.index,
            "count": self.shard.count,
            "images": self.images,
            "of": self.of,
            "cells": dict(self.cells),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build the record from its stored form."""
        return cls(
            shard=Shard(values["index"], values["count"]),
            images=values["images"],
            of=values["of"],
            cells=dict(values["cells"]),
        )


def read_shard(store: RunReader) -> ShardRecord | None:
    """Read which shard a run is; None for a whole run."""
    values = store.read_meta(SHARD_KEY)
    if values is not None:
        return ShardRecord.from_json(values)
    text = store.read_identity().get(SHARD_PART)  # alone, if the run was killed before its first image
    return None if text is None else ShardRecord(shard=Shard.from_text(text), images=0, of=0)
