"""The record of a comparison of networks, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from robustbench_local.defenses.training.provenance import summarize_data
from robustbench_local.evaluation.training.fitted_recipe import (
    describe_augmentation,
    describe_classes,
    describe_sampling,
)
from robustbench_local.evaluation.training.network_comparison import (
    SPREAD_EPOCHS,
    ChosenNetwork,
    NetworkComparison,
    NetworkResult,
    format_file_name,
)
from robustbench_local.evaluation.training.selection import ScoreDifference, describe_rule
from robustbench_local.evaluation.training.stability import (
    ATTACK_EPS,
    ATTACK_STEPS,
    CORRUPTIONS,
    SEVERITY,
    Stability,
)
from robustbench_local.evaluation.training.tuned_network import TunedResult
from robustbench_local.evaluation.training.tuning import format_search

NETWORKS_FOLDER = "networks"
"""Folder of all networks' weights, in that of the comparison."""


def list_measurements(stability: Stability, images: str) -> list[dict[str, Any]]:
    """Return the figures of a network as its card has them: clean, under corruption, under attack.

    Args:
        stability: The results.
        images: The part of the images: ``"validation"`` or ``"test"``.
    """
    kinds: dict[str, dict[str, Any]] = {
        "clean": {"attack": "none"},
        "corruption": {"attack": "corruptions", "severity": SEVERITY, "corruptions": list(CORRUPTIONS)},
        "attack": {"attack": "pgd", "steps": ATTACK_STEPS, "norm": "Linf", "eps": ATTACK_EPS},
    }
    rows = []
    for name, estimate in stability.estimate_figures().items():
        figures = {key: round(getattr(estimate, key), 4) for key in ("value", "low", "high")}
        figures["accuracy"] = figures.pop("value")
        rows.append({**kinds[name], "n": estimate.n, **figures, "images": images})
    return rows


def build_record(
    comparison: NetworkComparison,
    order: list[str],
    tuned: TunedResult | None,
    chosen: ChosenNetwork,
    test: list[dict[str, Any]],
    sources: Mapping[str, str],
    command: str,
) -> dict[str, Any]:
    """Return everything that was compared, as JSON values.

    Args:
        comparison: The comparison, with its results.
        order: Names of the networks from the best to the worst.
        tuned: The search for hyper-parameters of the best one, if there was one.
        chosen: The chosen network.
        test: Its figures on the test images, from `list_measurements`.
        sources: Sources of the images: ``training``, ``validation`` and ``test``.
        command: The command that repeats it.
    """
    plan, behind = comparison.plan, comparison.compare_with(order[0])
    images = chosen.images
    parts = {"training": images.training, "validation": images.validation, "test": images.test}
    return {
        "schema": 1,
        "rule": describe_rule(plan.rule),
        "recipe": plan.card.name,
        "command": command,
        "chosen": {"name": order[0], "seed": chosen.result.seed, "tuned": bool(tuned and tuned.is_kept)},
        "networks": [_describe_network(comparison.results[name], behind.get(name)) for name in order],
        "tuning": None if tuned is None else _describe_tuning(tuned),
        "test": test,
        "data": {
            name: summarize_data(sources[name], part) for name, part in parts.items() if part is not None
        },
        "notes": _list_notes(comparison, order, tuned, chosen),
    }


def _list_notes(
    comparison: NetworkComparison, order: list[str], tuned: TunedResult | None, chosen: ChosenNetwork
) -> list[str]:
    """Return what a reader of the comparison has to know."""
    training, plan = chosen.images.training, comparison.plan
    undecided = [name for name, lead in comparison.compare_with(order[0]).items() if not lead.is_decided]
    notes = [
        f"training images: {describe_classes(training)}",
        describe_sampling(chosen.recipe, training),
        f"augmentation: {describe_augmentation(chosen.recipe, training.class_names)}",
        f"attack: PGD, {ATTACK_STEPS} steps, Linf {ATTACK_EPS:.4f}: weak, for networks without a defense",
        f"corruption: mean over {', '.join(CORRUPTIONS)} at severity {SEVERITY}",
        "the validation images chose epoch and network: figures on them are optimistic, on test images not",
    ]
    if undecided:
        notes.append(f"the lead over {', '.join(undecided)} may be chance: the 95% interval contains 0")
    if plan.seeds == 1 and len(order) > 1:
        notes.append("one training of each network: --seeds 3 shows how much another seed changes")
    if tuned is not None:
        kept = "its best trial is kept" if tuned.is_kept else "the card's own values are kept"
        notes.append(f"search: {format_search(tuned.search)}; {kept}")
    return [note for note in notes if note]


def _describe_network(result: NetworkResult, behind: ScoreDifference | None) -> dict[str, Any]:
    """Describe one network as JSON values."""
    estimates = {**result.stability.estimate_figures(), "score": result.score}
    epochs, best_epoch, spread = result.epochs
    return {
        "name": result.candidate.name,
        "source": result.candidate.source,
        "weights": "random" if result.candidate.is_fresh else result.candidate.weights or "of the source",
        "file": f"{NETWORKS_FOLDER}/{format_file_name(result.candidate)}.safetensors",
        "parameters": result.parameters,
        "input": result.contract.format_geometry() or "as the images are",
        "figures": {name: estimate.to_json() for name, estimate in estimates.items()},
        "behind": None if behind is None else {**asdict(behind), "is_decided": behind.is_decided},
        "seeds": {str(seed): score for seed, score in result.seed_scores.items()},
        "seed_spread": max(result.seed_scores.values()) - min(result.seed_scores.values())
        if len(result.seed_scores) > 1
        else None,
        "epochs": epochs,
        "best_epoch": best_epoch,
        f"spread_of_last_{SPREAD_EPOCHS}_epochs": spread,
        "seconds": round(result.seconds, 1),
        "settings": {key: _list_value(value) for key, value in result.recipe.parameters.items()},
    }


def _describe_tuning(tuned: TunedResult) -> dict[str, Any]:
    """Describe a search for hyper-parameters as JSON values."""
    difference = tuned.difference
    return {
        **asdict(tuned.search),
        "is_kept": tuned.is_kept,
        "gain": None if difference is None else {**asdict(difference), "is_decided": difference.is_decided},
        "settings": None
        if tuned.recipe is None
        else {key: _list_value(value) for key, value in tuned.recipe.parameters.items()},
    }


def _list_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
