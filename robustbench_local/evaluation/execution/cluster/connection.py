"""The connection to Ray: quiet, without usage statistics, and with one line for each of its errors."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.cluster.local_cluster import start_local_cluster
from robustbench_local.evaluation.execution.cluster.nodes import CheckedNode, ClusterNode, NodeVersions
from robustbench_local.evaluation.planning.environment import VERDICT_MODULES
from robustbench_local.models.extra_libraries import import_extra

CODE_MODULES = (*VERDICT_MODULES, "robustbench_local.evaluation.execution.cluster")
"""Roots of the code that has to be the same on every node."""
ACCELERATOR_RESOURCE = "accelerator_type:"
"""Beginning of the names under which Ray lists the kinds of a node's GPUs."""
CONNECT_SECONDS = 5.0
"""Seconds within which the address of a cluster has to accept a connection."""
PROBE_SECONDS = 120.0
"""Seconds within which a node has to describe itself: it imports torch for that."""
_REJECTION = "InvalidAuthToken"
"""What Ray writes where a cluster does not accept this process."""
_REJECTION_REMEDY = (
    "copy ~/.ray/auth_token of the cluster's first node and set RAY_AUTH_MODE=token; with --address auto, on "
    "a node of the cluster, Ray does that itself"
)
_CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
_QUIET_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_LOG_TO_STDERR": "0",
    "RAY_raylet_start_wait_time_s": "45",
}


def import_ray() -> Any:
    """Import Ray, with its usage statistics switched off.

    Raises:
        ConfigError: If it is not installed.
    """
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Ray's own plans
        return import_extra("ray", extra="ray")


def check_address(address: str | None) -> None:
    """Check that a cluster's address can be reached at all, before anything is loaded.

    Args:
        address: ``HOST:PORT`` or ``"auto"``; None for a cluster on this machine.

    Raises:
        ConfigError: If it is no address, or nothing answers there.
    """
    if address in {None, "auto", "local"}:
        return
    host, _, port = str(address).rpartition(":")
    if str(address).startswith("ray://"):
        remedy = "run on a node of the cluster and give its HOST:PORT, by default HEAD:6379, or auto"
        raise ConfigError("addresses of Ray's client are not supported", where="--address", remedy=remedy)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        remedy = "give HOST:PORT, such as 10.0.0.1:6379, or auto"
        raise ConfigError(f"{address!r} is no address of a Ray cluster", where="--address", remedy=remedy)
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS):
            pass
    except OSError as error:
        remedy = "start the cluster with ray start --head, or leave --address out"
        raise ConfigError(
            f"no cluster answers at {address}: {error.strerror or extract_first_line(error)}",
            where="--address",
            remedy=remedy,
        ) from error


@contextmanager
def connect_to_cluster(settings: ClusterSettings) -> Iterator[Any]:
    """Connect this process to a cluster while the context is open.

    Args:
        settings: The cluster; without an address one is started on this machine and ended afterwards.

    Yields:
        The module ``ray``. A connection that this process has already is used, and stays.

    Raises:
        ConfigError: If Ray is not installed, or cannot start or connect.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    check_address(settings.address)
    prints_crashes = faulthandler.is_enabled()
    handlers: dict[signal.Signals, Any] = {
        kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)
    }
    messages = list[str]()
    try:
        with warnings.catch_warnings(), _collect_messages(messages):
            warnings.simplefilter("ignore")  # about Ray's own plans
            if settings.address in {None, "local"}:
                start_local_cluster(ray, settings)
            else:
                ray.init(settings.address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:
        with suppress(Exception):
            ray.shutdown()
        where, reason = settings.address or "this machine", extract_first_line(error)
        remedy = "see ray status, and the logs in /tmp/ray/session_latest/logs"
        if any(_REJECTION in line for line in messages):
            reason, remedy = "it wants another token, or one at all", _REJECTION_REMEDY
        raise ConfigError(f"Ray cannot be used on {where}: {reason}", remedy=remedy) from error
    _silence_messages(ray)
    if not prints_crashes:
        faulthandler.disable()  # a crash of a model's process is one line of the run
    handlers |= dict.fromkeys(_CRASH_SIGNALS, signal.SIG_DFL)  # where Ray prints a stack
    try:
        for kind, handler in handlers.items():
            with suppress(ValueError):  # only the main thread has handlers
                signal.signal(kind, handler)
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _collect_messages(messages: list[str]) -> Iterator[None]:
    """Collect what Ray's own threads write on standard error, which tells more than its exceptions."""
    own = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            file.seek(0)
            messages += file.read().decode(errors="replace").splitlines()


def _silence_messages(ray: Any) -> None:
    """Keep Ray's messages about lost nodes off standard output: the run has events, and ``--json`` lines.

    Ray prints them whatever its options for logs say, and has no switch.
    """
    if hasattr(ray._private.worker, "print_to_stdstream"):  # noqa: SLF001
        ray._private.worker.print_to_stdstream = lambda *_, **__: None  # noqa: SLF001


def list_nodes(ray: Any) -> list[ClusterNode]:
    """List the nodes that are alive, the driver's first."""
    nodes = []
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        resources = node["Resources"]
        nodes.append(
            ClusterNode(
                id=node["NodeID"],
                name=node.get("NodeManagerHostname") or node["NodeManagerAddress"],
                cpus=resources.get("CPU", 0.0),
                gpus=resources.get("GPU", 0.0),
                memory_gib=resources.get("memory", 0.0) / 2**30,
                accelerators=tuple(
                    sorted(
                        name.removeprefix(ACCELERATOR_RESOURCE)
                        for name in resources
                        if name.startswith(ACCELERATOR_RESOURCE)
                    )
                ),
            )
        )
    own = ray.get_runtime_context().get_node_id()
    return sorted(nodes, key=lambda node: (node.id != own, node.name, node.id))


def check_nodes(ray: Any, nodes: list[ClusterNode]) -> list[CheckedNode]:
    """Ask nodes for their versions, and compare them with those of this process.

    Args:
        ray: The module, connected.
        nodes: The nodes.

    Returns:
        The nodes that answer, with what differs on each.
    """
    from robustbench_local.evaluation.execution.cluster import node_probe  # noqa: PLC0415 - travels by value

    ray.cloudpickle.register_pickle_by_value(node_probe)
    try:
        probe = ray.remote(num_cpus=0, max_retries=0)(node_probe.probe_node)
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        answers = {
            node.id: probe.options(scheduling_strategy=strategy(node.id, soft=False)).remote(CODE_MODULES)
            for node in nodes
        }
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_probe)
    own = NodeVersions(**node_probe.probe_node(CODE_MODULES))
    checked = []
    for node in nodes:
        try:
            versions = NodeVersions(**ray.get(answers[node.id], timeout=PROBE_SECONDS))
        except Exception as error:  # noqa: BLE001 - a node that vanishes, or cannot even run Python
            versions = NodeVersions(problem=f"it does not answer: {extract_first_line(error, 120)}")
        differences = tuple(own.list_differences(versions))
        checked.append(CheckedNode(node=node, versions=versions, differences=differences))
    return checked
