"""``rbl serve``: a web page and a JSON API that classify, attack and certify uploaded images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robustbench_local.cli.shared_options import AllowCodeOption, DeviceOption


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="A model source such as zoo:signs-plain, weights of 'rbl train', or a grid file."
        ),
    ],
    model_id: Annotated[
        str | None, typer.Option("--model", envvar="RBL_MODEL_ID", help="Id of the model in a grid file.")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_COMPARE", help="Model beside it, of the same classes: a source, or an id of the grid."
        ),
    ] = None,
    defense: Annotated[
        str | None, typer.Option(envvar="RBL_DEFENSE", help="Card of a wrapper defense around the model.")
    ] = None,
    compare_defense: Annotated[
        str | None,
        typer.Option(envvar="RBL_COMPARE_DEFENSE", help="The same for the model beside it."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(envvar="RBL_ARCHITECTURE", help="Network of a checkpoint.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(envvar="RBL_WEIGHTS", help="A weights file, or DEFAULT.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(min=2, envvar="RBL_NUM_CLASSES", help="Number of classes.")
    ] = None,
    normalize: Annotated[
        str | None, typer.Option(envvar="RBL_NORMALIZE", help="imagenet, cifar10, ... or none.")
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(envvar="RBL_CLASS_NAMES", help="Text file with one class name a line.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(envvar="RBL_SHA256", help="Required SHA-256 of the weights file.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(envvar="RBL_SIZE", help="Size that uploads are brought to: 224, or HEIGHTxWIDTH."),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(envvar="RBL_RESIZE", help="Shorter side before the center crop, or stretch."),
    ] = None,
    certificate: Annotated[
        str | None,
        typer.Option(envvar="RBL_CERTIFICATE", help="Card of a certificate; by default the weights' own."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            envvar="RBL_REFERENCE", help="Held-out images to compare uploads with: signs, folder:DIR."
        ),
    ] = None,
    reference_split: Annotated[str, typer.Option(envvar="RBL_REFERENCE_SPLIT", help="Their split.")] = "val",
    reference_limit: Annotated[
        int, typer.Option(min=50, envvar="RBL_REFERENCE_LIMIT", help="Largest number of them.")
    ] = 500,
    host: Annotated[str, typer.Option(envvar="RBL_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="RBL_PORT", help="Port; 0 for any free one.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(envvar="RBL_ALLOW_HOST", help="Host name that requests may use; may be repeated."),
    ] = None,
    max_batch: Annotated[
        int, typer.Option(min=1, envvar="RBL_MAX_BATCH", help="Most images in a pass of the model.")
    ] = 32,
    max_wait: Annotated[
        float, typer.Option(min=0, envvar="RBL_MAX_WAIT", help="Milliseconds that an image waits for others.")
    ] = 5.0,
    max_queue: Annotated[
        int, typer.Option(min=1, envvar="RBL_MAX_QUEUE", help="Most waiting images; then 503.")
    ] = 512,
    max_images: Annotated[
        int, typer.Option(min=1, envvar="RBL_MAX_IMAGES", help="Most images in one request.")
    ] = 16,
    max_body: Annotated[
        float, typer.Option(min=0.001, envvar="RBL_MAX_BODY", help="Largest request in MiB.")
    ] = 16.0,
    max_pixels: Annotated[
        int, typer.Option(min=1, envvar="RBL_MAX_PIXELS", help="Largest width times height of an image.")
    ] = 50_000_000,
    rate: Annotated[
        float, typer.Option(min=0, envvar="RBL_RATE", help="Requests per second of one client; 0 for any.")
    ] = 100.0,
    burst: Annotated[
        int, typer.Option(min=1, envvar="RBL_BURST", help="Requests that one client may send at once.")
    ] = 400,
    attacks: Annotated[
        bool,
        typer.Option("--attacks/--no-attacks", envvar="RBL_ATTACKS", help="Allow attacks and certificates."),
    ] = True,
    max_attack_steps: Annotated[
        int, typer.Option(min=1, envvar="RBL_MAX_ATTACK_STEPS", help="Most steps of an attack.")
    ] = 100,
    attack_seconds: Annotated[
        float, typer.Option(min=0.1, envvar="RBL_ATTACK_SECONDS", help="Longest time of one attack.")
    ] = 60.0,
    keep_images: Annotated[
        Path | None,
        typer.Option(envvar="RBL_KEEP_IMAGES", help="Folder for uploaded images; by default none is kept."),
    ] = None,
    drift_window: Annotated[
        int, typer.Option(min=20, envvar="RBL_DRIFT_WINDOW", help="Images in each test of drift.")
    ] = 200,
    threads: Annotated[
        int | None, typer.Option(min=1, envvar="RBL_THREADS", help="CPU threads of the model.")
    ] = None,
    device: DeviceOption = "auto",
    allow_code: AllowCodeOption = False,
) -> int:
    """Serve a model: a web page and a JSON API (extra: web); no image is kept, no code from files is run."""
    from robustbench_local.cli.serving_run import ServeArguments, serve_models

    return serve_models(
        ServeArguments(
            model=model,
            model_id=model_id,
            compare=compare,
            defense=defense,
            compare_defense=compare_defense,
            architecture=architecture,
            weights=weights,
            num_classes=num_classes,
            normalize=normalize,
            class_names=class_names,
            sha256=sha256,
            size=size,
            resize=resize,
            certificate=certificate,
            reference=reference,
            reference_split=reference_split,
            reference_limit=reference_limit,
            host=host,
            port=port,
            allow_host=tuple(allow_host or ()),
            max_batch=max_batch,
            max_wait=max_wait,
            max_queue=max_queue,
            max_images=max_images,
            max_body=max_body,
            max_pixels=max_pixels,
            rate=rate,
            burst=burst,
            attacks=attacks,
            max_attack_steps=max_attack_steps,
            attack_seconds=attack_seconds,
            keep_images=keep_images,
            drift_window=drift_window,
            threads=threads,
            device=device,
            allow_code=allow_code,
        )
    )
