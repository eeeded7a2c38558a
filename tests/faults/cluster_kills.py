"""Kills on a Ray cluster: nodes, processes of tasks and the driver, at random moments; verdicts are compared.

    python -m tests.faults.cluster_kills --kills 20 --seed 0 --work DIR

Two nodes run on this machine. Whatever is killed, the same command goes on, and the finished run has the
verdicts of a local one. It takes some ten minutes, and needs the extra ``ray``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

GRID = """
name: kills
data: {source: signs, limit: 40}
models: [{id: trades, source: "zoo:signs-trades"}]
attacks: [square-linf-8, pgd50-linf-8, apgd100-linf-8, certify-smoothing-l2-0.25, fgsm-linf-8]
"""
KINDS = ("task", "task", "node", "driver", "terminated task")
"""What is killed, the more often the more often it stands here."""
_PORTS = (
    "metrics_agent_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
    "metrics_export_port",
)
_VERDICTS = ["status", "clean_correct", "broken", "certified", "forward_passes", "backward_passes", "error"]


def find_ports() -> dict[str, int]:
    """Find ports for a node's agents: without them the node gives up where the machine is busy."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return dict(zip(_PORTS, ports, strict=True))


class KilledRun:
    """A cluster of two nodes and a driver on it, which is started again when it is killed."""

    def __init__(self, work: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        self.work, self.random = work, random.Random(seed)
        self.kills: list[str] = []
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **find_ports()}
        )
        self.node = self.cluster.add_node(num_cpus=1, **find_ports())
        self.cluster_options = ["--executor", "ray", "--address", self.cluster.address]
        self.driver = self.start_driver()

    def start_driver(self) -> subprocess.Popen[bytes]:
        """Start the command that resumes the run."""
        with (self.work / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [*RBL, "run", "grid.yaml", "--out", "killed", *OPTIONS, *self.cluster_options],
                cwd=self.work,
                stdout=log,
                stderr=log,
            )

    def list_tasks(self) -> list[int]:
        """List the processes of the nodes that work on a chunk."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                name = (folder / "cmdline").read_bytes()
                session = self.cluster.head_node.get_session_dir_path()
                if name.startswith(b"ray::run_chunk_task") and session.encode() in self.read_parent(folder):
                    found.append(int(folder.name))
        return found

    @staticmethod
    def read_parent(folder: Path) -> bytes:
        """Read the command line of a process's parent."""
        status = (folder / "status").read_text()
        parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
        return Path("/proc", parent, "cmdline").read_bytes()

    def kill_something(self) -> bool:
        """Kill something that runs; return whether there was anything."""
        kind = self.random.choice(KINDS)
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start_driver()
        elif kind == "node":
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = self.cluster.add_node(num_cpus=1, **find_ports())
        else:
            tasks = self.list_tasks()
            if not tasks:
                return False
            with suppress(ProcessLookupError):
                code = signal.SIGTERM if kind == "terminated task" else signal.SIGKILL
                os.kill(self.random.choice(sorted(tasks)), code)
        self.kills.append(kind)
        return True

    def run(self, count: int, pause: float) -> int:
        """Kill so many times, then wait for the end; return the exit code of the driver."""
        while len(self.kills) < count and self.driver.poll() is None:
            time.sleep(self.random.uniform(0.2, 2 * pause))
            if self.driver.poll() is None and self.kill_something():
                sys.stdout.write(f"{len(self.kills)}: {self.kills[-1]}\n")
        return self.driver.wait()


RBL = [sys.executable, "-m", "robustbench_local.cli"]
OPTIONS = ["--device", "cpu", "--batch-size", "8"]


def compare_runs(work: Path) -> list[str]:
    """Return what differs between the run with kills and a local one."""
    from robustbench_local.run import Run

    frames = {}
    for name in ("local", "killed"):
        frame = Run(work / name).outcomes.sort_values(["attack", "image"]).reset_index(drop=True)
        frames[name] = frame[["attack", "image", *_VERDICTS]].astype(str)
    if frames["local"].shape != frames["killed"].shape:
        return [f"{len(frames['local'])} outcomes locally, {len(frames['killed'])} with kills"]
    unequal = frames["local"] != frames["killed"]
    return [f"{name}: {int(unequal[name].sum())} differ" for name in unequal if unequal[name].any()]


def main(arguments: Any = None) -> int:
    """Run the kills and report; exit code 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=8.0, help="mean seconds between two kills")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args(arguments)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "200"}
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "grid.yaml").write_text(GRID, encoding="utf-8")
    run = KilledRun(options.work, options.seed)
    try:
        code = run.run(options.kills, options.pause)
    finally:
        run.driver.kill()
        run.cluster.shutdown()
    subprocess.run([*RBL, "run", "grid.yaml", "--out", "local", *OPTIONS], cwd=options.work, check=False)
    differences = compare_runs(options.work)
    sys.stdout.write(
        f"{len(run.kills)} kills, exit code {code}: {'; '.join(differences) or 'the same verdicts'}\n"
    )
    return int(bool(differences) or code not in {0, 4})


if __name__ == "__main__":
    sys.exit(main())
