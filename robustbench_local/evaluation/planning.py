"""From a grid to a plan: everything is loaded and checked before the first attack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.base import Attack
from robustbench_local.catalogue import Card
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.labels import fit_labels, resolve_classes
from robustbench_local.data.sources import load_dataset
from robustbench_local.errors import ConfigError, RobustbenchError
from robustbench_local.evaluation.cards import find_attacks
from robustbench_local.evaluation.cell import applicable
from robustbench_local.evaluation.environment import code_version, describe_environment
from robustbench_local.evaluation.grid import Grid, ModelEntry
from robustbench_local.evaluation.plan import Plan, PlannedCell, Subject, automatic_batch_size, cell_key
from robustbench_local.models.sources import load_classifier
from robustbench_local.store.records import CellRecord
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a grid is run; none of these changes a verdict."""

    base: Path
    """Folder that the grid file's relative paths start from."""
    device: str = "auto"
    """Where to compute."""
    batch_size: int | None = None
    """Images at a time; None chooses by the size of the images."""
    cards: tuple[Path, ...] = ()
    """Folders of the user's own cards."""
    allow_code: bool = False
    """Whether ``python:`` models may run the user's code."""


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
    unknown = [name for name in grid.defenses if name != "none"]
    if unknown:
        raise ConfigError(
            f"defense {unknown[0]!r} cannot be applied by a grid yet",
            where="defenses",
            remedy="train the defended model, list it under models, and write defenses: [none]",
        )
    cards = resolve_cards(grid, [*options.cards, *_cards_beside(options.base)])
    data = load_data(grid, options.base)
    subjects = tuple(_subject(entry, data, options) for entry in grid.models)
    identity = _identity(grid, data, subjects)
    cells = tuple(_cells(grid, subjects, cards, identity["code"]))
    device = str(subjects[0].classifier.device)
    return Plan(
        name=grid.name or "grid",
        resolved=grid.as_yaml(),
        seed=grid.seed,
        batch_size=options.batch_size or automatic_batch_size(data),
        keep=grid.gallery,
        data=data,
        subjects=subjects,
        cells=cells,
        identity=identity,
        about=_about(grid, data, subjects, device),
        warnings=tuple(dict.fromkeys(_warnings(cells, data))),
    )


def resolve_cards(grid: Grid, folders: Sequence[Path]) -> list[tuple[Card, Attack]]:
    """Every attack of the grid with its overrides applied, in order.

    Raises:
        CardError: If a card is unknown or malformed.
        ConfigError: If an override is wrong, or two entries mean the same cell.
    """
    found: list[tuple[Card, Attack]] = []
    for entry in grid.attacks:
        for variant in find_attacks(entry.card, entry.overrides, folders):
            if variant.name in {one.name for one, _ in found}:
                raise ConfigError(f"the attack {variant.name!r} is listed twice", where="attacks")
            found.append((variant, make_attack(variant.method, variant.parameters)))
    return found


def load_data(grid: Grid, base: Path) -> Dataset:
    """The images that the grid names."""
    entry = grid.data
    seed = grid.seed if entry.seed is None else entry.seed
    return load_dataset(**entry.model_dump(exclude={"seed"}), seed=seed, base=base)


def _cards_beside(base: Path) -> list[Path]:
    """A folder ``cards`` beside the grid file, if there is one."""
    folder = base / "cards"
    return [folder] if folder.is_dir() else []


def _subject(entry: ModelEntry, data: Dataset, options: Options) -> Subject:
    """Load one model, fit the data to it and ask it once, so that misfits show before any attack."""
    chosen = entry.model_dump(exclude={"id"})
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
        base=options.base,
    )
    fitted = fit_labels(data, classifier.num_classes, classifier.class_names)
    with classifier.attacked(), torch.no_grad():
        classifier(fitted.images[:2].to(classifier.device))
    digest = classifier.digest()
    about = {
        "id": entry.id,
        "name": entry.id,
        "defense": "none",
        "source": entry.source,
        "digest": digest,
        "num_classes": classifier.num_classes,
        "parameters": _parameter_count(classifier),
        "access": classifier.access,
        "notes": list(classifier.notes),
        "provenance": classifier.provenance,
        "class_names": list(fitted.class_names),
    }
    return Subject(id=entry.id, classifier=classifier, data=fitted, digest=digest, about=about)


