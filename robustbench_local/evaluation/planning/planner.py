"""The planner: a grid becomes a plan, and everything is loaded and checked before the first attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier.device import resolve_device
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.config.cards import Card
from robustbench_local.config.class_lookup import resolve_classes
from robustbench_local.data.collect import ContractLookup
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.look_alikes import UNDECLARED_HINT
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.grid.verdict_keys import flatten_verdict_keys
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.cells import build_cells
from robustbench_local.evaluation.planning.defended_models import GridDefense, resolve_defenses
from robustbench_local.evaluation.planning.entry_cards import resolve_entry_cards
from robustbench_local.evaluation.planning.environment import (
    compute_code_version,
    describe_environment,
    find_library_versions,
)
from robustbench_local.evaluation.planning.goal import override_goal
from robustbench_local.evaluation.planning.grid_labels import build_run_labels
from robustbench_local.evaluation.planning.image_preparation import ContractFinder
from robustbench_local.evaluation.planning.model_loading import ModelLoader
from robustbench_local.evaluation.planning.outside_code import (
    check_outside_code,
    describe_run_code,
    guard_outside_code,
    list_refused_names,
)
from robustbench_local.evaluation.planning.plan import CellSpec, EvaluationSubject, Plan
from robustbench_local.evaluation.planning.screening import build_screening_cells
from robustbench_local.evaluation.planning.severity_table import resolve_severity
from robustbench_local.evaluation.planning.shard_positions import assign_shard
from robustbench_local.evaluation.planning.stop_rule import resolve_stop_rule
from robustbench_local.evaluation.planning.twins import attach_twin
from robustbench_local.evaluation.training.weight_cache import WeightCache, find_cache_folder
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.shard import Shard
from robustbench_local.store.image_groups import GROUPS_KEY
from robustbench_local.store.run_labels import LABELS_KEY, RunLabels


def make_plan(
    grid: Grid,
    options: Options,
    *,
    base_folder: Path,
    is_dry_run: bool = False,
    report: Callable[[str], None] = lambda _line: None,
) -> Plan:
    """Load the data and the models, resolve every card, and check that they fit each other.

    Args:
        grid: The grid as read from its file.
        options: The options of the run, some of which override the grid.
        base_folder: Folder that the grid file's relative paths start from.
        is_dry_run: Whether nothing is trained, because nothing will be run.
        report: Receives progress lines of trainings.

    Returns:
        The plan.

    Raises:
        RobustbenchError: As ConfigError, CardError, DataError, ModelError or RefusedError: the user's
            mistakes
            that have to be fixed before any evaluation.
    """
    with permit_code(options.allow_code, base_folder):
        plan = _build_plan(grid, options, base_folder, is_dry_run=is_dry_run, report=report)
        return plan if options.shard is None else assign_shard(plan, Shard.from_text(options.shard))


def _build_plan(
    grid: Grid, options: Options, base_folder: Path, *, is_dry_run: bool, report: Callable[[str], None]
) -> Plan:
    """Build the plan; external code may run here as far as the user allows it."""
    folders = find_card_folders(options, base_folder)
    options = options.resolve_timeouts()
    outside_names = check_outside_code(
        grid, folders, base_folder=base_folder, allow_code=options.allow_code, timeout=options.timeout
    )
    guard = partial(guard_outside_code, outside_names, options.timeout)
    with guard():
        grid = _override_grid(grid, options, folders)
        stop = resolve_stop_rule(grid, options)
        entry_cards = resolve_entry_cards(grid, folders)
    options = replace(
        options, allow_batch_dependence=options.allow_batch_dependence or grid.allow_batch_dependence
    )
    device = resolve_device(options.device or "auto")
    finder = ContractFinder(entries=grid.models, options=options, base_folder=base_folder)
    load = cache(partial(load_data, grid, base_folder, finder.find_contract))
    weight_cache = WeightCache(
        grid=grid,
        load_evaluation_data=load,
        base=base_folder,
        device=str(device),
        folder=find_cache_folder() if options.cache is None else Path(options.cache),
        allow_code=options.allow_code,
        is_dry_run=is_dry_run,
        report=report,
    )
    with guard():
        defenses = resolve_defenses(grid, folders, weight_cache)
        data = load()
    loader = ModelLoader(options=options, device=device, base_folder=base_folder, data=data)
    models, subjects = _load_subjects(grid, defenses, loader)
    _check_gate_classes(grid, subjects)
    cards = [card for _, card in entry_cards]
    identity = _build_identity(
        grid, data, {str(subject): subject for subject in (*models.values(), *subjects)}, cards
    )
    with guard():
        identity |= describe_run_code(grid, cards, _list_defense_cards(defenses))
        cells = tuple(build_cells(grid, models, subjects, entry_cards, identity["code"]))
        if stop is not None:
            cells = (*cells, *build_screening_cells(cells))
        labels = build_run_labels(grid, data, subjects, defenses, entry_cards, cells)
        warnings = (*_list_warnings(grid, cells, data, labels), *list_refused_names())
    workers = options.workers or torch.get_num_threads()
    description = _build_description(grid, data, subjects, cards, describe_environment(str(device), workers))
    return Plan(
        name=grid.name or "grid",
        resolved_yaml=grid.to_yaml(),
        seed=grid.seed,
        batch_size=options.batch_size,
        measures_batch_size=options.measure_batch_size,
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
        stop=stop,
        description=description | {LABELS_KEY: labels.to_metadata()},
        base_folder=base_folder,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _list_defense_cards(defenses: Mapping[str, Sequence[GridDefense]]) -> list[Card]:
    return [defense.card for chosen in defenses.values() for defense in chosen if defense.card]


def _override_grid(grid: Grid, options: Options, folders: Sequence[Path]) -> Grid:
    """Apply the overrides of the options to the grid."""
    if options.limit is not None:
        grid = grid.model_copy(update={"data": grid.data.model_copy(update={"limit": options.limit})})
    changes = {"seed": options.seed, "search_precision": options.search_precision}
    grid = grid.model_copy(update={key: value for key, value in changes.items() if value is not None})
    return override_goal(grid, options.sources, options.targets, folders)


def _load_subjects(
    grid: Grid, defenses: Mapping[str, Sequence[GridDefense]], loader: ModelLoader
) -> tuple[dict[str, EvaluationSubject], tuple[EvaluationSubject, ...]]:
    """Return the loaded models by id, and the models with their defenses.

    Raises:
        RobustbenchError: If none of them can be used.
    """
    loaded = {entry.id: loader.load_or_replace(entry) for entry in grid.models}
    models = {entry.id: attach_twin(entry, loaded, loader.load_or_replace) for entry in grid.models}
    subjects = tuple(
        loader.apply_defense(entry, models[entry.id], defense)
        for entry in grid.models
        for defense in defenses[entry.id]
    )
    if all(subject.problem for subject in subjects):
        raise next(subject.problem for subject in subjects if subject.problem)
    for subject in (*models.values(), *subjects):
        subject.attacked_classifier.configure(
            search_precision=grid.search_precision, compile_steps=loader.options.compile_steps
        )
    return models, subjects


def _check_gate_classes(grid: Grid, subjects: Sequence[EvaluationSubject]) -> None:
    """Refuse a gate on a class that a model does not have, before the first attack."""
    for gate in grid.gates:
        concerned = (subject for subject in subjects if gate.model in {None, subject.id})
        if gate.true_class is not None:
            for subject in concerned:
                resolve_classes([gate.true_class], subject.data.class_names)


def load_data(grid: Grid, base: Path, find_contract: ContractLookup | None = None) -> Dataset:
    """Load the images of the grid; those of several sizes are prepared by the contract that is found."""
    entry = grid.data
    seed = grid.seed if entry.seed is None else entry.seed
    judged = bool(grid.gates)  # a data set that shrinks unnoticed must not pass a gate
    return load_dataset(
        **entry.model_dump(exclude={"seed"}),
        seed=seed,
        base_folder=base,
        count_unread=judged,
        contract=find_contract,
    )


def find_card_folders(options: Options, base_folder: Path) -> list[Path]:
    """Return the folders of the user's cards, including ``cards`` beside the grid file, if it exists."""
    beside = base_folder / "cards"
    return [*map(Path, options.cards), *([beside] if beside.is_dir() else [])]


