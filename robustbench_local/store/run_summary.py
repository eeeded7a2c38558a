"""What a run says about itself in a list of runs, stored when it ends: a list reads no outcome of any run.

Verdict and rates are those of the report. A fingerprint of everything that they were computed from is stored
with them, so that a summary is not believed after the run has gone on.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from robustbench_local.config.user_files import MIB, read_user_file
from robustbench_local.errors import RobustbenchError
from robustbench_local.statistics import Estimate
from robustbench_local.store.run_folder import LOAD_TEST_NAME

SUMMARY_KEY = "summary"
"""Key of the metadata under which a run keeps its summary."""
SUMMARY_SCHEMA = 1
"""Version of the stored form; a summary of another version is computed again."""
Verdict = Literal["pass", "fail", "inconclusive", "none", "invalid"]
"""As at the head of the report; ``invalid``: an attack and a certificate contradict each other."""
Quantity = Literal["robust accuracy", "certified accuracy", "attack success"]
"""``attack success``: of an attack on certain classes, or of a sticker."""
_LOAD_TEST_LIMIT_BYTES = 64 * MIB
_ROW_TEXTS = ("model", "defense", "label", "digest", "threat", "threat_text", "mark")
_LATER_KEYS = (SUMMARY_KEY, "intervals of the gates")
"""Metadata that are written after the summary's numbers are known."""


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One rate of a run: a model under a threat model."""

    model: str
    """Id of the model."""
    defense: str
    """Name of its defense, or ``none``."""
    label: str
    """Label of the model with its defense."""
    digest: str
    """Digest of the model; empty if unknown."""
    threat: str
    """Name of the threat model, such as ``linf-8``."""
    threat_text: str
    """The threat model in words."""
    attacks: tuple[str, ...]
    """The attacks, or the certificate, that the rate is over."""
    quantity: Quantity
    """What the rate is."""
    clean: Estimate
    """Clean accuracy on the same images."""
    rate: Estimate
    """The rate."""
    is_complete: bool
    """Whether every attack of the grid counts."""
    mark: str
    """Diagnostics that find the rate not trustworthy, in words; empty if none does."""

    @property
    def series_key(self) -> tuple[object, ...]:
        """What two rates must share to be compared over time, besides the data."""
        images = (self.rate.n, self.rate.groups, self.rate.phases)
        return (self.model, self.defense, self.quantity, self.threat, self.threat_text, self.attacks, images)


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The rates and the verdict of a run."""

    verdict: Verdict
    """What the gates come to."""
    gate_counts: Mapping[str, int] = field(default_factory=dict)
    """Status of a gate -> number of gates."""
    sentence: str = ""
    """The verdict in a sentence."""
    advice: str = ""
    """What it means for a deployment."""
    rows: tuple[SummaryRow, ...] = ()
    """The rates, those of the threat model of the report's answer first."""
    finding_counts: Mapping[str, int] = field(default_factory=dict)
    """Level of a finding -> number of findings."""

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        rows = [{**asdict(row), "clean": _encode(row.clean), "rate": _encode(row.rate)} for row in self.rows]
        return {"schema": SUMMARY_SCHEMA, **asdict(self), "rows": rows}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Build the summary from JSON values.

        Raises:
            KeyError: If something is missing.
            TypeError: If a value has another type.
            ValueError: If it has another version.
        """
        if content["schema"] != SUMMARY_SCHEMA:
            raise ValueError(content["schema"])
        if content["verdict"] not in get_args(Verdict):
            raise ValueError(content["verdict"])
        return cls(
            verdict=content["verdict"],
            sentence=str(content["sentence"]),
            advice=str(content["advice"]),
            gate_counts=_decode_counts(content["gate_counts"]),
            rows=tuple(map(_decode_row, content["rows"])),
            finding_counts=_decode_counts(content["finding_counts"]),
        )


def compute_fingerprint(connection: sqlite3.Connection, directory: Path) -> str:
    """Compute the fingerprint of what the numbers of a run depend on.

    Args:
        connection: Its database. The digests of the cells stand for their outcomes: none of these is read.
        directory: The run directory, with the load tests beside the database.
    """
    digest = hashlib.sha256()
    keys = ", ".join("?" * len(_LATER_KEYS))
    queries: tuple[tuple[str, tuple[str, ...]], ...] = (
        (_select_cell_digests(connection), ()),
        ("SELECT key, value FROM identity ORDER BY key", ()),
        (f"SELECT key, value FROM meta WHERE key NOT IN ({keys}) ORDER BY key", _LATER_KEYS),  # noqa: S608
    )
    for query, values in queries:
        for row in connection.execute(query, values):
            digest.update(repr(row).encode("utf-8", "surrogatepass"))
        digest.update(b"\0")
    digest.update(_hash_load_tests(directory / LOAD_TEST_NAME))
    return digest.hexdigest()


def _select_cell_digests(connection: sqlite3.Connection) -> str:
    """Return the query for the digests of the cells; runs of older schemas have none, and no summary."""
    tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'digests'").fetchone()[0]
    return "SELECT * FROM digests WHERE part LIKE 'cell:%' ORDER BY part" if tables else "SELECT 1"


def encode_summary(summary: RunSummary, fingerprint: str) -> dict[str, Any]:
    """Encode a summary as metadata of a run."""
    return {SUMMARY_KEY: {"of": fingerprint, **summary.to_json()}}


def decode_summary(content: Any, fingerprint: str) -> RunSummary | None:
    """Decode the stored summary; None if there is none, or if the run has gone on since."""
    if not isinstance(content, dict) or content.get("of") != fingerprint:
        return None
    try:
        return RunSummary.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _hash_load_tests(path: Path) -> bytes:
    try:
        return hashlib.sha256(read_user_file(path, limit=_LOAD_TEST_LIMIT_BYTES)).digest()
    except RobustbenchError:
        return b""


def _decode_row(row: Mapping[str, Any]) -> SummaryRow:
    if row["quantity"] not in get_args(Quantity):
        raise ValueError(row["quantity"])
    return SummaryRow(
        **{name: str(row[name]) for name in _ROW_TEXTS},
        attacks=tuple(map(str, row["attacks"])),
        quantity=row["quantity"],
        clean=_decode(row["clean"]),
        rate=_decode(row["rate"]),
        is_complete=bool(row["is_complete"]),
    )


def _decode_counts(counts: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(number) for name, number in counts.items()}


def _encode(estimate: Estimate) -> list[Any]:
    known = estimate.is_known
    return [
        estimate.value if known else None,
        estimate.low,
        estimate.high,
        estimate.n,
        estimate.level,
        estimate.groups,
        list(estimate.phases),
    ]


def _decode(values: list[Any]) -> Estimate:
    value, low, high, n, level, groups, phases = values
    return Estimate(
        value=float("nan") if value is None else float(value),
        low=float(low),
        high=float(high),
        n=int(n),
        level=float(level),
        groups=int(groups),
        phases=tuple(map(int, phases)),
    )
