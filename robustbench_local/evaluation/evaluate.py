"""Evaluation of one classifier under one attack in memory: a robust accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.core.engine import compute_default_batch_size
from robustbench_local.classifier import Classifier
from robustbench_local.cluster_statistics import Groups, estimate_image_share
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import DataError
from robustbench_local.evaluation.attack_choice import choose_attack
from robustbench_local.evaluation.grid.surrogate_checks import format_transfer_note
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.artefact_finish import FINISH_QUERIES
from robustbench_local.evaluation.harness.attack_goal import resolve_goal
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch
from robustbench_local.evaluation.harness.make_job import make_job
from robustbench_local.evaluation.harness.sticker_job import TEST_VIEWS
from robustbench_local.evaluation.job_diagnosis import diagnose_job
from robustbench_local.evaluation.model_argument import as_classifier, join_data
from robustbench_local.evaluation.options import (
    DEFAULT_OPTIONS,
    EVALUATION_OPTIONS,
    Options,
    check_parameter_names,
    check_whole_number,
)
from robustbench_local.evaluation.outcome_diagnostics import complete_diagnostics, list_diagnostic_notes
from robustbench_local.evaluation.probes.consistency_policy import check_consistency
from robustbench_local.evaluation.second_model import check_transfer, list_twin_notes, view_twin
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store.diagnostic_records import DiagnosticResult
from robustbench_local.store.records import AdaptationRecord, OutcomeCounts, OutcomeRecord, count_outcomes
from robustbench_local.store.view_rows import STICKER_VIEW_COLUMNS, iterate_sticker_view_rows
from robustbench_local.threats.threat_model import ThreatModel

if TYPE_CHECKING:
    import pandas as pd

ArrayLike = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Accepted types of images and labels."""


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of an attack on a classifier; every rate comes with its n and its 95% interval."""

    attack: Attack
    """The attack and its hyper-parameters."""
    threat: ThreatModel
    """Budget and goal."""
    counts: OutcomeCounts
    """The counts behind the rates."""
    outcomes: pd.DataFrame
    """One row per image, with the columns of outcomes.csv."""
    adversarial_examples: Tensor
    """(N, C, H, W): verified candidates, the original where there is none."""
    surrogate: str | None = None
    """Name of the model that the candidates were crafted on; None: the classifier itself."""
    notes: tuple[str, ...] = ()
    """Notes on the model, the data and the attack for a reader of the results."""
    view_predictions: pd.DataFrame = field(default_factory=lambda: _build_view_table(()))
    """Stickers and patches: one row for each sign (``position`` in ``read_outcomes``), condition and view."""
    groups: Groups = field(default_factory=dict, repr=False)
    """Group of each image, which intervals are over; empty if the images are independent."""
    adaptation: AdaptationRecord | None = None
    """What the attack found in the model and which steps it composed; None if it does not adapt."""
    diagnostics: tuple[DiagnosticResult, ...] = ()
    """What the model was asked about its fitness for attacks; see docs/explanation/trust.md. Empty with
    ``diagnostics=False``, and for transfers, which depend on no gradient of this model."""

    @property
    def distrust(self) -> tuple[DiagnosticResult, ...]:
        """The diagnostics that block or fail: with any, the robust accuracy is not trustworthy."""
        return tuple(result for result in self.diagnostics if not result.is_trusted)

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of all images that are correctly classified without an attack."""
        rows = self.outcomes
        return estimate_rows(rows, rows["clean_correct"], self.groups)

    @property
    def robust_accuracy(self) -> Estimate:
        """Share of all images, clean mistakes included, that are correctly classified under the attack."""
        rows = self.outcomes
        robust = rows["clean_correct"] & ~rows["broken"] & (rows["status"] != "error")
        return estimate_rows(rows, robust, self.groups)

    @property
    def twin_robust_accuracy(self) -> Estimate:
        """The same of the float twin, under the attack on it and these candidates; unknown without one."""
        rows = self.outcomes[self.outcomes["twin_broken"].notna()]
        robust = rows["twin_clean_correct"].astype(bool) & ~rows["twin_broken"].astype(bool)
        return estimate_rows(rows, robust, self.groups)

    @property
    def attack_success(self) -> Estimate:
        """Share of the clean-correct images on which the attack succeeded."""
        rows = self.outcomes[self.outcomes["clean_correct"]]
        return estimate_rows(rows, rows["broken"], self.groups)

    @property
    def sticker_success(self) -> Estimate:
        """Share of the held-out views with the attacker's outcome, for correctly classified clean views.

        Void signs do not count; unknown for attacks that are not evaluated over views.
        """
        rows = self.outcomes.loc[self.outcomes["clean_correct"], ["position", "label"]]
        views = self.view_predictions[self.view_predictions["kind"] == "view"].merge(rows, on="position")
        where = ["position", "number", "label"]
        reads = views.pivot(index=where, columns="condition", values="prediction")
        if not {"clean", "sticker"} <= set(reads.columns):
            return compute_clopper_pearson(0, 0)
        label, read = reads.index.get_level_values("label"), reads["sticker"]
        right = reads["clean"] == label
        hits = read.isin(self.threat.targets) if self.threat.targets else read.notna() & (read != label)
        return compute_clopper_pearson(int((hits & right).sum()), int(right.sum()))

    def __repr__(self) -> str:
        origin = f", from {self.surrogate}" if self.surrogate else ""
        rate = "sticker_success" if self.attack.measure == "views" else "robust_accuracy"
        return (
            f"EvaluationResult({self.attack}, {self.threat.name}{origin}, "
            f"clean_accuracy={self.clean_accuracy}, {rate}={getattr(self, rate)}{self._format_distrust()})"
        )

    def _format_distrust(self) -> str:
        """Return the mark of a number that diagnostics find not trustworthy, with their ids."""
        named = ", ".join(dict.fromkeys(result.id for result in self.distrust))
        return f", not trustworthy: {named}" if named else ""