def _build_identity(
    grid: Grid, data: Dataset, subjects: Mapping[str, EvaluationSubject], cards: Sequence[Card]
) -> dict[str, str]:
    """Return everything that decides the verdicts, flat, so that a difference can be named.

    A model is included as a whole and in parts, so that a refusal can name the changed part; a model that
    cannot be used has no parts.
    """
    flat = flatten_verdict_keys(grid)
    flat["data digest"] = data.compute_digest()
    for name, subject in subjects.items():
        flat[f"digest of model {name}"] = subject.digest
        if subject.twin is not None:
            flat[f"digest of the twin of model {name}"] = subject.twin.digest
        if subject.undefended is None and subject.problem is None:
            flat |= {
                f"{part} of model {name}": value
                for part, value in subject.classifier.describe_parts().items()
            }
    flat |= find_library_versions(card.method for card in cards)
    for name, subject in subjects.items():
        if (size := find_innermost(subject.classifier).settings.fixed_batch_size) is not None:
            flat[f"batch size of model {name}"] = str(size)  # its answers depend on it
    flat["code"] = compute_code_version()
    return flat


def _build_description(
    grid: Grid,
    data: Dataset,
    subjects: Sequence[EvaluationSubject],
    cards: Sequence[Card],
    environment: dict[str, Any],
) -> dict[str, Any]:
    """Build the stored description for the report."""
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
            "groups": len(set(data.group_by_image.values())) or None,
            "undeclared_groups": next((note for note in data.notes if note.endswith(UNDECLARED_HINT)), None),
        },
        GROUPS_KEY: data.group_by_image,
        "models": [subject.description for subject in subjects],
        "gates": [gate.model_dump(mode="json") for gate in grid.gates],
        "severity": resolve_severity(grid, subjects),
        "cards": {card.base_name: {"description": card.description, "source": card.source} for card in cards},
    }


def _list_warnings(grid: Grid, cells: Sequence[CellSpec], data: Dataset, labels: RunLabels) -> Iterator[str]:
    """List what the user should know before the run starts."""
    if grid.skip_verified and not any(cell.is_certificate for cell in cells):
        yield "skip_verified has no effect: the grid has no certificate"
    for cell in cells:
        label = labels.get_attack_label(cell.record.attack)
        if cell.threat.eps > 0.5 and cell.threat.norm == "Linf":
            size = f"eps {cell.threat.eps:g} is more than half of the pixel range"
            yield f"{label}: {size}; was {cell.threat.eps:g}/255 meant?"
        if cell.threat.norm == "L0" and cell.threat.eps > data.images[0, 0].numel() / 2:
            pixels = data.images[0, 0].numel()
            yield f"{label}: {cell.threat.eps:g} pixels are more than half of an image's {pixels:,}"
        yield from (f"{label}: {line}" for line in cell.method.list_warnings(cell.threat))
    for cell in cells:
        yield from (f"model {cell.subject}: {note}" for note in cell.subject.classifier.notes)
    yield from (f"data: {note}" for note in data.notes)
