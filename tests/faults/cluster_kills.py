"""Kills on a Ray cluster: nodes, processes of tasks and the driver, at random moments; verdicts are compared.

    python -m tests.faults.cluster_kills --kills 20 --seed 0 --work DIR

Two nodes run on this machine, the driver on the first. Whatever is killed, the same command goes on, and a
finished run has the verdicts of a local one; then the next run begins, until there were as many kills as
asked for. It takes some ten minutes of an idle machine, most of them for starting processes again, and needs
the extra ``ray``.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

GRID = """
name: kills
data: {source: signs, limit: 64}
models: [{id: trades, source: "zoo:signs-trades"}]
attacks:
- fgsm-linf-8
- pgd20-linf-8
- {card: apgd100-linf-8, steps: 20, restarts: 1}
- {card: square-linf-8, queries: 50}
- certify-ibp-linf-1
- {card: certify-smoothing-l2-0.25, n0: 20, n: 100}
"""
KINDS = ("node", "task", "driver", "terminated task")
"""What is killed: each kind as often, in a random order."""
IMPATIENT_SHARE = 0.25
"""Share of the kills that do not wait for an outcome: they hit processes that start, too."""
STUCK_SECONDS = 900.0
"""Seconds without any outcome after which a run counts as stuck."""
NODE_ATTEMPTS = 5
"""Number of times that the start of a node is tried."""
_PORTS = (
    "metrics_agent_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
    "metrics_export_port",
)
_VERDICTS = [
    "status",
    "clean_correct",
    "clean_prediction",
    "adversarial_prediction",
    "broken",
    "broken_8bit",
    "certified",
    "radius",
    "original_hash",
    "adversarial_hash",
    "forward_passes",
    "backward_passes",
    "error",
]
RBL = [sys.executable, "-m", "robustbench_local.cli"]
OPTIONS = ["--device", "cpu", "--batch-size", "8"]


def write_line(line: str) -> None:
    """Write a line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def find_ports() -> dict[str, int]:
    """Find ports for a node's agents: without them the node gives up where the machine is busy."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in _PORTS]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return dict(zip(_PORTS, ports, strict=True))


def use_small_agents() -> None:
    """Leave out what a node's agent only needs for the dashboard: it takes seconds to import."""
    from ray._private import utils

    utils.get_dashboard_dependency_error = lambda: ImportError("no dashboard")


