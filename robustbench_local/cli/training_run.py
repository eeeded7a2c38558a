"""The work of ``rbl train``: train, evaluate, and write weights, curves and provenance."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from robustbench_local.classifier.device import resolve_device
from robustbench_local.cli.training_progress import TrainingProgress
from robustbench_local.config.cards import Card, find_card
from robustbench_local.config.strict_yaml import parse_yaml, validate
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.reference_outputs import MIN_REFERENCE_IMAGES
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.initial_networks import InitialNetwork, load_initial_network
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.data_entries import DataEntry
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, send_to_parent
from robustbench_local.evaluation.training.fitted_recipe import fit_recipe
from robustbench_local.evaluation.training.train_and_save import (
    TrainingImages,
    apply_settings,
    fit,
    measure_row,
    save_reference,
    save_training,
)
from robustbench_local.evaluation.training.training_check import report_check
from robustbench_local.evaluation.training.training_data import (
    TrainingDataSpec,
    load_training_images,
    peek_images,
)

_DEFAULT_SHARE = 0.1
"""Share of each class for validation, if there is no such split."""
_OMITTED_OPTIONS = ("check", "checkpoint", "device")
"""Options that a command can omit and still make the same weights."""


def train_and_report(
    context: typer.Context,
    *,
    card: str,
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
    model: str,
    weights: str | None,
    normalize: str | None,
    size: int | None,
    settings: Sequence[str],
    batch_size: int | None,
    seed: int,
    device: str,
    threads: int | None,
    autoattack: int,
    checkpoint: Path | None,
    cards: Sequence[Path],
    allow_code: bool,
) -> int:
    """Train a model by a defense's card with the arguments of the command; return exit code 0."""
    _check_writable(out)
    if threads is not None:
        torch.set_num_threads(threads)
    changes = parse_changes(settings, batch_size)
    chosen, recipe = apply_settings(find_card(card, kind="defense", extra=cards), changes)
    torch_device, base = resolve_device(device), Path.cwd()
    say = TrainingProgress(Console(soft_wrap=True))
    say.report(f"reading {data}")
    spec = TrainingDataSpec(
        entry=build_data_entry(
            data_option,
            source=data,
            split=split,
            limit=limit,
            group_pattern=group_pattern,
            exclude=exclude,
        ),
        validation_source=val,
        validation_share=_DEFAULT_SHARE if val_share is None else val_share,
        max_validation_images=val_limit,
        test_source=test,
    )
    load_start = partial(
        load_initial_network,
        model,
        seed=seed,
        weights=weights,
        normalize=normalize,
        input_size=None if size is None else (size, size),
        preprocessing=None if size is None else {"resize": size},
        allow_code=allow_code,
        base_folder=base,
    )
    is_outside = model.startswith("python:")
    if not is_outside and spec.entry.size is None and (":" in model or size is not None):
        num_classes, _ = peek_images(spec.entry, base)
        spec = replace(spec, contract=load_start(num_classes=num_classes).contract)
    images, sources = load_training_images(spec, seed=seed, base=base)
    for part, source in sources.items():
        say.report(f"{part} images: {source}")
    if is_data_checked and data != "signs":  # those are drawn, each by itself
        report_check(images, say.report)

    work = partial(
        _train_and_save,
        card=chosen,
        recipe=recipe,
        images=images,
        sources=sources,
        load_start=partial(load_start, num_classes=images.training.num_classes),
        out=out,
        seed=seed,
        device=torch_device,
        autoattack=autoattack,
        command=format_command(context),
        kept=frozenset(changes),
        checkpoint=checkpoint,
        base=base,
        allow_code=allow_code,
    )
    with say:
        if is_outside and can_fork(torch_device):
            _train_in_child(work, say, model)
        else:
            work(say.report, say.step)
    say.report(f"wrote {out} with its card and curves; in a grid it is checkpoint:{out}")
    return 0