def evaluate(
    classifier: Classifier | nn.Module,
    data: Dataset | tuple[ArrayLike, ArrayLike] | ArrayLike,
    labels: ArrayLike | None = None,
    *,
    attack: str | Attack | type[Attack] = "autoattack",
    norm: str | None = None,
    eps: float | str | None = None,
    targets: Sequence[int | str] | int | None = (),
    sources: Sequence[int | str] | int | None = (),
    transformation: str | None = None,
    surrogate: Classifier | None = None,
    twin: Classifier | nn.Module | None = None,
    twin_queries: int = FINISH_QUERIES,
    test_views: int = TEST_VIEWS,
    seed: int = 0,
    num_classes: int | None = None,
    diagnostics: bool = True,
    options: Options = DEFAULT_OPTIONS,
    **parameters: Any,
) -> EvaluationResult:
    """Evaluate a classifier's accuracy under an attack; the harness verifies every candidate.

    Example:
        >>> import robustbench_local as rbl
        >>> classifier = rbl.load_classifier("zoo:signs-plain")
        >>> data = rbl.load_dataset("signs", limit=4)
        >>> result = rbl.evaluate(classifier, data, attack="pgd", steps=3, norm="Linf", eps="2/255")
        >>> result.robust_accuracy.n
        4

    Args:
        classifier: The classifier, left exactly as it was; or a network that takes images in [0, 1] as they
            are, and stays on its device.
        data: A data set, a pair (images, labels), or images (N, C, H, W), uint8 or floats in [0, 1]. Tensors,
            NumPy arrays and lists are accepted, on any device.
        labels: True classes, (N,), where ``data`` is images alone.
        attack: A card such as ``"pgd50-linf-8"``, a method such as ``"pgd"``, a class such as ``rbl.PGD``, or
            an instance of one; also an entry point or ``"python:FILE.py:NAME"``.
        norm: ``"Linf"``, ``"L2"``, ``"L1"``, ``"L0"``, ``"spatial"`` or ``"corruption"``; by default that of
            the card.
        eps: Radius, a number or ``"8/255"``; degrees, or a severity; by default that of the card.
        targets: Target classes of the attacker, by index or name, or a single one; empty or None: any wrong
            class.
        sources: Attack only images of these classes, or of this class.
        transformation: The corruption, with ``norm="corruption"``.
        surrogate: Another classifier of the same classes to craft the candidates on: a transfer attack, which
            never queries ``classifier``. It is moved to the classifier's device.
        twin: The float network that ``classifier``, a shipped artefact, was made from. Attacks search with
            its gradients, and only ``classifier`` decides success; ``outcomes`` have what the twin answers.
            It is moved to the classifier's device.
        twin_queries: Queries of ``classifier`` for each image that the search through the twin leaves.
        test_views: Number of views per image in which a sticker or patch is evaluated.
        seed: Decides every random draw; 0 or more.
        num_classes: Classes of a bare network; by default found by a forward pass.
        diagnostics: Whether the model is asked, with at most a tenth of the attack's passes, if attacks can
            be trusted on it. What they find stands in ``notes`` and in ``diagnostics`` of the result.
        options: Computing options, such as ``rbl.Options(device="cuda", batch_size=64)``: ``device``,
            ``batch_size``, ``cards``, ``allow_batch_dependence``, ``allow_code`` and ``timeout``; the others
            are for grids.
        **parameters: Hyper-parameters of the attack, such as ``steps=10``; they override the card's.

    Returns:
        The result.

    Raises:
        RobustbenchError: If the model, the data, the attack and the threat model do not fit each other.
    """
    check_whole_number("seed", seed, least=0)
    check_whole_number("test_views", test_views, least=1)
    check_whole_number("twin_queries", twin_queries, least=0)
    check_parameter_names("evaluate", parameters)
    options.check_applicable("evaluate")
    known = join_data(data, labels)
    classifier = as_classifier(classifier, known.images, num_classes)
    if options.device is not None:
        classifier.to(options.device)
    fitted = fit_labels(known, classifier.num_classes, classifier.class_names)
    twin = None if twin is None else as_classifier(twin, known.images)
    overrides = _list_overrides(
        norm=norm,
        eps=eps,
        targets=_list_classes(targets),
        sources=_list_classes(sources),
        transformation=transformation,
    )
    folders = [Path(folder) for folder in options.cards]
    arguments = [*signature(evaluate).parameters, *EVALUATION_OPTIONS]
    with permit_code(options.allow_code):
        chosen = choose_attack(attack, overrides, parameters, folders, arguments)
    method, goal = chosen.attack, resolve_goal(chosen.threat, fitted)
    threat = goal.threat
    view = view_twin(classifier, twin, surrogate, known, fitted)
    if surrogate is None:
        method.check_support(threat, view or classifier)
    else:
        check_transfer(method, threat, classifier, surrogate, known, fitted)
    if not len(goal.positions):
        raise DataError("no image is of a source class and outside the targets", where=fitted.name)
    for model in filter(None, (classifier, surrogate, twin)):
        _check_model(model, fitted, options)
    key = {"model": classifier.name, "attack": repr(method), "threat": repr(threat), "seed": str(seed)}
    job = make_job(
        method,
        key=cell_key(key),
        classifier=classifier,
        data=fitted,
        positions=goal.positions,
        threat=threat,
        seed=seed,
        surrogate=surrogate,
        view=view,
        finish_queries=twin_queries,
        test_views=test_views,
    )
    found = diagnose_job(job, options.timeout, view) if diagnostics and surrogate is None else ()
    batches, heard, adaptation = run_job(job, options)
    found = _complete_diagnostics(found, job, method, batches)
    notes = (
        *list_diagnostic_notes(found),
        *classifier.notes,
        *fitted.notes,
        method.describe_caveats(surrogate or view or classifier, threat),
        format_transfer_note(surrogate.name) if surrogate else "",
        *list_twin_notes(view, method, fitted),
        *method.list_warnings(threat),
        *heard,
    )
    result = _build_result(method, threat, batches, surrogate, notes, adaptation, found)
    return replace(result, groups=fitted.group_by_image)


