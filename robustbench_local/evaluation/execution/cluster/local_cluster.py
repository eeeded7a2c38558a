"""A Ray cluster on this machine, for one run alone: it listens on the loopback address only."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest import mock

import torch

from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings

START_ATTEMPTS = 3
"""Number of times that the start is tried: Ray gives up a node whose processes take 15 seconds to start, as
they may on a busy machine."""
LOOPBACK_ADDRESS = "127.0.0.1"


def start_local_cluster(ray: Any, settings: ClusterSettings) -> None:
    """Start a cluster on this machine and connect this process to it.

    Args:
        ray: The module.
        settings: How many tasks it has room for, and whether they may use GPUs.

    Raises:
        Exception: What Ray raises the last time.
    """
    for attempt in range(START_ATTEMPTS):
        try:
            with _stay_on_loopback(ray):
                ray.init(
                    address="local",
                    num_cpus=settings.max_tasks or torch.get_num_threads(),
                    num_gpus=torch.cuda.device_count() if settings.allows_gpus else 0,
                    include_dashboard=False,
                    dashboard_host=LOOPBACK_ADDRESS,
                    _node_ip_address=LOOPBACK_ADDRESS,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                )
        except Exception:
            with suppress(Exception):
                ray.shutdown()
            if attempt == START_ATTEMPTS - 1:
                raise
        else:
            return


@contextmanager
def _stay_on_loopback(ray: Any) -> Iterator[None]:
    """Keep Ray from taking the machine's outer address instead, and its agents from loading the dashboard.

    Ray has switches for both, and no way to set them for one cluster: the first is one of other systems than
    Linux, the second says that a package is missing. Where a version of Ray has them no more, it starts as it
    does by default.
    """
    with ExitStack() as stack:
        private: Any = ray._private  # noqa: SLF001
        if hasattr(private.ray_constants, "ENABLE_RAY_CLUSTER"):
            stack.enter_context(mock.patch.object(private.ray_constants, "ENABLE_RAY_CLUSTER", new=False))
        if hasattr(private.utils, "get_dashboard_dependency_error"):
            name, no_dashboard = "get_dashboard_dependency_error", ImportError("the dashboard is off")
            stack.enter_context(mock.patch.object(private.utils, name, return_value=no_dashboard))
        yield
