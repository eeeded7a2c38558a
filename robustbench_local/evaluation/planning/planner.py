"""From a grid to a plan: everything is loaded and checked before the first attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import resolve_device
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.labels import fit_labels
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, Grid, ModelEntry
from robustbench_local.evaluation.isolation.isolated_call import catch_process_exit
from robustbench_local.evaluation.isolation.time_limit import TIMEOUT_SECONDS, limit_time
from robustbench_local.evaluation.planning.attack_columns import plan_cells, resolve_columns
from robustbench_local.evaluation.planning.cells import GridColumn
from robustbench_local.evaluation.planning.defended_models import GridDefense, resolve_defenses
from robustbench_local.evaluation.planning.environment import (
    compute_code_version,
    describe_environment,
    find_library_versions,
)
from robustbench_local.evaluation.planning.grid_labels import build_run_labels
from robustbench_local.evaluation.planning.plan import (
    CertificateCell,
    EvaluationSubject,
    Plan,
    PlannedCell,
)
from robustbench_local.evaluation.planning.severity_table import resolve_severity
from robustbench_local.evaluation.planning.unusable_model import add_defense_name, make_unusable_subject
from robustbench_local.evaluation.probes.consistency_policy import (
    apply_consistency,
    check_consistency,
    describe_consistency,
    describe_gradients,
)
from robustbench_local.evaluation.probes.model_probe import (
    ModelProbeResult,
    apply_model_probe,
    convert_model_errors,
    probe_copying,
    probe_in_child,
    probe_model,
)
from robustbench_local.evaluation.training.weight_cache import WeightCache, find_cache_folder
from robustbench_local.models.endpoint_options import remove_credentials
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.user_import import import_known_libraries
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels

VERDICT_KEYS = ("seed", "data", "models", "defenses", "attacks", "search_precision", "skip_verified")
"""Parts of a grid file that decide verdicts; the others may change between two runs of the same evidence."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a grid is run; none of these changes a verdict."""

    base_folder: Path
    """Folder that the grid file's relative paths start from."""
    device: str = "auto"
    """Where to compute."""
    batch_size: int | None = None
    """Images in a pass; None measures once on each model."""
    workers: int | None = None
    """Processes that share a cell's images; None: one for each core that torch uses."""
    card_folders: tuple[Path, ...] = ()
    """Folders of the user's own cards."""
    compile_steps: bool = False
    """Whether attacks compile their own step."""
    allow_batch_dependence: bool = False
    """Whether models whose answers depend on the other images of a batch, or on what they were asked before,
    are run all the same, in batches of exactly ``batch_size`` and with every number marked."""
    allow_code: bool = False
    """Whether ``python:`` models may run the user's code."""
    cache_folder: Path | None = None
    """Where weights that a grid trains are kept; by default `default_cache`."""
    is_dry_run: bool = False
    """Whether nothing is trained, because nothing will be run."""
    report: Callable[[str], None] = lambda _line: None
    """Receives lines of progress of trainings."""
    timeout: float | None = TIMEOUT_SECONDS
    """Seconds within which a model has to finish a pass; None for any time."""
    cell_timeout: float | None = None
    """Seconds that a cell may take; None for any time."""


def make_plan(grid: Grid, options: Options) -> Plan:
    """Load the data and the models, resolve every card, and check that they fit each other.

    Args:
        grid: The grid, with overrides of the command line applied.
        options: How to run it.

    Returns:
        The plan.

    Raises:
        RobustbenchError: As ConfigError, CardError, DataError, ModelError or RefusedError: what the user has
            to put right before anything can be measured.
    """
    allowed = options.allow_batch_dependence or grid.allow_batch_dependence
    options = replace(options, allow_batch_dependence=allowed)
    folders = find_card_folders(options)
    columns = resolve_columns(grid, folders)
    load = cache(partial(load_data, grid, options.base_folder))
    defenses = resolve_defenses(grid, folders, _build_weight_cache(grid, options, load))
    data = load()
    models = {entry.id: _load_subject_or_placeholder(entry, data, options) for entry in grid.models}
    subjects = tuple(
        _apply_defense(entry, models[entry.id], each, data, options)
        for entry in grid.models
        for each in defenses[entry.id]
    )
    if all(subject.problem for subject in subjects):
        raise next(subject.problem for subject in subjects if subject.problem)
    for subject in (*models.values(), *subjects):
        subject.classifier.search_precision = grid.search_precision
        subject.classifier.compile_steps = options.compile_steps
    identity = _build_identity(
        grid, data, {str(each): each for each in (*models.values(), *subjects)}, columns
    )
    cells = tuple(plan_cells(grid, models, subjects, columns, identity["code"]))
    labels = build_run_labels(grid, data, subjects, defenses, columns, cells)
    device, workers = str(resolve_device(options.device)), options.workers or torch.get_num_threads()
    return Plan(
        name=grid.name or "grid",
        resolved_yaml=grid.to_yaml(),
        seed=grid.seed,
        batch_size=options.batch_size,
        workers=workers,
        max_example_images=grid.gallery,
        data=data,
        subjects=subjects,
        cells=cells,
        labels=labels,
        identity=identity,
        timeout=options.timeout,
        cell_timeout=options.cell_timeout,
        skip_verified=grid.skip_verified,
        description=_build_description(grid, data, subjects, columns, describe_environment(device, workers))
        | {LABELS_KEY: labels.to_metadata()},
        warnings=tuple(dict.fromkeys(_list_warnings(grid, cells, data, labels))),
    )