def estimate_rows(rows: pd.DataFrame, marks: pd.Series[bool], groups: Groups) -> Estimate:
    """Estimate the share of rows that are marked, over their groups if there are any.

    Args:
        rows: Outcomes, one row per image.
        marks: Whether each of them counts.
        groups: Group of each image; empty if the images are independent.
    """
    return estimate_image_share(dict(zip(rows["image"], marks.astype(bool).tolist(), strict=True)), groups)


def run_job(job: Job, options: Options) -> tuple[list[OutcomeBatch], list[str], AdaptationRecord | None]:
    """Run a job in memory.

    Args:
        job: The job.
        options: The computing options.

    Returns:
        The batches, in the order of positions, notes for a reader of the results, and the adaptation of the
        attack if it adapts to the model.
    """
    notes: list[str] = []
    size = options.batch_size or compute_default_batch_size(job.data.images)
    isolation = IsolationSettings(isolated=options.timeout is not None, timeout=options.timeout)
    job, adaptation = adapt_job(job, batch_size=size, isolation=isolation, notify=notes.append)
    batches = run_batches(job, batch_size=size, notify=notes.append, isolation=isolation)
    return list(batches), notes, adaptation


def _list_overrides(**keys: Any) -> dict[str, Any]:
    """List the keys of the threat model that the caller gave."""
    return {key: value for key, value in keys.items() if value not in (None, ())}


