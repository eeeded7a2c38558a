"""Which training ``rbl train`` does: one network by a card, or several that are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import typer

from robustbench_local.cli.comparison_run import (
    DEFAULT_CARD,
    ComparisonRequest,
    build_comparison_data,
    compare_and_report,
)
from robustbench_local.cli.training_run import build_data_entry, format_command, parse_changes
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.training.candidates import DEFAULT_NETWORK

_OF_COMPARISON = ("from_scratch", "seeds", "tune", "choose_by", "test_share")
"""Options that mean nothing for a single network."""
_OF_ONE_NETWORK = {
    "checkpoint": "the folder of --out is one: the same command resumes",
    "autoattack": "attack the chosen weights in a grid",
}
"""Options that mean nothing for a comparison, and what to do instead."""


def find_models(
    context: typer.Context, *, card: str | None, models: str | None, model: str, weights: str | None
) -> str | None:
    """Return the networks to compare, or None if one network is trained by a card.

    Args:
        context: The command's context.
        card: The card, if the user names one.
        models: The networks that the user names.
        model: The single network.
        weights: Its weights.

    Raises:
        ConfigError: If options contradict each other.
    """
    is_single = models is None and card is not None
    unfit = _OF_COMPARISON if is_single else tuple(_OF_ONE_NETWORK)
    for name in unfit:
        if _is_given(context, name):
            flag = f"--{name.replace('_', '-')}"
            if is_single:
                raise ConfigError("is for networks that are compared", where=flag, remedy="add --models")
            raise ConfigError("is for a single network", where=flag, remedy=_OF_ONE_NETWORK[name])
    if is_single:
        return None
    has_model = _is_given(context, "model")
    if models is not None and (has_model or weights is not None):
        flag = "--model" if has_model else "--weights"
        remedy = "name every network in --models, with its weights as NAME=FILE"
        raise ConfigError("contradicts --models", where=flag, remedy=remedy)
    if models is not None:
        return models
    name = model if has_model else DEFAULT_NETWORK
    return name if weights in (None, "DEFAULT") else f"{name}={weights}"


def compare_networks(
    context: typer.Context,
    *,
    models: str,
    card: str | None,
    data: str,
    out: Path,
    split: str,
    limit: int | None,
    data_option: Sequence[str],
    exclude: str | None,
    is_data_checked: bool,
    val: str | None,
    val_share: float | None,
    val_limit: int,
    group_pattern: str | None,
    test: str | None,
    test_share: float | None,
    normalize: str | None,
    size: int | None,
    from_scratch: bool,
    seeds: int,
    tune: int,
    choose_by: str,
    settings: Sequence[str],
    batch_size: int | None,
    seed: int,
    device: str,
    threads: int | None,
    cards: Sequence[Path],
    allow_code: bool,
) -> int:
    """Compare networks with the arguments of the command; return exit code 0."""
    if threads is not None:
        torch.set_num_threads(threads)
    entry = build_data_entry(
        data_option, source=data, split=split, limit=limit, group_pattern=group_pattern, exclude=exclude
    )
    spec = build_comparison_data(
        entry, val=val, val_share=val_share, val_limit=val_limit, test=test, test_share=test_share
    )
    request = ComparisonRequest(
        models=models,
        card=card or DEFAULT_CARD,
        changes=parse_changes(settings, batch_size),
        from_scratch=from_scratch,
        size=size,
        normalize=normalize,
        seeds=seeds,
        tune=tune,
        rule=choose_by,
        seed=seed,
        device=device,
        out=out,
        command=format_command(context),
        cards=cards,
        allow_code=allow_code,
        is_data_checked=is_data_checked,
    )
    return compare_and_report(request, spec)


def _is_given(context: typer.Context, name: str) -> bool:
    """Return True if the user sets an option, on the command line or by its variable."""
    origin = context.get_parameter_source(name)
    return origin is not None and not origin.name.startswith("DEFAULT")