def _build_weight_cache(grid: Grid, options: Options, evaluated: Callable[[], Dataset]) -> WeightCache:
    return WeightCache(
        grid=grid,
        load_evaluation_data=evaluated,
        base=options.base_folder,
        device=options.device,
        folder=options.cache_folder or find_cache_folder(),
        allow_code=options.allow_code,
        is_dry_run=options.is_dry_run,
        report=options.report,
    )


def load_data(grid: Grid, base: Path) -> Dataset:
    """The images that the grid names."""
    entry = grid.data
    seed = grid.seed if entry.seed is None else entry.seed
    judged = bool(grid.gates)  # a set that shrinks in silence must not pass a gate
    return load_dataset(
        **entry.model_dump(exclude={"seed"}), seed=seed, base_folder=base, count_unread=judged
    )


def find_card_folders(options: Options) -> list[Path]:
    """The folders of the user's own cards, with ``cards`` beside the grid file, if there is one."""
    beside = options.base_folder / "cards"
    return [*options.card_folders, *([beside] if beside.is_dir() else [])]


def _load_subject_or_placeholder(entry: ModelEntry, data: Dataset, options: Options) -> EvaluationSubject:
    """A model that was loaded and has answered, or one whose cells will be errors."""
    try:
        return _load_subject(entry, data, options)
    except ModelError as problem:
        return make_unusable_subject(entry, data, problem, resolve_device(options.device))


def _apply_defense(
    entry: ModelEntry, model: EvaluationSubject, defense: GridDefense, data: Dataset, options: Options
) -> EvaluationSubject:
    """A model with a defense; what a recipe's training makes of a user's model may be unusable, too."""
    if model.problem is not None:
        return add_defense_name(model, defense.name)
    try:
        with catch_process_exit(entry.id), convert_model_errors(entry.id):
            return _check_defended_subject(defense.apply_to_model(model), options)
    except ModelError as problem:
        unusable = make_unusable_subject(entry, data, problem, resolve_device(options.device))
        return add_defense_name(unusable, defense.name)


def _load_subject(entry: ModelEntry, data: Dataset, options: Options) -> EvaluationSubject:
    """Load one model, fit the data to it and ask it, so that misfits show before any attack.

    Its answers are given in a child process: here it stays as it was loaded, and if it can run a user's code,
    it is loaded there, too, before it is loaded here.
    """

    def load_and_probe(rows: slice, *, should_compare: bool, should_use_gradients: bool) -> ModelProbeResult:
        with convert_model_errors(entry.id):
            classifier, fitted = _load_model(entry, data, options)
        return probe_model(
            classifier,
            fitted.images[rows],
            should_compare=should_compare,
            should_use_gradients=should_use_gradients,
        )

    if has_foreign_code(entry):
        import_known_libraries()  # before a copy of this process does so for itself
    on_cpu = resolve_device(options.device).type == "cpu"
    probe = partial(probe_in_child, len(data), timeout=options.timeout, name=entry.id)
    tried = probe(load_and_probe) if on_cpu and has_foreign_code(entry) else None
    with catch_process_exit(entry.id), convert_model_errors(entry.id):
        with limit_time(None if tried is None else options.timeout, entry.id):
            classifier, fitted = _load_model(entry, data, options)
        if tried is None:
            images = fitted.images
            tried = (
                probe(lambda rows, **how: probe_model(classifier, images[rows], **how))
                if on_cpu
                else probe_model(classifier, images)
            )
        apply_model_probe(classifier, tried)
        if on_cpu and has_foreign_code(entry) and tried.is_complete:
            probe_copying(classifier, fitted.images, options.timeout)
        allowed = options.allow_batch_dependence
        apply_consistency(classifier, tried.consistency, allowed=allowed, batch_size=options.batch_size)
        digest, parameters = classifier.compute_digest(), classifier.count_parameters()
    about = {
        "id": entry.id,
        "name": entry.id,
        "defense": "none",
        "source": remove_credentials(entry.source),
        "digest": digest,
        "num_classes": classifier.num_classes,
        "parameters": parameters,
        "access": classifier.access,
        "notes": list(classifier.notes),
        "consistency": describe_consistency(classifier),
        "provenance": classifier.provenance or None,
        "class_names": list(fitted.class_names),
        **describe_gradients(classifier),
    }
    return EvaluationSubject(
        id=entry.id, classifier=classifier, data=fitted, digest=digest, description=about
    )


def has_foreign_code(entry: ModelEntry) -> bool:
    """Whether a model may run, while it is loaded, what its user or somebody else wrote."""
    places = (entry.source, entry.architecture or "")
    return entry.trust_pickle is not None or any(place.startswith(("python:", "onnx:")) for place in places)


