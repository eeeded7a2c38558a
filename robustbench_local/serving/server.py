"""The server process: loads the models, listens, and ends gracefully on SIGTERM and Ctrl-C."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import uvicorn

from robustbench_local.serving.analysis_process import AnalysisProcess
from robustbench_local.serving.app import create_app
from robustbench_local.serving.application import Application
from robustbench_local.serving.drift import DriftMonitor
from robustbench_local.serving.model_choice import ModelChoice
from robustbench_local.serving.reference import ReferenceData, find_reference
from robustbench_local.serving.request_log import log_event, set_up_logs
from robustbench_local.serving.served_model import Resize, ServedModel, check_same_classes
from robustbench_local.serving.serving_options import ServingOptions
from robustbench_local.web.graceful_server import GracefulServer
from robustbench_local.web.host_names import is_loopback_address

_KEEP_ALIVE_SECONDS = 5
_MAX_CONNECTIONS = 2_000


@dataclass(frozen=True, kw_only=True)
class ServedImages:
    """How uploads are brought to the models' size, and what is certified; it can be pickled."""

    size: tuple[int, int] | None = None
    """(H, W); None: each model's own."""
    resize: Resize = None
    """As for `ServedModel`."""
    certificate: str | None = None
    """Card of the certificate of the first model; None: what its weights' card says."""


def load_models(choices: Sequence[ModelChoice], images: ServedImages) -> list[ServedModel]:
    """Load the served models.

    Raises:
        RobustbenchError: If one cannot be loaded, or the second has other classes.
    """
    models = [
        ServedModel(
            choice,
            choice.load(),
            size=images.size,
            resize=images.resize,
            certificate=images.certificate if number == 0 else None,
        )
        for number, choice in enumerate(choices)
    ]
    for other in models[1:]:
        check_same_classes(models[0], other)
    return models


def build_application(
    choices: Sequence[ModelChoice],
    images: ServedImages,
    options: ServingOptions,
    *,
    reference: ReferenceData | None = None,
) -> Application:
    """Load the models and build the application, with its process for attacks.

    Raises:
        RobustbenchError: If a model or the reference cannot be loaded.
    """
    models = load_models(choices, images)
    known = find_reference(models[0], reference)
    monitor = None
    if known is not None:
        monitor = DriftMonitor(known, models[0].classifier.num_classes, options.drift_window)
    analyst = None
    if options.attacks:
        analyst = AnalysisProcess(
            partial(load_models, tuple(choices), images),
            max_waiting=options.max_attack_queue,
            timeout=options.attack_seconds,
        )
    return Application(models, options, analyst=analyst, monitor=monitor)


def run_server(
    application: Application,
    opened: socket.socket,
    *,
    host: str,
    report: Callable[[str], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; requests at work are finished first.

    Args:
        application: The application.
        opened: The listening socket.
        host: The address that it listens on, as the user named it.
        report: Receives the line that says where the server is.
    """
    is_loopback = is_loopback_address(host)
    set_up_logs()
    config = uvicorn.Config(
        create_app(application, is_loopback=is_loopback),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(application.options.shutdown_seconds) or 1,
        limit_concurrency=_MAX_CONNECTIONS,
    )
    if isinstance(application.analyst, AnalysisProcess):
        application.analyst.start()
    port = opened.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/"
    report(f"serving {' and '.join(model.name for model in application.models)} at {url} (stop: Ctrl-C)")
    if not is_loopback:
        report("other machines can reach this server, and nobody has to log in")
    log_event("start", models=[model.name for model in application.models], url=url)
    with asyncio.Runner() as runner:
        runner.run(GracefulServer(config).serve(sockets=[opened]))
    log_event("stop")
