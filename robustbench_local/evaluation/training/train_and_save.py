"""Training for ``rbl train`` and grids: from a recipe's card, a model and data to weights on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.config.cards import Card, expand_card
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.reference_outputs import (
    MAX_REFERENCE_IMAGES,
    MIN_REFERENCE_IMAGES,
    collect_reference,
    name_reference_file,
)
from robustbench_local.data.subsample import choose_images
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.recipes.recipe_registry import list_parameter_names, read_recipe
from robustbench_local.defenses.training.initial_networks import InitialNetwork, build_teacher_loader
from robustbench_local.defenses.training.learning_curves import write_curves
from robustbench_local.defenses.training.provenance import summarize_data, write_weights
from robustbench_local.defenses.training.training_identity import describe_network
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.defenses.training.training_result import EpochResult, TrainingResult
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.evaluation.training.certified_score import count_certified, list_certificates
from robustbench_local.statistics import Estimate, compute_clopper_pearson
from robustbench_local.store.atomic_files import write_atomically
from robustbench_local.threats.threat_model import ThreatModel

_DEFAULT_THREAT = ThreatModel(norm="Linf", eps=8 / 255)
"""Threat model of the evaluation after a training that has none."""
_PGD_STEPS = 50
_MAX_CERTIFIED_IMAGES = 500
"""Maximum number of images for a certificate."""


@dataclass(frozen=True, kw_only=True)
class TrainingImages:
    """The images of a training."""

    training: Dataset
    """Images that the weights are fitted to."""
    validation: Dataset
    """Images that select the epoch."""
    test: Dataset | None = None
    """Images of the final evaluation; without them, the validation images."""


def apply_settings(card: Card, settings: Mapping[str, Any]) -> tuple[Card, Recipe]:
    """Return a recipe's card with some of its parameters, or its radius, changed.

    Args:
        card: A defense's card.
        settings: Hyper-parameters, and keys of the threat model such as ``eps``.

    Raises:
        CardError: If the card is no training recipe, or a value is impossible.
        ConfigError: If a key is unknown.
    """
    read_recipe(card)
    cards = expand_card(card, settings, parameters=list_parameter_names(card.method)) if settings else [card]
    if len(cards) > 1:
        raise ConfigError("a training has one radius", where=f"card {card.name}", remedy="give one eps")
    return cards[0], read_recipe(cards[0])


def fit(
    start: InitialNetwork,
    recipe: Recipe,
    images: TrainingImages,
    *,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
    report: Callable[[str], None],
    on_step: Callable[[int, int], None] | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda _result: None,
    base: Path | None = None,
    allow_code: bool = False,
) -> TrainingResult:
    """Train, and leave the best weights in ``start.trainable_network``; arguments and errors as in `train`.

    A teacher from a Python file is loaded before the training starts, and only if code is allowed.
    """
    trained = train(
        start.module,
        recipe,
        images.training,
        images.validation,
        seed=seed,
        checkpoint=checkpoint,
        report=report,
        on_step=on_step,
        on_epoch=on_epoch,
        device=device,
        load_teacher=build_teacher_loader(device, base, allow_code=allow_code, num_classes=start.num_classes),
        extra_identity={"start": describe_network(start.module)["weights"]},
    )
    start.module.load_state_dict(trained.state)
    return trained


def measure_row(
    start: InitialNetwork,
    recipe: Recipe,
    images: TrainingImages,
    *,
    autoattack: int,
    device: torch.device,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Evaluate the trained network with the harness.

    Args:
        start: The network with its trained weights.
        recipe: Its threat model is that of the attacks; Linf 8/255 where it has none.
        images: The test images, or the validation images where there are none.
        autoattack: Number of images for AutoAttack, chosen evenly over the classes; 0 leaves it out.
        device: Device to compute on.
        report: Receives one line per figure.

    Returns:
        One entry per attack, and one per certificate that the recipe trains for: its budget, n, the number
        of correct or certified images, the share with its 95% Clopper-Pearson interval, and the images used.
    """
    threat = getattr(recipe, "threat", None) or _DEFAULT_THREAT
    data = images.test or images.validation
    classifier = build_classifier(start, data, device)
    figures: list[dict[str, Any]] = []
    for attack, count in _list_attacks(len(data), autoattack):
        some = _select_images(data, count)
        result = evaluate(classifier, some, attack=attack, norm=threat.norm, eps=threat.eps)
        if not figures:
            figures.append(
                _build_score({"attack": "none"}, result.counts.clean_correct, result.clean_accuracy)
            )
            report(_format_score(figures[-1]))
        entry = {**_build_attack_entry(attack), **_build_budget_entry(threat)}
        figures.append(_build_score(entry, result.counts.robust, result.robust_accuracy))
        report(_format_score(figures[-1]))
    some = _select_images(data, _MAX_CERTIFIED_IMAGES)
    for name, certificate, ball in list_certificates(recipe):
        proven = count_certified(classifier, some, certificate, ball)
        share = compute_clopper_pearson(proven, len(some))
        figures.append(_build_score({**name, **_build_budget_entry(ball)}, proven, share))
        report(_format_score(figures[-1]))
    on = "test" if images.test is not None else "validation"
    return [{**figure, "images": on} for figure in figures]