def _check_model(model: Classifier, data: Dataset, options: Options) -> None:
    """Check that the model's answer to an image depends on nothing else."""
    check_consistency(
        model,
        data.images,
        allowed=options.allow_batch_dependence,
        batch_size=options.batch_size,
        timeout=options.timeout,
    )


def _complete_diagnostics(
    found: tuple[DiagnosticResult, ...], job: Job, method: Attack, batches: Sequence[OutcomeBatch]
) -> tuple[DiagnosticResult, ...]:
    """Complete the diagnostics by what the outcomes say; none if the model was not asked."""
    if not found:
        return ()
    rows = [row for batch in batches for row in batch.outcomes]
    table = build_outcome_table(rows)
    clean = estimate_rows(table, table["clean_correct"], job.data.group_by_image)
    return complete_diagnostics(found, job, method, rows, clean)


def _list_classes(entries: Sequence[int | str] | int | None) -> tuple[int | str, ...]:
    """List classes as a caller names them; a string is one class, not its letters."""
    if entries is None:
        return ()
    return (entries,) if isinstance(entries, int | str) else tuple(entries)


def _build_result(
    attack: Attack,
    threat: ThreatModel,
    batches: Sequence[OutcomeBatch],
    surrogate: Classifier | None,
    notes: Sequence[str],
    adaptation: AdaptationRecord | None,
    diagnostics: tuple[DiagnosticResult, ...],
) -> EvaluationResult:
    """Build the result from the batches."""
    rows = [row for batch in batches for row in batch.outcomes]
    return EvaluationResult(
        attack=attack,
        threat=threat,
        counts=count_outcomes(rows),
        outcomes=build_outcome_table(rows),
        adversarial_examples=torch.cat([batch.candidates for batch in batches]),
        surrogate=surrogate.name if surrogate else None,
        notes=tuple(note for note in notes if note),
        view_predictions=_build_view_table(batches),
        adaptation=adaptation,
        diagnostics=diagnostics,
    )


def _build_view_table(batches: Sequence[OutcomeBatch]) -> pd.DataFrame:
    """Build a table of all predicted views of some batches, one row each."""
    import pandas as pd  # noqa: PLC0415 - a command that only runs a grid does not wait for it

    sightings = [look for batch in batches for look in batch.view_predictions]
    views = [view for batch in batches for view in batch.views]
    return pd.DataFrame(iterate_sticker_view_rows(sightings, views), columns=list(STICKER_VIEW_COLUMNS))


def build_outcome_table(rows: Sequence[OutcomeRecord]) -> pd.DataFrame:
    """Return outcomes as a table with the store's columns."""
    import pandas as pd  # noqa: PLC0415 - a command that only runs a grid does not wait for it

    return pd.DataFrame([asdict(row) for row in rows])
