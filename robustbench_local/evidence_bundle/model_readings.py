"""The verdicts of a bundle's examples, decided again by the harness with a model that the verifier has."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from robustbench_local.classifier.device import resolve_device
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, ModelError, RobustbenchError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, Grid, ModelEntry
from robustbench_local.evaluation.harness.verify import Predictions, has_reached_goal, predict, verify
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.defended_models import NoDefense, RecipeDefense, find_defenses
from robustbench_local.evaluation.planning.model_loading import ModelLoader
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evaluation.training.weight_cache import WeightCache
from robustbench_local.evidence_bundle.bundle_files import RESULTS_NAME, RUN_RECORD_NAME
from robustbench_local.evidence_bundle.cell_threat import name_example
from robustbench_local.evidence_bundle.check_results import BundleError, CheckResult
from robustbench_local.evidence_bundle.example_checks import ListedExamples, read_all_examples
from robustbench_local.evidence_bundle.proof_images import ListedProofs, read_proof_images
from robustbench_local.evidence_bundle.proof_readings import ProofSettings, read_proofs
from robustbench_local.evidence_bundle.readings import Readings, summarize_readings
from robustbench_local.evidence_bundle.run_records import load_json
from robustbench_local.evidence_bundle.verified_models import (
    ModelSource,
    build_entry,
    list_subjects,
    name_sources,
    read_grid,
)
from robustbench_local.evidence_bundle.view_readings import read_photographs
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.randomness import RandomStream
from robustbench_local.store import OutcomeRecord
from robustbench_local.threats.threat_model import ThreatModel

_Listed = TypeVar("_Listed", ListedExamples, ListedProofs)
BATCH_SIZE = 64
"""Images that are predicted together."""


def check_models(
    folder: Path,
    sources: Sequence[ModelSource],
    *,
    device: str = "auto",
    batch_size: int = BATCH_SIZE,
    proofs: int | None = None,
    allow_code: bool = False,
) -> list[CheckResult]:
    """Read the examples of the given models again, prove their certificates again, and compare each verdict.

    Args:
        folder: The folder of the bundle's files.
        sources: The models.
        device: Device to compute on.
        batch_size: Images that are predicted together.
        proofs: Largest number of images of each certificate that are proved again; None: all in the bundle.
        allow_code: Whether code in Python files and exported programs may run.

    Returns:
        One check for the identity of each model, and for each model and defense one for its examples, its
        photographs of signs and its certificates, where it has some.

    Raises:
        ConfigError: If a source names no model of the run.
        ModelError: If a model cannot be loaded.
    """
    results = load_json(folder / RESULTS_NAME)
    grid = read_grid(results)
    named = name_sources(sources, grid, list_subjects(results))
    try:
        examples, proven = list(read_all_examples(folder)), list(read_proof_images(folder))
        identity = load_json(folder / RUN_RECORD_NAME)["identity"]
        data = _build_data(examples, proven, results)
    except (BundleError, KeyError, TypeError) as error:
        return [CheckResult(name="verdicts", status="failed", sentence=str(error))]
    if not examples and not any(listed.outcomes for listed in proven):
        sentence = "the bundle has no images that a model could read"
        return [CheckResult(name="verdicts", status="undecided", sentence=sentence)]
    options = Options(device=device, batch_size=batch_size, allow_code=allow_code)
    loader = ModelLoader(options=options, device=resolve_device(device), base_folder=Path.cwd(), data=data)
    checks: list[CheckResult] = []
    with permit_code(allow_code, Path.cwd()):
        for source in named:
            entry = build_entry(grid, source)
            model = loader.load_or_replace(entry)
            if model.problem is not None:
                raise model.problem
            checks.append(same := _check_identity(source, model, identity))
            settings = ProofSettings(
                grid=grid, class_names=data.class_names, batch_size=batch_size, limit=proofs
            )
            verdicts = _check_subjects(
                source,
                model,
                (_select_model(examples, entry.id), _select_model(proven, entry.id)),
                (grid, entry, loader),
                settings,
            )
            checks += verdicts if same.status == "ok" else map(_leave_undecided, verdicts)
    return checks


def _check_subjects(
    source: ModelSource,
    model: EvaluationSubject,
    listed: tuple[Sequence[ListedExamples], Sequence[ListedProofs]],
    loading: tuple[Grid, ModelEntry, ModelLoader],
    settings: ProofSettings,
) -> Iterator[CheckResult]:
    """Check the verdicts of a model, and of the defended models that are made from it without training."""
    _, _, trained = (source.name or "").partition(" + ")
    for defense in dict.fromkeys(chosen.cell.defense for part in listed for chosen in part):
        if bool(trained) and defense != trained:
            continue
        examples = [chosen for chosen in listed[0] if chosen.cell.defense == defense]
        proofs = [chosen for chosen in listed[1] if chosen.cell.defense == defense]
        label = model.id if defense == NO_DEFENSE else f"{model.id} + {defense}"
        try:
            subject = model if trained else _apply_defense(model, defense, *loading)
        except RobustbenchError as error:
            count = sum(len(chosen.outcomes) for chosen in examples)
            count += sum(len(chosen.outcomes) for chosen in proofs)
            sentence = f"{format_count(count, 'example')} could not be read again: {error}"
            yield CheckResult(name=f"verdicts of {label}", status="undecided", sentence=sentence)
            continue
        yield from _check_subject(subject, label, examples, proofs, settings)


def _check_subject(
    subject: EvaluationSubject,
    label: str,
    examples: Sequence[ListedExamples],
    proofs: Sequence[ListedProofs],
    settings: ProofSettings,
) -> Iterator[CheckResult]:
    """Check everything that a bundle holds about one defended model."""
    is_random = isinstance(subject.classifier, RandomizedClassifier)
    signs = [chosen for chosen in examples if chosen.cell.measure == "views"]
    if images := [chosen for chosen in examples if chosen.cell.measure != "views"]:
        readings = Readings(label=label, is_random=is_random)
        for chosen in images:
            _read_cell(subject, chosen, settings.grid.seed, settings.batch_size, readings)
        yield summarize_readings(readings, "verdicts", "stored verdict")
    if signs:
        readings = Readings(label=label, is_random=is_random)
        for chosen in signs:
            read_photographs(subject, chosen, settings.batch_size, readings)
        yield summarize_readings(readings, "photographs of signs", "reading")
    if claims := [listed for listed in proofs if listed.outcomes or listed.missing]:
        readings = Readings(label=label, is_random=is_random)
        for listed in claims:
            read_proofs(subject, listed, settings, readings)
        yield summarize_readings(readings, "certificates", "stated proof")


def _read_cell(
    subject: EvaluationSubject, examples: ListedExamples, seed: int, batch_size: int, readings: Readings
) -> None:
    """Read the examples of one cell again."""
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
    # what the model says now: a bundle could state of every image that it is close, or drawn at random
    is_close = bool(after.fragile[index]) or bool(before.fragile[index])
    if is_close:
        readings.doubts.append(f"{line}; the margin is within rounding")
    elif readings.is_random:
        readings.doubts.append(f"{line}; the model answers at random")
    else:
        readings.failures.append(line)


def _describe_verdict(is_correct: bool, is_broken: bool) -> str:
    if not is_correct:
        return "a misclassified clean image"
    return "a successful attack" if is_broken else "no success"


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


def _select_model(listed: Sequence[_Listed], model: str) -> list[_Listed]:
    return [chosen for chosen in listed if chosen.cell.model == model]


def _build_data(
    examples: Sequence[ListedExamples], proofs: Sequence[ListedProofs], results: Mapping[str, Any]
) -> Dataset:
    """Build data of the clean images, on which models are tried before they are asked."""
    images: dict[str, tuple[torch.Tensor, int]] = {}
    listed = [(chosen.outcomes, chosen.images.clean) for chosen in examples]
    for outcomes, clean in (*listed, *((chosen.outcomes, chosen.clean) for chosen in proofs)):
        for outcome, image in zip(outcomes, clean, strict=True):
            images.setdefault(outcome.image, (torch.from_numpy(image), outcome.label))
    names = tuple(map(str, results["data"]["class_names"]))
    return Dataset(
        images=torch.stack([image for image, _ in images.values()]) if images else torch.zeros(1, 3, 1, 1),
        labels=torch.tensor([min(label, len(names) - 1) for _, label in images.values()] or [0]),
        ids=tuple(images) or ("none",),
        class_names=names,
        name=str(results["data"]["name"]),
    )
