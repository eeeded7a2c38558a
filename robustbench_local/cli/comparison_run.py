"""The work of ``rbl train --models``: several networks trained, compared, and the best one kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from robustbench_local.classifier.device import resolve_device
from robustbench_local.cli.comparison_table import print_comparison
from robustbench_local.cli.training_progress import TrainingProgress
from robustbench_local.config.cards import find_card
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, send_to_parent
from robustbench_local.evaluation.training.candidates import Candidate, CandidateOptions, parse_candidates
from robustbench_local.evaluation.training.choose_network import (
    WORK_FOLDER,
    ChoiceFiles,
    check_folder,
    choose_network,
)
from robustbench_local.evaluation.training.network_comparison import ComparisonPlan
from robustbench_local.evaluation.training.network_trial import TrialPlace
from robustbench_local.evaluation.training.selection import SelectionRule, list_rules
from robustbench_local.evaluation.training.train_and_save import apply_settings
from robustbench_local.evaluation.training.training_data import TrainingDataSpec
from robustbench_local.models.extra_libraries import import_extra

DEFAULT_CARD = "fine-tune"
"""The recipe of a comparison that names none."""
_DEFAULT_SHARE = 0.2
"""Share of each class for validation, and for the test, if there are no such splits."""


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What the options of ``rbl train`` ask for, besides the images.

    Attributes:
        models: The networks, separated by commas.
        card: Name of the recipe's card.
        changes: Hyper-parameters that the user set.
        from_scratch: Whether networks without named weights start from random ones.
        size: Side of the images in pixels.
        normalize: Name of a normalization.
        seeds: Number of trainings of each network.
        tune: Number of trials of the search for hyper-parameters.
        rule: Name of the rule of the choice.
        seed: First seed.
        device: ``cpu``, ``cuda`` or ``auto``.
        out: Folder of the results.
        command: The command, for the cards.
        cards: Folders with the user's cards.
        allow_code: Whether Python files may be run.
        is_data_checked: Whether the images are checked before the training.
    """

    models: str
    card: str
    changes: Mapping[str, Any]
    from_scratch: bool
    size: int | None
    normalize: str | None
    seeds: int
    tune: int
    rule: str
    seed: int
    device: str
    out: Path
    command: str
    cards: Sequence[Path]
    allow_code: bool
    is_data_checked: bool = True


def build_comparison_data(
    entry: DataEntry,
    *,
    val: str | None,
    val_share: float | None,
    val_limit: int,
    test: str | None,
    test_share: float | None,
) -> TrainingDataSpec:
    """Return the images of a comparison: without splits, a fifth each for validation and for the test."""
    return TrainingDataSpec(
        entry=entry,
        validation_source=val,
        validation_share=_DEFAULT_SHARE if val_share is None else val_share,
        max_validation_images=val_limit,
        test_source=test,
        test_share=_DEFAULT_SHARE if test_share is None else test_share,
    )


def compare_and_report(request: ComparisonRequest, spec: TrainingDataSpec) -> int:
    """Compare networks as the command asks, print the table, and return exit code 0.

    Raises:
        RobustbenchError: If an option, a network or the images cannot be used.
    """
    check_folder(request.out)
    if request.tune:
        import_extra("optuna", extra="tune")  # missing after hours of training would be too late
    plan, base = _build_plan(request), Path.cwd()
    started = time.process_time()
    say = TrainingProgress(Console(soft_wrap=True))
    say.report(f"reading {spec.entry.source}")
    device = resolve_device(request.device)
    work = partial(
        _choose_best_network,
        plan=plan,
        spec=spec,
        device=device,
        base=base,
        files=ChoiceFiles(out=request.out, command=request.command),
    )
    with say:
        outside = next((candidate for candidate in plan.candidates if _is_outside(candidate)), None)
        if outside is not None and can_fork(device):
            record = _choose_in_child(work, say, outside.name)
        else:
            record = work(say.report, say.step)
    print_comparison(say.console, record)
    minutes = (time.process_time() - started) / 60
    say.report(f"wrote {request.out}/best.safetensors with its card, and the comparison beside it")
    say.report(f"took {minutes:.1f} CPU minutes; in a grid it is checkpoint:{request.out}/best.safetensors")
    return 0


def _build_plan(request: ComparisonRequest) -> ComparisonPlan:
    """Read names and numbers, before any image is read."""
    rule = _find_rule(request.rule)
    card, recipe = apply_settings(
        find_card(request.card, kind="defense", extra=request.cards), request.changes
    )
    return ComparisonPlan(
        candidates=parse_candidates(request.models, from_scratch=request.from_scratch),
        options=CandidateOptions(
            size=request.size, normalize=request.normalize, allow_code=request.allow_code, base=Path.cwd()
        ),
        card=card,
        recipe=recipe,
        set_names=frozenset(request.changes),
        rule=rule,
        seeds=request.seeds,
        seed=request.seed,
        trials=request.tune,
        is_data_checked=request.is_data_checked,
    )


def _find_rule(name: str) -> SelectionRule:
    for rule in list_rules():
        if rule == name:
            return rule
    raise ConfigError(
        f"there is no rule {name!r}", where="--choose-by", remedy=did_you_mean(name, list_rules())
    )


def _choose_best_network(
    report: Callable[[str], None],
    on_step: Callable[[int, int], None],
    *,
    plan: ComparisonPlan,
    spec: TrainingDataSpec,
    device: torch.device,
    base: Path,
    files: ChoiceFiles,
) -> dict[str, Any]:
    place = TrialPlace(
        folder=files.out / WORK_FOLDER,
        device=device,
        report=report,
        on_step=on_step,
        base=base,
        allow_code=plan.options.allow_code,
    )
    return choose_network(plan, spec, place, files)


def _is_outside(candidate: Candidate) -> bool:
    return candidate.source.startswith("python:")


def _choose_in_child(
    work: Callable[[Callable[[str], None], Callable[[int, int], None]], dict[str, Any]],
    say: TrainingProgress,
    name: str,
) -> dict[str, Any]:
    """Compare in a process of its own, so that the exit of a user's network does not end the command."""
    aside = partial(work, send_to_parent, lambda done, whole: send_to_parent((done, whole)))
    return call_isolated(aside, timeout=None, name=name, on_message=say.show_message)