def save_training(
    out: Path,
    start: InitialNetwork,
    trained: TrainingResult,
    *,
    card: Card,
    recipe: Recipe,
    images: TrainingImages,
    sources: Mapping[str, str],
    scores: list[dict[str, Any]],
    seed: int,
    command: str,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Write weights, their card and the learning curves.

    Args:
        out: The weights file.
        start: The network with its trained weights.
        trained: The result of the training.
        card: The card of the recipe.
        recipe: Its parameters.
        images: The images.
        sources: Sources of the parts: ``training``, ``validation`` and ``test``.
        scores: From `measure_row`.
        seed: The training's seed.
        command: The command that makes the same weights again.
        selection: How the network was chosen among others, for the card.

    Raises:
        StorageError: If writing fails.
    """
    parts = {"training": images.training, "validation": images.validation, "test": images.test}
    write_weights(
        out,
        start,
        card=card,
        recipe=recipe,
        trained=trained,
        class_names=images.training.class_names,
        data={name: summarize_data(sources[name], part) for name, part in parts.items() if part is not None},
        measured=scores,
        seed=seed,
        command=command,
        selection=selection,
    )
    write_curves(out, trained.curves, best=trained.best.epoch, title=f"{card.name} on {images.training.name}")


def save_reference(
    out: Path, start: InitialNetwork, images: TrainingImages, sources: Mapping[str, str], device: torch.device
) -> bool:
    """Write the reference of the trained network beside its weights: what it answers on held-out images.

    Args:
        out: The weights file, which has been written.
        start: The network with its trained weights.
        images: The images: of the test images, else of the validation images, at most 500 by chance.
        sources: As for `save_training`.
        device: Device to compute on.

    Returns:
        Whether there were enough images; without, there is no such file.

    Raises:
        StorageError: If writing fails.
    """
    path = name_reference_file(out)
    part, data = ("validation", images.validation) if images.test is None else ("test", images.test)
    if len(data) < MIN_REFERENCE_IMAGES:
        path.unlink(missing_ok=True)  # that of earlier weights
        return False
    chosen = choose_images(
        data.ids, data.labels.tolist(), limit=MAX_REFERENCE_IMAGES, seed=0, choose="random"
    )
    classifier = build_classifier(start, data, device)
    with classifier.evaluation_mode(), torch.no_grad():
        reference = collect_reference(
            lambda some: classifier(some).double().softmax(dim=1),
            data.select_images(chosen).images,
            sources[part],
            hashlib.sha256(out.read_bytes()).hexdigest(),
        )
    write_atomically(path, reference.encode())
    return True


def build_classifier(start: InitialNetwork, data: Dataset, device: torch.device) -> Classifier:
    """Build a classifier of the trained network."""
    return Classifier(
        start.module.network,
        num_classes=start.num_classes,
        preprocessing=start.contract,
        class_names=data.class_names,
        device=device,
    )


def _select_images(data: Dataset, count: int) -> Dataset:
    """Select at most ``count`` images, evenly over the classes and equal for all models, for comparison."""
    return data.select_images(choose_images(data.ids, data.labels.tolist(), limit=count, seed=0))


def _list_attacks(count: int, autoattack: int) -> list[tuple[Attack, int]]:
    """List each attack with its number of images; the margin loss finds gradient masking."""
    everything: list[tuple[Attack, int]] = [
        (FGSM(), count),
        (PGD(steps=_PGD_STEPS), count),
        (PGD(steps=_PGD_STEPS, loss="margin"), count),
        (AutoAttack(), min(autoattack, count)),
    ]
    return [(attack, images) for attack, images in everything if images]


def _build_attack_entry(attack: Attack) -> dict[str, Any]:
    """Describe the attack of a figure."""
    name = {"attack": type(attack).__name__.lower()}
    if not isinstance(attack, PGD):
        return name
    return {**name, "steps": attack.steps} | ({"loss": attack.loss} if attack.loss != "ce" else {})


def _build_budget_entry(threat: ThreatModel) -> dict[str, Any]:
    return {"norm": threat.norm, "eps": threat.eps}


def _build_score(attack: dict[str, Any], right: int, share: Estimate) -> dict[str, Any]:
    interval = {"accuracy": round(share.value, 4), "low": round(share.low, 4), "high": round(share.high, 4)}
    return {**attack, "n": share.n, "right": right, **interval}


def _format_score(figure: Mapping[str, Any]) -> str:
    name = figure.get("certificate") or figure["attack"]
    how = f" on the {figure['loss']}" if "loss" in figure else ""
    budget = f", {figure['norm']} {figure['eps']:.4g}" if "eps" in figure else ""
    what = "clean" if name == "none" else f"{name}{how}{budget}"
    verdict = "proven" if "certificate" in figure else "right"
    return (
        f"measured {what}: {figure['accuracy']:.1%} {verdict}, 95% interval {figure['low']:.1%} to "
        f"{figure['high']:.1%}, n = {figure['n']}"
    )
