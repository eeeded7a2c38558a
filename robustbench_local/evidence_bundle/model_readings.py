"""The verdicts of a bundle's examples, decided again by the harness with a model that the verifier has."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustbench_local.classifier.device import resolve_device
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, ModelError, RobustbenchError, did_you_mean
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, Grid, ModelEntry, load_grid
from robustbench_local.evaluation.harness.verify import Predictions, has_reached_goal, predict, verify
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.defended_models import NoDefense, RecipeDefense, find_defenses
from robustbench_local.evaluation.planning.model_loading import ModelLoader
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evaluation.training.weight_cache import WeightCache
from robustbench_local.evidence_bundle.bundle_files import RESULTS_NAME, RUN_RECORD_NAME
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult, CheckStatus
from robustbench_local.evidence_bundle.example_checks import ListedExamples, name_example, read_all_examples
from robustbench_local.evidence_bundle.run_records import load_json
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.randomness import RandomStream
from robustbench_local.store import OutcomeRecord
from robustbench_local.threats.threat_model import ThreatModel

_PUBLISHED_WEIGHTS = re.compile(r"[A-Z0-9_]+")
"""Names of published weights, such as ``DEFAULT`` or ``IMAGENET1K_V2``."""
BATCH_SIZE = 64
"""Images that are predicted together."""


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the verifier has a model of the run."""

    name: str | None
    """Its id in the run, with ``+ DEFENSE`` for one that was trained; None: the only model of the run."""
    source: str
    """As in a grid: ``checkpoint:FILE``, ``zoo:NAME``, ``python:FILE.py:NAME``, ..."""
    weights: str | None = None
    """Its weights file or published weights, where the source has none; a file that the bundle names is not
    read."""