def _train_and_save(
    report: Callable[[str], None],
    on_step: Callable[[int, int], None],
    *,
    card: Card,
    recipe: Recipe,
    images: TrainingImages,
    sources: Mapping[str, str],
    load_start: Callable[[], InitialNetwork],
    out: Path,
    seed: int,
    device: torch.device,
    autoattack: int,
    command: str,
    kept: AbstractSet[str],
    **places: Any,
) -> None:
    """Train, measure and write; all that a user's own network may end with it."""
    start = load_start()
    if recipe.fine_tune and not start.origin:
        raise ConfigError(f"{card.name} fine-tunes", where="--weights", remedy="say which weights")
    parts = f"{format_count(len(images.training), 'image')}, {len(images.validation):,} for validation"
    if recipe.fine_tune:
        recipe = fit_recipe(recipe, images.training, start.contract, is_fresh=False, kept=kept)
    report(f"training {start.architecture} by {card.name} on {parts}, on {device}")
    common: dict[str, Any] = {"device": device, "report": report}
    trained = fit(start, recipe, images, seed=seed, on_step=on_step, **places, **common)
    scores = measure_row(start, recipe, images, autoattack=autoattack, **common)
    save_training(
        out,
        start,
        trained,
        card=card,
        recipe=recipe,
        images=images,
        sources=sources,
        scores=scores,
        seed=seed,
        command=command,
    )
    if not save_reference(out, start, images, sources, device):
        report(f"no reference for rbl serve: there are fewer than {MIN_REFERENCE_IMAGES} held-out images")


def _train_in_child(
    work: Callable[[Callable[[str], None], Callable[[int, int], None]], None],
    say: TrainingProgress,
    model: str,
) -> None:
    """Train a user's own network in a process of its own, so that its exit does not end the command."""
    aside = partial(work, send_to_parent, lambda done, whole: send_to_parent((done, whole)))
    call_isolated(aside, timeout=None, name=model, on_message=say.show_message)


def _check_writable(out: Path) -> None:
    """Check before the training that the output can be written."""
    if out.suffix != ".safetensors" or not out.absolute().parent.is_dir():
        raise ConfigError(
            f"cannot write weights to {str(out)!r}",
            where="--out",
            remedy="name a .safetensors file in a folder that exists",
        )


def parse_changes(settings: Sequence[str], batch_size: int | None) -> dict[str, Any]:
    """Parse the hyper-parameters that the user sets."""
    changes = parse_settings(settings, "--set")
    return changes if batch_size is None else {**changes, "batch_size": batch_size}


def build_data_entry(words: Sequence[str], **fields: Any) -> DataEntry:
    """Build the data entry of the training images, as in a grid file."""
    options = parse_settings(words, "--data-option")
    given = {name: value for name, value in fields.items() if value is not None}
    return validate(DataEntry, {**given, **options}, where="--data-option", error=ConfigError)


def parse_settings(words: Sequence[str], flag: str) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` words to a mapping; values are parsed as YAML.

    Raises:
        ConfigError: If a word is not of this form, or a key comes twice.
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not key or not equals or key in settings:
            raise ConfigError(f"cannot read {word!r}", where=flag, remedy="write each KEY=VALUE once")
        settings[key] = parse_yaml(f"value: {text}", where=f"{flag} {word}", error=ConfigError)["value"]
    return settings


def format_command(context: typer.Context) -> str:
    """Return the command line that makes the same weights again, without paths of this machine."""
    words = ["rbl", "train"]
    for parameter in context.command.params:
        name, value = str(parameter.name), context.params.get(str(parameter.name))
        origin = context.get_parameter_source(name)
        is_given = origin is not None and not origin.name.startswith("DEFAULT")
        if name == "threads":  # the order in which threads add up numbers decides their last digits
            is_given, value = True, torch.get_num_threads()
        if not is_given or name in _OMITTED_OPTIONS or value is None:
            continue
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif value is True:
            words.append(parameter.opts[0])
        else:
            several = value if isinstance(value, list | tuple) else [value]
            for item in several:
                words += [parameter.opts[0], item.name if isinstance(item, Path) else str(item)]
    return shlex.join(words)
