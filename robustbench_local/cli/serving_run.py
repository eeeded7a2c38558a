"""The work of ``rbl serve``: check the arguments, load the models, listen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from robustbench_local.classifier.device import resolve_device
from robustbench_local.cli.terminal_output import echo_line
from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import ConfigError, format_install_command
from robustbench_local.serving.serving_options import MEBIBYTE, ServingOptions

_LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_SIZE = re.compile(r"([1-9][0-9]{0,3})(?:x([1-9][0-9]{0,3}))?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ServeArguments:
    """The arguments of the command, as its help describes them."""

    model: str
    model_id: str | None
    compare: str | None
    defense: str | None
    compare_defense: str | None
    architecture: str | None
    weights: str | None
    num_classes: int | None
    normalize: str | None
    class_names: Path | None
    sha256: str | None
    size: str | None
    resize: str | None
    certificate: str | None
    reference: str | None
    reference_split: str
    reference_limit: int
    host: str
    port: int
    allow_host: tuple[str, ...]
    max_batch: int
    max_wait: float
    max_queue: int
    max_images: int
    max_body: float
    max_pixels: int
    rate: float
    burst: int
    attacks: bool
    max_attack_steps: int
    attack_seconds: float
    keep_images: Path | None
    drift_window: int
    threads: int | None
    device: str
    allow_code: bool


def serve_models(arguments: ServeArguments) -> int:
    """Serve the models that a command names, until it is stopped; return exit code 0."""
    _check_libraries()
    import torch

    from robustbench_local.serving.model_choice import choose_models
    from robustbench_local.serving.reference import ReferenceData
    from robustbench_local.serving.server import (
        ServedImages,
        build_application,
        run_server,
    )
    from robustbench_local.web.listening_socket import open_socket

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    choices = choose_models(
        arguments.model,
        model_id=arguments.model_id,
        compare=arguments.compare,
        defense=arguments.defense,
        compare_defense=arguments.compare_defense,
        settings=_collect_settings(arguments),
        device=str(resolve_device(arguments.device)),
        allow_code=arguments.allow_code,
    )
    images = ServedImages(
        size=None if arguments.size is None else parse_size(arguments.size),
        resize=None if arguments.resize is None else _parse_resize(arguments.resize),
        certificate=arguments.certificate,
    )
    reference = None
    if arguments.reference is not None:
        reference = ReferenceData(
            source=arguments.reference,
            split=arguments.reference_split,
            limit=arguments.reference_limit,
        )
    options = _build_options(arguments)
    opened = open_socket(arguments.host, arguments.port)  # a taken port is known before the models are loaded
    try:
        application = build_application(choices, images, options, reference=reference)
        run_server(application, opened, host=arguments.host, report=_report_line)
    finally:
        opened.close()
    return 0


def _report_line(line: str) -> None:
    echo_line(line)
    import sys

    sys.stdout.flush()


def _check_libraries() -> None:
    """Refuse to start without the libraries of the extra.

    Raises:
        ConfigError: Naming the command that installs them.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"rbl serve needs {', '.join(missing)}", remedy=f"install them: {format_install_command('web')}"
        )


def _collect_settings(arguments: ServeArguments) -> dict[str, Any]:
    """Collect the options of the model's source that were given."""
    names = None
    if arguments.class_names is not None:
        text = read_user_file(
            arguments.class_names, where=str(arguments.class_names), error=ConfigError
        ).decode("utf-8", "replace")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    given = {
        "architecture": arguments.architecture,
        "weights": arguments.weights,
        "num_classes": arguments.num_classes,
        "normalize": arguments.normalize,
        "class_names": names,
        "sha256": arguments.sha256,
    }
    return {key: value for key, value in given.items() if value is not None}


def _build_options(arguments: ServeArguments) -> ServingOptions:
    return ServingOptions(
        max_batch=arguments.max_batch,
        max_wait_seconds=arguments.max_wait / 1000,
        max_queue=arguments.max_queue,
        max_images=arguments.max_images,
        max_body_bytes=int(arguments.max_body * MEBIBYTE),
        max_pixels=arguments.max_pixels,
        rate=arguments.rate,
        burst=arguments.burst,
        attacks=arguments.attacks,
        max_attack_steps=arguments.max_attack_steps,
        attack_seconds=arguments.attack_seconds,
        allowed_hosts=arguments.allow_host,
        keep_images=arguments.keep_images,
        drift_window=arguments.drift_window,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Parse a size: a side, or height and width.

    Raises:
        ConfigError: If it is neither.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ConfigError(f"cannot read {text!r}", where="--size", remedy="write 224, or HEIGHTxWIDTH")
    return int(match[1]), int(match[2] or match[1])


def _parse_resize(text: str) -> Any:
    if text == "stretch":
        return text
    match = _SIZE.fullmatch(text)
    if match is None or match[2]:
        raise ConfigError(
            f"cannot read {text!r}", where="--resize", remedy="write a number of pixels, or stretch"
        )
    return int(match[1])
