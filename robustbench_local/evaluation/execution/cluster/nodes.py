"""The nodes of a cluster: what they have, and whether they run the same code as this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_local.counted_nouns import format_count


@dataclass(frozen=True, kw_only=True)
class ClusterNode:
    """A node that is alive."""

    id: str
    """Ray's id, hexadecimal."""
    name: str
    """Its host name or address."""
    cpus: float
    gpus: float
    memory_gib: float
    """Memory that tasks may use."""
    accelerators: tuple[str, ...] = ()
    """Kinds of its GPUs, such as ``A100``, as far as Ray knows them."""


@dataclass(frozen=True, kw_only=True)
class NodeVersions:
    """The versions of what decides verdicts on a node."""

    python: str = ""
    torch: str = ""
    package: str = ""
    code: str = ""
    """First digits of the digest of the package's code."""
    problem: str = ""
    """Why the package cannot be used there; empty if it can."""

    def list_differences(self, other: NodeVersions) -> list[str]:
        """List what differs on another node, such as ``torch 2.13.0 (2.12.1 there)``.

        Python counts by its minor version: code travels between equal ones.
        """
        if other.problem:
            return [other.problem]
        own_python, its_python = (version.rpartition(".")[0] for version in (self.python, other.python))
        pairs = [
            ("Python", own_python, its_python),
            ("torch", self.torch, other.torch),
            ("robustbench_local", self.package, other.package),
            ("its code", self.code, other.code),
        ]
        return [f"{name} {own} here, {its or 'none'} there" for name, own, its in pairs if own != its]


@dataclass(frozen=True, kw_only=True)
class CheckedNode:
    """A node and what differs on it."""

    node: ClusterNode
    versions: NodeVersions
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        node = self.node
        parts = [format_amount(node.cpus, "CPU"), format_amount(node.gpus, "GPU")]
        parts += [f"{node.memory_gib:.1f} GiB", f"Python {self.versions.python}"]
        parts += [f"torch {self.versions.torch or 'none'}", f"code {self.versions.code or 'none'}"]
        return f"{node.name} ({node.id[:8]}): {', '.join(parts)}"


def count_task_slots(nodes: Sequence[ClusterNode], gpus_per_task: float, max_tasks: int | None = None) -> int:
    """Return the number of tasks that fit on some nodes at once.

    Args:
        nodes: The nodes.
        gpus_per_task: GPUs of each task; each takes one CPU as well.
        max_tasks: The largest answer; None for no limit.
    """
    total = 0
    for node in nodes:
        fits = int(node.cpus)
        if gpus_per_task:
            per_gpu = int(1 / gpus_per_task + 1e-9)
            on_gpus = int(node.gpus) * per_gpu if gpus_per_task <= 1 else int(node.gpus // gpus_per_task)
            fits = min(fits, on_gpus)
        total += fits
    return total if max_tasks is None else min(total, max_tasks)


def choose_gpus_per_task(nodes: Sequence[ClusterNode], wanted: float | None, *, allows_gpus: bool) -> float:
    """Return the GPUs of a task: as wanted, else 1 where a node has one and tasks may use it.

    Args:
        nodes: The nodes.
        wanted: The user's number; None for the default.
        allows_gpus: Whether tasks may compute on GPUs.
    """
    if wanted is not None:
        return wanted
    return 1.0 if allows_gpus and any(node.gpus >= 1 for node in nodes) else 0.0


def describe_devices(nodes: Sequence[ClusterNode], gpus_per_task: float) -> str:
    """Describe what the tasks compute on, such as ``cuda (A100) on 2 nodes of Ray``.

    Args:
        nodes: The nodes that get tasks.
        gpus_per_task: GPUs of each task; 0: tasks compute on CPUs.
    """
    device = "cpu"
    if gpus_per_task:
        nodes = [node for node in nodes if node.gpus]
        kinds = sorted({kind for node in nodes for kind in node.accelerators})
        device = f"cuda ({', '.join(kinds)})" if kinds else "cuda"
    return f"{device} on {format_count(len(nodes), 'node')} of Ray"


def format_amount(amount: float, noun: str) -> str:
    """Format a number of CPUs or GPUs, which Ray counts in fractions."""
    return format_count(int(amount), noun) if amount == int(amount) else f"{amount:g} {noun}s"