def _load_model(entry: ModelEntry, data: Dataset, options: Options) -> tuple[Classifier, Dataset]:
    """One model, and the data fitted to it."""
    chosen = entry.model_dump(exclude={"id", "name", "defenses"})
    if isinstance(entry.normalize, dict):
        chosen["normalize"] = (entry.normalize["mean"], entry.normalize["std"])
    if isinstance(entry.input_size, int):
        chosen["input_size"] = (entry.input_size, entry.input_size)
    classifier = load_classifier(
        **chosen,
        name=entry.id,
        device=options.device,
        allow_code=options.allow_code,
        default_classes=data.num_classes,
        base_folder=options.base_folder,
    )
    fitted = fit_labels(data, classifier.num_classes, classifier.class_names)
    classifier.notes.extend(note for note in fitted.notes if note not in data.notes)
    return classifier, fitted


def _check_defended_subject(subject: EvaluationSubject, options: Options) -> EvaluationSubject:
    """What a defense made of a model, probed as a whole; the model itself was probed when it was loaded."""
    if subject.defense != NO_DEFENSE:
        check_consistency(
            subject.classifier,
            subject.data.images,
            allowed=options.allow_batch_dependence,
            batch_size=options.batch_size,
            timeout=options.timeout,
        )
        subject.description["notes"] = list(subject.classifier.notes)
        subject.description["consistency"] = describe_consistency(subject.classifier)
        subject.description.update(describe_gradients(subject.classifier))
    return subject


def _build_identity(
    grid: Grid, data: Dataset, subjects: Mapping[str, EvaluationSubject], columns: Sequence[GridColumn]
) -> dict[str, str]:
    """Everything that decides the verdicts, flat, so that a difference can be named.

    A model is there as a whole and in its parts, by which a refusal says what of it has changed; one that
    cannot be used has none.
    """
    content = grid.dump_without_names()
    for model in content["models"]:
        if model["endpoint"]:
            model["endpoint"] = {key: model["endpoint"][key] for key in ("format", "key")}  # not its patience
    flat = dict(_flatten_content({key: content[key] for key in VERDICT_KEYS}))
    flat["data digest"] = data.compute_digest()
    for name, subject in subjects.items():
        flat[f"digest of model {name}"] = subject.digest
        if subject.undefended is None and subject.problem is None:
            flat |= {
                f"{part} of model {name}": value
                for part, value in subject.classifier.describe_parts().items()
            }
    flat |= find_library_versions(column.card.method for column in columns)
    for name, subject in subjects.items():
        if (size := find_innermost(subject.classifier).fixed_batch_size) is not None:
            flat[f"batch size of model {name}"] = str(size)  # its answers depend on it
    flat["code"] = compute_code_version()
    return flat


def _flatten_content(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten_content(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _flatten_content(value, f"{place}[{index}]")
    else:
        yield place, str(content)


def _build_description(
    grid: Grid,
    data: Dataset,
    subjects: Sequence[EvaluationSubject],
    columns: Sequence[GridColumn],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """What the store keeps for the report."""
    counts = torch.bincount(data.labels, minlength=data.num_classes).tolist()
    return {
        "environment": environment,
        "grid": grid.dump_resolved(),
        "seed": grid.seed,
        "question": grid.question,
        "name": grid.name,
        "data": {
            "name": data.name,
            "split": grid.data.split,
            "n": len(data),
            "image_shape": list(data.images.shape[1:]),
            "class_names": list(data.class_names),
            "label_map": data.label_map,
            "labels_per_class": {str(index): count for index, count in enumerate(counts) if count},
            "quarantined": [list(entry) for entry in data.quarantined],
            "notes": list(data.notes),
            "drawn": grid.data.source == "signs",
            "digest": data.compute_digest(),
        },
        "models": [subject.description for subject in subjects],
        "gates": [gate.model_dump(mode="json") for gate in grid.gates],
        "severity": resolve_severity(grid, subjects),
        "cards": {
            column.card.base_name: {"description": column.card.description, "source": column.card.source}
            for column in columns
        },
    }


def _list_warnings(
    grid: Grid, cells: Sequence[PlannedCell], data: Dataset, labels: RunLabels
) -> Iterator[str]:
    """What the user should know before the run starts."""
    if grid.skip_verified and not any(isinstance(cell, CertificateCell) for cell in cells):
        yield "skip_verified spares nothing: the grid has no certificate"
    if len(data) < 100:
        yield f"only {len(data)} images: a 95% interval is wider than 10 points either way"
    for cell in cells:
        label = labels.get_attack_label(cell.record.attack)
        if cell.threat.eps > 0.5 and cell.threat.norm == "Linf":
            size = f"eps {cell.threat.eps:g} is more than half of the pixel range"
            yield f"{label}: {size}; was {cell.threat.eps:g}/255 meant?"
        yield from (f"{label}: {line}" for line in cell.list_warnings())
    for cell in cells:
        yield from (f"model {cell.subject}: {note}" for note in cell.subject.classifier.notes)
    yield from (f"data: {note}" for note in data.notes)
