"""Evidence of a run: cells, worst cases and comparisons, shared by all forms of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

from robustbench_local.cluster_statistics import Groups
from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.model_comparison import ModelComparison, compare_worst_cases
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.worst_case import WorstCase
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store import EventRecord
from robustbench_local.store.diagnostic_records import DiagnosticsRecord
from robustbench_local.store.run_costs import BatchSizeRecord, CallCost
from robustbench_local.store.run_labels import RunLabels
from robustbench_local.store.shard_record import ShardRecord
from robustbench_local.store.stop_record import StopRecord

if TYPE_CHECKING:  # pydantic is loaded only where there is a load test
    from robustbench_local.store.load_test_records import LoadTestRecord


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All data that the forms of the report are built from."""

    cells: tuple[CellResult, ...]
    """In the order of the grid."""
    worst_cases: tuple[WorstCase, ...]
    """Worst cases under untargeted threat models, in the order of their first cell."""
    events: tuple[EventRecord, ...] = ()
    """Events of the run."""
    identity: Mapping[str, str] = field(default_factory=dict)
    """Identity of the run."""
    question: str | None = None
    """The user's question."""
    seed: int | None = None
    """The run's seed."""
    grid: Mapping[str, Any] = field(default_factory=dict)
    """The resolved grid."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the images."""
    models: Sequence[Mapping[str, Any]] = ()
    """Facts about the models."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and machine, without environment variables."""
    gates: Sequence[Mapping[str, Any]] = ()
    """The grid's gates."""
    has_begun: bool = True
    """Whether the run recorded its cells or its gates before it stopped."""
    severity_costs: Mapping[str, Any] = field(default_factory=dict)
    """Costs of misclassifications by model (misclassification_severity.py); empty if the run has none."""
    has_unchecked_rows: bool = False
    """Whether some rows are older than their digests, so that earlier damage is not detected."""
    damaged_images: Mapping[str, str] = field(default_factory=dict)
    """Key of a cell -> why its adversarial images are not shown; empty if they were not checked."""
    card_texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Card -> its shipped ``description`` and ``source``; empty if the run did not record them."""
    labels: RunLabels = field(default_factory=RunLabels)
    """Labels of attacks and models in tables."""
    stop: StopRecord | None = None
    """Rule and random order of a run that may stop before its last image; None: it runs over all images."""
    shard: ShardRecord | None = None
    """Which part of the images the run has; None: all of them."""
    diagnostics: DiagnosticsRecord = field(default_factory=DiagnosticsRecord)
    """Diagnostics that asked the models; without results in older runs."""
    load_tests: Sequence[LoadTestRecord] = ()
    """Load tests of the models, from the file beside the run."""
    call_costs: Sequence[CallCost] = ()
    """What each call of the run was expected to cost, and what it did; empty if it was not stored."""
    batch_sizes: Sequence[BatchSizeRecord] = ()
    """The measured batch sizes."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Results of ``compute_once``; a changed copy starts without any."""

    @property
    def groups(self) -> Groups:
        """Group of each image; empty if the images are independent."""
        return self.cells[0].groups if self.cells else {}

    @property
    def subjects(self) -> tuple[EvaluatedModel, ...]:
        """Models with their defenses, in the order of the grid."""
        return tuple(dict.fromkeys(cell.subject for cell in self.cells))

    @property
    def attack_cells(self) -> tuple[CellResult, ...]:
        """The cells of attacks."""
        return tuple(cell for cell in self.cells if not cell.is_certificate)

    @property
    def certificate_cells(self) -> tuple[CellResult, ...]:
        """The cells of certificates."""
        return tuple(cell for cell in self.cells if cell.is_certificate)

    @property
    def threats(self) -> tuple[Threat, ...]:
        """Untargeted threat models, in the order of the grid."""
        return tuple(dict.fromkeys(worst.threat for worst in self.worst_cases))

    @property
    def headline_threat(self) -> Threat | None:
        """The untargeted threat model of the answer: of a norm if possible, and with most attacks."""
        attacks = dict.fromkeys(self.threats, 0)
        for worst in self.worst_cases:
            attacks[worst.threat] = max(
                attacks[worst.threat], len(worst.attacks) + len(worst.missing_attacks)
            )
        return max(attacks, key=lambda threat: (threat.norm != "spatial", attacks[threat]), default=None)

    def get_worst_case(self, subject: EvaluatedModel, threat: Threat) -> WorstCase | None:
        """Return a subject's worst case under a threat model, if the grid has one."""
        matches = (
            worst_case
            for worst_case in self.worst_cases
            if worst_case.subject == subject and worst_case.threat == threat
        )
        return next(matches, None)

    def compute_clean_accuracy(self, subject: EvaluatedModel) -> Estimate:
        """Compute a subject's accuracy on clean images, from the done cell with most images.

        Certificates count only without an attack, and never those of a vote under noise. Cells over views
        never count: there a sign that is often misclassified clean is void.
        """
        done = [cell for cell in self.cells if cell.subject == subject and cell.is_done]
        attacks = [cell for cell in done if not (cell.is_certificate or cell.is_sticker)]
        proofs = [cell for cell in done if cell.is_certificate and cell.record.concerns == "model"]
        estimates = [cell.clean_accuracy for cell in attacks or proofs]
        return max(estimates, key=lambda estimate: estimate.n, default=compute_clopper_pearson(0, 0))

    def compare_models(self, threat: Threat) -> list[ModelComparison]:
        """Compare the subject of highest robust accuracy with each other one, on the same images.

        The p-values are adjusted for all pairs under this threat model: only the data tell which subject is
        highest.
        """
        rows = [
            worst_case
            for worst_case in self.worst_cases
            if worst_case.threat == threat and worst_case.robust_accuracy.is_known
        ]
        if len(rows) < 2:
            return []
        best = max(rows, key=lambda worst_case: worst_case.robust_accuracy.value)
        ranked = [best, *(row for row in rows if row is not best)]
        # the pairs of the best come first
        return compare_worst_cases(list(combinations(ranked, 2)))[: len(rows) - 1]

    def get_subject(self, model: str, defense: str | None) -> EvaluatedModel:
        """Return a model with its defense and label."""
        name = defense or "none"
        return EvaluatedModel(model=model, defense=name, label=self.labels.get_model_label(model, name))

    def get_class_names(self, model: str) -> Sequence[str]:
        """Return the class names of a model by index; those of the data unless the model has its own."""
        own = next((about.get("class_names") for about in self.models if about.get("id") == model), None)
        return list(own or self.data.get("class_names") or ())

    def get_class_name(self, model: str, index: int | None) -> str:
        """Return the name of a class; ``class 7`` without names."""
        names: dict[int | None, str] = self.derived.setdefault(f"class names of {model}", {})
        if index not in names:
            names[index] = self._find_class_name(model, index)
        return names[index]

    def _find_class_name(self, model: str, index: int | None) -> str:
        if index is None:
            return "no finite answer"
        names = self.get_class_names(model)
        if index == len(names) and any(
            about.get("abstain") is not None for about in self.models if about.get("id") == model
        ):
            return "rejected"
        name = names[index] if 0 <= index < len(names) else ""
        return name if name and name != str(index) else f"class {index}"
