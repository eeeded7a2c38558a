"""A chunk: some images of a cell as one task of the cluster, and what comes back of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from robustbench_local.evaluation.execution.cluster.job_parts import PackedImages, PackedJob
from robustbench_local.evaluation.harness.job import OutcomeBatch


@dataclass(frozen=True, kw_only=True)
class ChunkRequest:
    """The images of a chunk and how they are run."""

    job: PackedJob
    """The cell's work."""
    images: PackedImages
    """The images."""
    positions: tuple[int, ...]
    """Their positions in the cell, ascending."""
    batch_size: int
    """Images per pass."""
    timeout: float | None
    """Seconds within which a pass has to finish; None for no limit."""
    seconds_left: float | None
    """Seconds that the cell may still take; None for no limit."""
    follows_success: bool
    """Whether an image of the cell was evaluated before: then no failure is taken for the model's."""
    device: str
    """Device of the models on the node."""
    code: str
    """Digest of the code that has to run there."""
    late_imports: Any
    """Reference of the sources that users' models may import while they run."""
    token: str = ""
    """Name under which the node reports that a model hangs."""


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What a node made of a chunk."""

    batches: tuple[OutcomeBatch, ...] = ()
    """Verified outcomes."""
    failure: Exception | None = None
    """What ended the chunk before its last image; None if nothing did."""
    notes: tuple[str, ...] = ()
    """Notes of failed images and halved batches, for the store."""
    model_notes: tuple[str, ...] = ()
    """New notes about the model under test."""
    stops_early: bool = False
    """Whether the node was told to stop, and gives back the images that are left."""
    refusal: str = ""
    """Why the node cannot run this package's work, in one line; empty if it can."""
    node: str = ""
    """Id of the node."""
    seconds: float = 0.0
    """Seconds that the work took there."""


class ChunkLostError(Exception):
    """A chunk did not come back: its node or its process was lost, or the result was damaged.

    Args:
        reason: What happened, as part of a line.
        node_lost: Whether the whole node was lost, which says nothing about the images.
        out_of_memory: Whether the system ended the process for its memory.
    """

    def __init__(self, reason: str, *, node_lost: bool, out_of_memory: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.node_lost, self.out_of_memory = reason, node_lost, out_of_memory
