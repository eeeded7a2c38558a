"""The gates of two runs: which verdicts changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from robustbench_local.reports.analysis.compared_run import ComparedRun
from robustbench_local.reports.analysis.gate_types import Gate, GateVerdict
from robustbench_local.reports.analysis.run_pairs import SubjectPair

NO_VERDICT = "absent"
"""Verdict of a gate in a run that does not have it."""
_RULING_ORDER = ("fail", "inconclusive", NO_VERDICT, "pass")
"""Rulings of the second run, as changed gates are listed."""

_GateKey = tuple[Gate, int | str]


@dataclass(frozen=True, kw_only=True)
class GateChange:
    """One gate on one model in two runs."""

    first: GateVerdict | None
    """Its verdict in the first run; None if that has no such gate."""
    second: GateVerdict | None
    """Its verdict in the second run; None if that has no such gate."""

    @property
    def limit_text(self) -> str:
        """The limit in words."""
        return self._verdict.limit_text

    @property
    def model_text(self) -> str:
        """The model in the run that is compared, or in the first one."""
        return str(self._verdict.subject or self._verdict.gate.model or "no model")

    @property
    def first_ruling(self) -> str:
        """The ruling in the first run."""
        return self.first.ruling if self.first else NO_VERDICT

    @property
    def second_ruling(self) -> str:
        """The ruling in the second run."""
        return self.second.ruling if self.second else NO_VERDICT

    @property
    def is_changed(self) -> bool:
        """Whether the rulings differ."""
        return self.first_ruling != self.second_ruling

    @property
    def _verdict(self) -> GateVerdict:
        verdict = self.second or self.first
        assert verdict is not None  # noqa: S101 - one of the two has the gate
        return verdict


def find_gate_changes(
    first: ComparedRun, second: ComparedRun, pairs: Sequence[SubjectPair]
) -> tuple[GateChange, ...]:
    """Pair the gates of two runs; changed ones come first, and failed ones before all others.

    Args:
        first: The baseline.
        second: The other run.
        pairs: The models that belong together.
    """
    before = _index_verdicts(
        first, {(pair.first.model, pair.first.defense): index for index, pair in enumerate(pairs)}
    )
    after = _index_verdicts(
        second, {(pair.second.model, pair.second.defense): index for index, pair in enumerate(pairs)}
    )
    changes = [
        GateChange(first=_get_verdict(before, key, place), second=_get_verdict(after, key, place))
        for key in dict.fromkeys([*after, *before])
        for place in range(max(len(before.get(key, ())), len(after.get(key, ()))))
    ]
    return tuple(
        sorted(
            changes,
            key=lambda change: (not change.is_changed, _RULING_ORDER.index(change.second_ruling)),
        )
    )


def _index_verdicts(
    run: ComparedRun, index_by_name: dict[tuple[str, str], int]
) -> dict[_GateKey, list[GateVerdict]]:
    """Collect the verdicts by gate and compared model; gates of models that are not compared are left out."""
    verdicts: defaultdict[_GateKey, list[GateVerdict]] = defaultdict(list)
    for verdict in run.gate_report.verdicts:
        subject = verdict.subject
        who = (subject.model, subject.defense) if subject else None
        limit = replace(verdict.gate, id="", model=None, defense=None)
        if who is None:  # a gate that concerns nothing in the run
            verdicts[limit, verdict.gate.model or ""].append(verdict)
        elif who in index_by_name:
            verdicts[limit, index_by_name[who]].append(verdict)
    return dict(verdicts)


def _get_verdict(
    verdicts: dict[_GateKey, list[GateVerdict]], key: _GateKey, place: int
) -> GateVerdict | None:
    found = verdicts.get(key, [])
    return found[place] if place < len(found) else None