class KilledRuns:
    """A cluster of two nodes and a driver on it, which is started again when it is killed.

    Args:
        work: Folder for the runs.
        seed: Decides what is killed, and when.
        count: Number of kills.
        pause: Mean seconds of a random wait before each.
    """

    def __init__(self, work: Path, seed: int, count: int, pause: float) -> None:
        from ray.cluster_utils import Cluster

        self.work, self.random, self.pause = work, random.Random(seed), pause
        self.waiting = [KINDS[index % len(KINDS)] for index in range(count)]
        self.random.shuffle(self.waiting)
        self.kills: list[str] = []
        self.folders = [work / "killed-1"]
        self.exit_codes: list[int] = []
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **find_ports()}
        )
        self.node = self.start_node()
        self.cluster_options = ["--executor", "ray", "--address", self.cluster.address]
        self.driver = self.start_driver()

    def start_node(self) -> Any:
        """Start the second node; Ray gives one up whose agents take 15 seconds on a busy machine."""
        for attempt in range(NODE_ATTEMPTS):
            try:
                return self.cluster.add_node(wait=False, num_cpus=1, **find_ports())
            except Exception as error:
                write_line(f"a node did not start: {type(error).__name__}")
                if attempt == NODE_ATTEMPTS - 1:
                    raise
        raise AssertionError

    def start_driver(self) -> subprocess.Popen[bytes]:
        """Start the command that begins or resumes the latest run."""
        with (self.work / "driver.log").open("ab") as log:
            return subprocess.Popen(
                [*RBL, "run", "grid.yaml", "--out", self.folders[-1].name, *OPTIONS, *self.cluster_options],
                cwd=self.work,
                stdout=log,
                stderr=log,
            )

    def list_tasks(self) -> list[int]:
        """List the processes of the nodes that work on a chunk."""
        session = self.cluster.head_node.get_session_dir_path().encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                name = (folder / "cmdline").read_bytes()
                if name.startswith(b"ray::run_chunk_task") and session in self.read_parent(folder):
                    found.append(int(folder.name))
        return sorted(found)

    @staticmethod
    def read_parent(folder: Path) -> bytes:
        """Read the command line of a process's parent."""
        status = (folder / "status").read_text()
        parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
        return Path("/proc", parent, "cmdline").read_bytes()

    def count_outcomes(self) -> int:
        """Count the outcomes of the latest run."""
        path = self.folders[-1] / "run.db"
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT COUNT(*) FROM outcomes").fetchone()[0])
        return 0

    def kill_next(self) -> bool:
        """Kill what is next; return whether it was there."""
        kind, tasks = self.waiting[0], self.list_tasks()
        if kind == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start_driver()
        elif kind == "node":
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = self.start_node()
        else:
            if not tasks:
                return False
            try:
                code = signal.SIGTERM if kind == "terminated task" else signal.SIGKILL
                os.kill(self.random.choice(tasks), code)
            except ProcessLookupError:
                return False
        self.waiting.pop(0)
        idle = "" if tasks else ", while no chunk ran"
        self.kills.append(f"{kind}{idle}")
        write_line(f"{len(self.kills)}: {self.kills[-1]}, after {self.count_outcomes()} outcomes")
        return True

    def wait_for_outcomes(self) -> None:
        """Wait until the run has new outcomes, or ends."""
        before, started = self.count_outcomes(), time.monotonic()
        while self.driver.poll() is None and self.count_outcomes() == before:
            time.sleep(0.1)
            if time.monotonic() - started > STUCK_SECONDS:
                raise TimeoutError(f"no outcome for {STUCK_SECONDS:g} s; see {self.work / 'driver.log'}")

    def run(self) -> None:
        """Kill until nothing is left to kill, then wait for the end of the last run."""
        while self.waiting:
            if self.random.random() >= IMPATIENT_SHARE:
                self.wait_for_outcomes()
            time.sleep(self.random.uniform(0, 2 * self.pause))
            while self.driver.poll() is None and not self.kill_next():
                time.sleep(0.05)
            if self.driver.poll() is not None:
                self.end_run()
                self.folders.append(self.work / f"killed-{len(self.folders) + 1}")
                self.driver = self.start_driver()
        while self.driver.poll() is None:
            self.wait_for_outcomes()
        self.end_run()

    def end_run(self) -> None:
        """Note how a run ended."""
        self.exit_codes.append(self.driver.wait())
        write_line(f"{self.folders[-1].name} ended with exit code {self.exit_codes[-1]}")

    def close(self) -> None:
        """End the driver and the nodes."""
        self.driver.kill()
        self.driver.wait()
        self.cluster.shutdown()


def compare_runs(local: Path, killed: Path) -> list[str]:
    """Return what differs between a run with kills and a local one."""
    from robustbench_local.run import Run

    frames = []
    for folder in (local, killed):
        frame = Run(folder).outcomes.sort_values(["attack", "image"]).reset_index(drop=True)
        frames.append(frame[["attack", "image", *_VERDICTS]].map(str))
    if frames[0].shape != frames[1].shape:
        return [f"{len(frames[0])} outcomes locally, {len(frames[1])} with kills"]
    unequal = frames[0] != frames[1]
    return [f"{name}: {int(unequal[name].sum())} differ" for name in unequal if unequal[name].any()]


def parse_options(arguments: Any = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds of the wait before a kill")
    parser.add_argument("--work", type=Path, required=True)
    return parser.parse_args(arguments)


def main(arguments: Any = None) -> int:
    """Run the kills and report; exit code 1 if anything was lost or differs."""
    options = parse_options(arguments)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "40"}
    options.work.mkdir(parents=True, exist_ok=True)
    (options.work / "grid.yaml").write_text(GRID, encoding="utf-8")
    local = options.work / "local"
    command = [*RBL, "run", "grid.yaml", "--out", local.name, *OPTIONS]
    expected = subprocess.run(command, cwd=options.work, check=False).returncode
    use_small_agents()
    runs = KilledRuns(options.work, options.seed, options.kills, options.pause)
    try:
        runs.run()
    finally:
        runs.close()
    differences = [
        f"{folder.name}: {line}" for folder in runs.folders for line in compare_runs(local, folder)
    ]
    differences += [f"exit code {code} instead of {expected}" for code in runs.exit_codes if code != expected]
    idle = sum("no chunk" in kill for kill in runs.kills)
    write_line(f"{len(runs.kills)} kills, {idle} of them while no chunk ran, in {len(runs.folders)} runs:")
    write_line("; ".join(differences) or "the same verdicts")
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
