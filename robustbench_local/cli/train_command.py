"""``rbl train``: train models as a recipe's card says, keep the best, and write it with its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.completion import complete_defenses
from robustbench_local.cli.shared_options import AllowCodeOption, CardsOption, DeviceOption


def command(
    context: typer.Context,
    data: Annotated[str, typer.Option(envvar="RBL_DATA_SOURCE", help="Training images, as in a grid file.")],
    out: Annotated[
        Path,
        typer.Option(envvar="RBL_OUT", help="File for the weights, .safetensors; with --models a folder."),
    ],
    card: Annotated[
        str | None,
        typer.Argument(
            help="Name of a recipe's card, such as trades-linf-8; without one, networks are compared by "
            "fine-tune.",
            autocompletion=complete_defenses,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_MODELS",
            help="Networks to compare, such as resnet50,convnext_tiny=FILE,timm:resnet18; the best is kept.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(envvar="RBL_SPLIT", help="Split of the data to train on.")] = "train",
    limit: Annotated[
        int | None, typer.Option(min=1, envvar="RBL_LIMIT", help="Number of images, stratified by class.")
    ] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE of the data, such as size=224 or groups_key=track; may be repeated."),
    ] = None,
    exclude: Annotated[
        str | None,
        typer.Option(envvar="RBL_EXCLUDE", help="CSV of images to leave out: edited findings of check-data."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check/--no-check", envvar="RBL_CHECK", help="Check the images first, as 'rbl check-data' does."
        ),
    ] = True,
    val: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_VAL", help="Validation images; by default the data's val split, else a share."
        ),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(
            envvar="RBL_VAL_SHARE",
            help="Share of each class that is held out for validation: 0.1, with --models 0.2.",
        ),
    ] = None,
    val_limit: Annotated[
        int,
        typer.Option(min=1, envvar="RBL_VAL_LIMIT", help="Maximum number of images of a separate val split."),
    ] = 1000,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_GROUP_PATTERN",
            help="Regular expression: what it matches in an image's id names the object that it shows.",
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(envvar="RBL_TEST", help="Images for the reported accuracies; by default a test split."),
    ] = None,
    test_share: Annotated[
        float | None,
        typer.Option(
            envvar="RBL_TEST_SHARE",
            help="With --models and no test split: share of each class that is held out for it, 0.2.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(envvar="RBL_MODEL", help="Network: a name from 'rbl list models', or a model source."),
    ] = "signs_resnet",
    weights: Annotated[
        str | None, typer.Option(envvar="RBL_WEIGHTS", help="Weights to fine-tune: a file, or DEFAULT.")
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_NORMALIZE", help="imagenet, cifar10, ... or none; by default the model's own."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, max=1024, envvar="RBL_SIZE", help="Side of the network's images in pixels."),
    ] = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            envvar="RBL_FROM_SCRATCH",
            help="With --models: random weights where no file is named, so that nothing is downloaded.",
        ),
    ] = False,
    seeds: Annotated[
        int, typer.Option(min=1, envvar="RBL_SEEDS", help="With --models: trainings of each network.")
    ] = 1,
    tune: Annotated[
        int,
        typer.Option(
            min=0, envvar="RBL_TUNE", help="With --models: trials of a search for hyper-parameters (Optuna)."
        ),
    ] = 0,
    choose_by: Annotated[
        str,
        typer.Option(envvar="RBL_CHOOSE_BY", help="With --models: balanced, clean or stable."),
    ] = "balanced",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the card, such as epochs=5 or eps=4/255; may be repeated."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, envvar="RBL_BATCH_SIZE", help="Batch size; part of the recipe.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, envvar="RBL_SEED", help="Seed of weights, order and images.")
    ] = 0,
    device: DeviceOption = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, envvar="RBL_THREADS", help="CPU threads; their number affects the last digits."),
    ] = None,
    autoattack: Annotated[
        int, typer.Option(min=0, envvar="RBL_AUTOATTACK", help="Evaluate AutoAttack on this many images.")
    ] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            envvar="RBL_CHECKPOINT", help="Checkpoint written after each epoch; the same command resumes."
        ),
    ] = None,
    cards: CardsOption = None,
    allow_code: AllowCodeOption = False,
) -> int:
    """Train networks by a recipe's card, evaluate them, and write weights, curves and provenance."""
    from robustbench_local.cli.training_run import train_and_report
    from robustbench_local.cli.training_selection import compare_networks, find_models

    compared = find_models(context, card=card, models=models, model=model, weights=weights)
    if compared is not None:
        return compare_networks(
            context,
            models=compared,
            card=card,
            data=data,
            out=out,
            split=split,
            limit=limit,
            data_option=data_option or (),
            exclude=exclude,
            is_data_checked=check,
            val=val,
            val_share=val_share,
            val_limit=val_limit,
            group_pattern=group_pattern,
            test=test,
            test_share=test_share,
            normalize=normalize,
            size=size,
            from_scratch=from_scratch,
            seeds=seeds,
            tune=tune,
            choose_by=choose_by,
            settings=settings or (),
            batch_size=batch_size,
            seed=seed,
            device=device,
            threads=threads,
            cards=cards or (),
            allow_code=allow_code,
        )
    return train_and_report(
        context,
        card=str(card),
        data=data,
        out=out,
        split=split,
        limit=limit,
        data_option=data_option or (),
        exclude=exclude,
        is_data_checked=check,
        val=val,
        val_share=val_share,
        val_limit=val_limit,
        group_pattern=group_pattern,
        test=test,
        model=model,
        weights=weights,
        normalize=normalize,
        size=size,
        settings=settings or (),
        batch_size=batch_size,
        seed=seed,
        device=device,
        threads=threads,
        autoattack=autoattack,
        checkpoint=checkpoint,
        cards=cards or (),
        allow_code=allow_code,
    )
