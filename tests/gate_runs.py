"""Small runs for tests of gates and policies, made from one letter for each image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from store_records import make_outcome_record

from robustbench_local.reports.analysis.build_cell import build_cell_result
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.read_run import find_worst_cases
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

NORMS = {"linf": "Linf", "l2": "L2", "fog": "corruption"}


@dataclass(frozen=True, kw_only=True)
class GateCell:
    """One attack on one model.

    ``images`` has a letter for each image: ``r`` robust, ``b`` broken, ``w`` misclassified clean, ``e`` an
    error of the attack.
    """

    images: str
    model: str = "m"
    attack: str = "pgd"
    threat: str = "linf-8"
    status: str = "done"
    measure: str = "ball"
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> CellRecord:
        """The cell without its outcomes."""
        family, _, size = self.threat.partition("-")
        eps = float(size) / 255 if family == "linf" else float(size)
        name = f"{self.attack}-{self.threat}"
        key = hashlib.sha256(f"{self.model} {name}".encode("utf-8", "backslashreplace")).hexdigest()
        return CellRecord(
            key=key, position=0, model=self.model,
            defense="none", attack=name, card=self.attack, norm=NORMS[family], eps=eps, threat=self.threat,
            goal="untargeted", targets=(), sources=(), images=len(self.images), excluded=0,
            parameters=self.parameters, identity={"seed": "0"}, measure=self.measure,
        )  # fmt: skip

    def build_outcomes(self, classes: int) -> list[OutcomeRecord]:
        """The outcomes; image i is of class i modulo the number of classes."""
        return [
            make_outcome_record(
                cell=self.record.key, position=i, image=f"test/{i:05d}", label=i % classes,
                clean_prediction=(i + (letter == "w")) % classes, clean_correct=letter != "w",
                adversarial_prediction=(i + (letter in "wb")) % classes, broken=letter == "b",
                linf=0.9 if self.record.norm == "corruption" else 0.01, l2=0.3,
                status={"e": "error", "w": "clean-wrong"}.get(letter, "ok"),
                error="RuntimeError: it raised" if letter == "e" else None,
                certified=(letter == "r") if self.measure == "certificate" else None,
            )
            for i, letter in enumerate(self.images)
        ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GateRun:
    """A run of a few cells."""

    cells: tuple[GateCell, ...]
    digest: str = "a" * 64
    weights: str = "b" * 64
    classes: int = 4
    seed: int = 0
    diagnostics: tuple[dict[str, Any], ...] = ()
    gates: tuple[dict[str, Any], ...] = ()
    class_names: tuple[str, ...] = ("Stop", "Yield", "Keep right", "Roundabout")

    @property
    def metadata(self) -> dict[str, Any]:
        """What the run stores besides its cells."""
        models = dict.fromkeys(cell.model for cell in self.cells)
        return {
            "data": {"name": "d", "digest": self.digest, "class_names": list(self.class_names), "n": 0},
            "models": [
                {"id": name, "defense": "none", "digest": self.weights, "num_classes": self.classes}
                for name in models
            ],
            "seed": self.seed,
            "gates": list(self.gates),
        }

    def build_evidence(self) -> Evidence:
        """The evidence, as if it were read from a store."""
        cells = []
        for cell in self.cells:
            record = replace(cell.record, status=cell.status)
            cells.append(build_cell_result(record, cell.build_outcomes(self.classes)))
        results = tuple(DiagnosticResult(model=self.cells[0].model, **one) for one in self.diagnostics)
        return Evidence(
            cells=tuple(cells),
            worst_cases=tuple(find_worst_cases(cells)),
            diagnostics=DiagnosticsRecord(results=results),
            **self.metadata,
        )

    def write_store(self, directory: Path) -> Path:
        """Write the run as a directory, and return it."""
        with RunStore.create_or_open(directory, resolved_yaml="schema: 1\n", identity={"grid": "g"}) as store:
            for key, value in self.metadata.items():
                store.set_meta(key, value)
            for cell in self.cells:
                store.put_cell(cell.record)
                store.add_outcomes(cell.record.key, cell.build_outcomes(self.classes))
                store.set_status(cell.record.key, cell.status, None)
        return directory


def make_run(images: str, **changes: Any) -> GateRun:
    """A run of one cell."""
    settings = {name: changes.pop(name) for name in list(changes) if name in GateRun.__dataclass_fields__}
    return GateRun(cells=(GateCell(images=images, **changes),), **settings)
