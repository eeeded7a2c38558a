"""What a run that is one shard says: its rates are about its own images, and no gate is decided on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.finding import Finding
from robustbench_local.reports.analysis.gate_types import GateVerdict


def withhold_verdict(verdict: GateVerdict, evidence: Evidence) -> GateVerdict:
    """Return the verdict of a gate, which is inconclusive on a shard, whatever its images say.

    Args:
        verdict: The verdict on the images of the run.
        evidence: The run.
    """
    if evidence.shard is None or verdict.ruling == "skipped":
        return verdict
    reason = f"{verdict.reason}; {evidence.shard.title}: only the merged run decides"
    return replace(verdict, ruling="inconclusive", reason=reason)


def find_shard(evidence: Evidence) -> Iterator[Finding]:
    """Find that the run is a shard."""
    if evidence.shard is not None:
        shard = evidence.shard
        text = (
            f"This is {shard.title}. Every number is about these images alone, and no gate is decided: merge "
            f"all {shard.shard.count:,} shards with rbl merge."
        )
        yield Finding(level="incomplete", text=text)


def format_shard_prefix(evidence: Evidence) -> str:
    """Format what stands before an answer: ``Shard 2 of 8, 128 of 1,024 images: ``; empty for a whole run."""
    if evidence.shard is None:
        return ""
    title = evidence.shard.title.replace(": ", ", ")
    return f"{title[:1].upper()}{title[1:]}: "