@dataclass
class Readings:
    """What was found for the examples of one model."""

    label: str
    """The model, with its defense."""
    stands: int = 0
    failures: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Examples that cannot be read again, by the reason."""


def check_models(
    folder: Path,
    sources: Sequence[ModelSource],
    *,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    allow_code: bool = False,
) -> list[CheckResult]:
    """Read the examples of the given models again, and compare each verdict.

    Args:
        folder: The folder of the bundle's files.
        sources: The models.
        device: Device to compute on.
        batch_size: Images that are predicted together.
        allow_code: Whether code in Python files and exported programs may run.

    Returns:
        One check for each model and defense with examples, and one for the identity of each model.

    Raises:
        ConfigError: If a source names no model of the run.
        ModelError: If a model cannot be loaded.
    """
    results = load_json(folder / RESULTS_NAME)
    grid = _read_grid(results)
    named = _name_sources(sources, grid, _list_subjects(results))
    try:
        examples = list(read_all_examples(folder))
        identity = load_json(folder / RUN_RECORD_NAME)["identity"]
        data = _build_data(examples, results)
    except (BundleError, KeyError, TypeError) as error:
        return [CheckResult(name="verdicts", status="failed", sentence=str(error))]
    if not examples:
        sentence = "the bundle has no images that a model could read"
        return [CheckResult(name="verdicts", status="undecided", sentence=sentence)]
    options = Options(device=device, batch_size=batch_size, allow_code=allow_code)
    loader = ModelLoader(options=options, device=resolve_device(device), base_folder=Path.cwd(), data=data)
    checks: list[CheckResult] = []
    with permit_code(allow_code, Path.cwd()):
        for source in named:
            entry = _build_entry(grid, source)
            model = loader.load_or_replace(entry)
            if model.problem is not None:
                raise model.problem
            checks.append(same := _check_identity(source, model, identity))
            own = [chosen for chosen in examples if chosen.cell.model == entry.id]
            verdicts = _check_subjects(source, model, own, (grid, entry, loader), batch_size)
            checks += verdicts if same.status == "ok" else map(_leave_undecided, verdicts)
    return checks


def _check_subjects(
    source: ModelSource,
    model: EvaluationSubject,
    examples: Sequence[ListedExamples],
    loading: tuple[Grid, ModelEntry, ModelLoader],
    batch_size: int,
) -> Iterator[CheckResult]:
    """Check the verdicts of a model, and of the defended models that are made from it without training."""
    _, _, trained = (source.name or "").partition(" + ")
    for defense in dict.fromkeys(chosen.cell.defense for chosen in examples):
        if bool(trained) and defense != trained:
            continue
        own = [chosen for chosen in examples if chosen.cell.defense == defense]
        label = model.id if defense == NO_DEFENSE else f"{model.id} + {defense}"
        try:
            subject = model if trained else _apply_defense(model, defense, *loading)
        except RobustbenchError as error:
            count = sum(len(chosen.outcomes) for chosen in own)
            sentence = f"{format_count(count, 'example')} could not be read again: {error}"
            yield CheckResult(name=f"verdicts of {label}", status="undecided", sentence=sentence)
            continue
        readings = Readings(label=label)
        for chosen in own:
            _read_cell(subject, chosen, loading[0].seed, batch_size, readings)
        yield _summarize_readings(readings)


def _read_cell(
    subject: EvaluationSubject, examples: ListedExamples, seed: int, batch_size: int, readings: Readings
) -> None:
    """Read the examples of one cell again."""
    if examples.cell.measure == "views":
        readings.skipped["views of stickers and patches, which need their scenes"] += len(examples.outcomes)
        return
    if any(not 0 <= row.label < subject.classifier.num_classes for row in examples.outcomes):
        readings.failures.append(f"{examples.cell.attack}: a label that {readings.label} has no class for")
        return
    for start in range(0, len(examples.outcomes), batch_size):
        rows = slice(start, start + batch_size)
        outcomes = examples.outcomes[rows]
        clean, candidates = (
            torch.from_numpy(np.ascontiguousarray(images[rows]))
            for images in (examples.images.clean, examples.images.adversarial)
        )
        stream = RandomStream(
            seed, tuple(row.image for row in outcomes), examples.cell.identity.get("attack", "")
        )
        before, after, broken = _predict_again(
            subject, examples.threat, outcomes, (clean, candidates), stream
        )
        for index, outcome in enumerate(outcomes):
            _compare_verdict(examples, outcome, (before, after, broken), index, readings)


def _predict_again(
    subject: EvaluationSubject,
    threat: ThreatModel,
    outcomes: Sequence[OutcomeRecord],
    images: tuple[torch.Tensor, torch.Tensor],
    stream: RandomStream,
) -> tuple[Predictions, Predictions, torch.Tensor]:
    """Predict clean images and candidates as the harness does, and decide which candidates succeed."""
    classifier = subject.classifier
    labels = torch.tensor([row.label for row in outcomes]).to(classifier.device)
    clean, candidates = (part.to(classifier.device) for part in images)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as judge:
        before = predict(judge, clean, labels, stream=stream)
        if threat.is_ball:
            verified = verify(judge, clean, labels, candidates, threat, stream=stream)
            return before, verified.predictions, verified.broken
        after = predict(judge, candidates, labels, stream=stream, allows_rejection=True)
        return before, after, has_reached_goal(after, labels, threat)


def _compare_verdict(
    examples: ListedExamples,
    outcome: OutcomeRecord,
    found: tuple[Predictions, Predictions, torch.Tensor],
    index: int,
    readings: Readings,
) -> None:
    """Compare one verdict; where rounding may flip it, a difference decides nothing."""
    before, after, broken = found
    stated = (outcome.clean_correct, outcome.broken)
    again = (bool(before.correct[index]), bool(broken[index]) and bool(before.correct[index]))
    if stated == again:
        readings.stands += 1
        return
    name = name_example(examples.cell, outcome)
    line = f"{name}: {_describe_verdict(*stated)} is stated, {_describe_verdict(*again)} is found"
    is_close = outcome.fragile or bool(after.fragile[index]) or bool(before.fragile[index])
    if is_close:
        readings.doubts.append(f"{line}; the margin is within rounding")
    elif outcome.draws:
        readings.doubts.append(f"{line}; the model answers at random")
    else:
        readings.failures.append(line)


def _describe_verdict(is_correct: bool, is_broken: bool) -> str:
    if not is_correct:
        return "a misclassified clean image"
    return "a successful attack" if is_broken else "no success"


def _summarize_readings(readings: Readings) -> CheckResult:
    """Summarize the verdicts of one model."""
    total = readings.stands + len(readings.failures) + len(readings.doubts)
    sentence = f"{readings.stands:,} of {format_count(total, 'stored verdict')} stand"
    if readings.doubts:
        sentence += f", {len(readings.doubts):,} could not be decided"
    sentence += "".join(f"; not read again: {count:,} {why}" for why, count in readings.skipped.items())
    status: CheckStatus = "failed" if readings.failures else "undecided" if readings.doubts else "ok"
    return CheckResult(
        name=f"verdicts of {readings.label}",
        status=status if total else "not checked",
        sentence=sentence,
        details=(*readings.failures, *readings.doubts),
    )


def _leave_undecided(check: CheckResult) -> CheckResult:
    """Return the verdicts of another model: they say nothing about those of the run."""
    return replace(check, status="undecided", sentence=f"{check.sentence}, of another model")


def _check_identity(
    source: ModelSource, model: EvaluationSubject, identity: Mapping[str, str]
) -> CheckResult:
    """Compare the model with the one of the run, part by part."""
    label = source.name or model.id
    name = f"identity of {label}"
    parts = model.classifier.describe_parts()
    stated = {part: identity.get(f"{part} of model {label}") for part in parts}
    differing = sorted(part for part, value in stated.items() if value != parts[part])
    if not differing:
        return CheckResult(name=name, status="ok", sentence=f"the model of the run ({model.digest[:16]})")
    deciding = [part for part in differing if not part.startswith("version of ")]
    words = ", ".join(differing)
    if not deciding:
        sentence = f"the model of the run, but with another {words}: digits may differ"
        return CheckResult(name=name, status="ok", sentence=sentence)
    sentence = f"another model than that of the run: its {words} differ"
    return CheckResult(name=name, status="undecided", sentence=sentence)


def _apply_defense(
    model: EvaluationSubject, name: str, grid: Grid, entry: ModelEntry, loader: ModelLoader
) -> EvaluationSubject:
    """Return the model with a wrapper defense of the grid.

    Raises:
        RobustbenchError: If the defense is unknown here, or trains a model.
    """
    if name == NO_DEFENSE:
        return model
    for listed in entry.defenses or grid.defenses:
        with tempfile.TemporaryDirectory() as scratch:
            cache = WeightCache(
                grid=grid,
                load_evaluation_data=lambda: loader.data,
                base=loader.base_folder,
                folder=Path(scratch),
                is_dry_run=True,
            )
            found = find_defenses(listed.card, listed.overrides, [], cache, listed.name)
        for defense in found:
            if defense.name != name or isinstance(defense, NoDefense):
                continue
            if isinstance(defense, RecipeDefense):
                remedy = f"give its weights: --model '{model.id} + {name}=SOURCE'"
                raise ModelError("is a trained model of its own", where=name, remedy=remedy)
            defended = loader.apply_defense(entry, model, defense)
            if defended.problem is not None:
                raise defended.problem
            return defended
    raise ConfigError(f"the grid of the run has no defense {name!r}")


def _read_grid(results: Mapping[str, Any]) -> Grid:
    """Read the grid of the run, which results.json repeats.

    Raises:
        BundleError: If it is no grid of this version.
    """
    try:
        return load_grid(dict(results["grid"]))[0]
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"the grid in {RESULTS_NAME} cannot be read: {error}") from error


def _list_subjects(results: Mapping[str, Any]) -> list[str]:
    """List the defended models of the run, as ``ID + DEFENSE``."""
    cells = results.get("cells")
    rows = [cell for cell in cells if isinstance(cell, dict)] if isinstance(cells, list) else []
    return list(dict.fromkeys(f"{cell.get('model')} + {cell.get('defense')}" for cell in rows))


def _name_sources(sources: Sequence[ModelSource], grid: Grid, subjects: Sequence[str]) -> list[ModelSource]:
    """Give every source the id of its model.

    Args:
        sources: What the verifier gives.
        grid: The grid of the run.
        subjects: The defended models of the run, as ``ID + DEFENSE``.

    Raises:
        ConfigError: If a model or a defense is unknown, or an id missing where the run has several models.
    """
    ids = [entry.id for entry in grid.models]
    named = []
    for source in sources:
        if source.name is None and len(ids) > 1:
            what = f"the run has {format_count(len(ids), 'model')}: {', '.join(ids)}"
            raise ConfigError(what, where="--model", remedy="write ID=SOURCE")
        name = source.name or ids[0]
        if (model := name.partition(" + ")[0]) not in ids:
            raise ConfigError(
                f"the run has no model {model!r}", where="--model", remedy=did_you_mean(model, ids)
            )
        if " + " in name and name not in subjects:
            known = [subject for subject in subjects if subject.partition(" + ")[2] != NO_DEFENSE]
            remedy = did_you_mean(name, known) if known else f"give {model} alone"
            raise ConfigError(f"the run has no {name!r}", where="--model", remedy=remedy)
        named.append(ModelSource(name=name, source=source.source, weights=source.weights))
    return named


def _build_entry(grid: Grid, source: ModelSource) -> ModelEntry:
    """Return the entry of the grid with the verifier's own source; other settings stay, but for two.

    A bundle comes from somebody else. It may not say that a pickle can be trusted, which would run its code,
    nor name a file of the verifier's machine: the names of published weights stay alone.
    """
    model = (source.name or "").partition(" + ")[0]
    entry = next(entry for entry in grid.models if entry.id == model)
    changes: dict[str, Any] = {
        "source": source.source,
        "sha256": None,
        "twin": None,
        "trust_pickle": None,
    }
    if source.weights is not None or not _PUBLISHED_WEIGHTS.fullmatch(entry.weights or ""):
        changes["weights"] = source.weights
    return entry.model_copy(update=changes)


def _build_data(examples: Sequence[ListedExamples], results: Mapping[str, Any]) -> Dataset:
    """Build data of the clean images, on which models are tried before they are asked."""
    images: dict[str, tuple[torch.Tensor, int]] = {}
    for chosen in examples:
        for outcome, image in zip(chosen.outcomes, chosen.images.clean, strict=True):
            images.setdefault(outcome.image, (torch.from_numpy(image), outcome.label))
    names = tuple(map(str, results["data"]["class_names"]))
    return Dataset(
        images=torch.stack([image for image, _ in images.values()]) if images else torch.zeros(1, 3, 1, 1),
        labels=torch.tensor([min(label, len(names) - 1) for _, label in images.values()] or [0]),
        ids=tuple(images) or ("none",),
        class_names=names,
        name=str(results["data"]["name"]),
    )