def _parameter_count(classifier: Classifier) -> int | None:
    """Number of weights; None for a black box."""
    return None if classifier.module is None else sum(one.numel() for one in classifier.module.parameters())


def _cells(
    grid: Grid, subjects: Sequence[Subject], cards: Sequence[tuple[Card, Attack]], code: str
) -> Iterator[PlannedCell]:
    """Every square of the grid, in its order."""
    position = 0
    for subject in subjects:
        data_digest = subject.data.digest()
        for defense in grid.defenses:
            for card, attack in cards:
                yield _cell(subject, defense, card, attack, (data_digest, str(grid.seed), code), position)
                position += 1


def _cell(
    subject: Subject, defense: str, card: Card, attack: Attack, rest: tuple[str, str, str], position: int
) -> PlannedCell:
    assert card.threat is not None  # noqa: S101 - an attack's card always has one
    names = subject.data.class_names
    targets, sources = (
        resolve_classes(card.threat.targets, names),
        resolve_classes(card.threat.sources, names),
    )
    threat = card.threat.model(targets)
    positions = applicable(subject.data, threat, sources)
    identity = {
        "model": subject.digest,
        "data": rest[0],
        "defense": defense,
        "attack": repr(attack),
        "threat": repr(threat),
        "sources": str(sources),
        "seed": rest[1],
        "code": rest[2],
    }
    record = CellRecord(
        key=cell_key({**identity, "id": subject.id, "name": card.name}),
        position=position,
        model=subject.id,
        defense=defense,
        attack=card.name,
        card=card.base,
        norm=threat.norm,
        eps=threat.eps,
        threat=threat.name,
        goal=threat.goal,
        targets=targets,
        sources=sources,
        images=len(positions),
        excluded=len(subject.data) - len(positions),
        parameters={"method": card.method, **asdict(attack)},
        identity=identity,
        note=attack.note(subject.classifier, threat),
    )
    skipped = _reason_to_skip(attack, threat, subject, len(positions))
    return PlannedCell(
        record=record, subject=subject, attack=attack, threat=threat, positions=positions, skipped=skipped
    )


def _reason_to_skip(attack: Attack, threat: ThreatModel, subject: Subject, count: int) -> str | None:
    """Why a cell cannot run on this model; what is wrong whatever the model is raised instead."""
    if not count:
        return "no image of the data has this goal: none is of a source class outside the targets"
    if threat.region == "mask" and subject.data.masks is None:
        return "the threat is confined to a mask, and the data have none"
    try:
        attack.check(threat, subject.classifier)
    except RobustbenchError as problem:
        if subject.classifier.access == "gradients":
            raise
        return str(problem)
    return None


def _identity(grid: Grid, data: Dataset, subjects: Sequence[Subject]) -> dict[str, str]:
    """Everything that decides the verdicts, flat, so that a difference can be named."""
    flat = dict(_flatten(grid.resolved()))
    flat["data digest"] = data.digest()
    flat |= {f"digest of model {subject.id}": subject.digest for subject in subjects}
    flat["code"] = code_version()
    return flat


def _flatten(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flatten(value, f"{place}.{key}" if place else str(key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _flatten(value, f"{place}[{index}]")
    else:
        yield place, str(content)


def _about(grid: Grid, data: Dataset, subjects: Sequence[Subject], device: str) -> dict[str, Any]:
    """What the store keeps for the report."""
    counts = torch.bincount(data.labels, minlength=data.num_classes).tolist()
    return {
        "environment": describe_environment(device),
        "grid": grid.resolved(),
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
            "digest": data.digest(),
        },
        "models": [subject.about for subject in subjects],
        "gates": [gate.model_dump(mode="json") for gate in grid.gates],
    }


def _warnings(cells: Sequence[PlannedCell], data: Dataset) -> Iterator[str]:
    """What the user should know before the run starts."""
    if len(data) < 100:
        yield f"only {len(data)} images: a 95 % interval is wider than 10 points either way"
    for cell in cells:
        if cell.threat.eps > 0.5 and cell.threat.norm == "Linf":
            size = f"eps {cell.threat.eps:g} is more than half of the pixel range"
            yield f"{cell.record.attack}: {size}; was {cell.threat.eps:g}/255 meant?"
        yield from (f"{cell.record.attack}: {line}" for line in cell.attack.warnings(cell.threat))
    for cell in cells:
        yield from (f"model {cell.subject.id}: {note}" for note in cell.subject.classifier.notes)
    yield from (f"data: {note}" for note in data.notes)
