"""Runs on a Ray cluster of two nodes on this machine: the verdicts of a local run, whatever is killed."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import robustbench_local as rbl
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.execution.spent_resources import read_cpu_seconds
from robustbench_local.run import Run, run_grid

pytestmark = [
    pytest.mark.slow,
    pytest.mark.extra,
    pytest.mark.filterwarnings("ignore"),  # Ray's own: it leaves files and sockets to the collector
]
ray = pytest.importorskip("ray", reason="needs the extra ray")

MODEL = """
import os, signal, torch, robustbench_local as rbl
import neighbour

class OddImageError(ValueError):
    pass

class Net(torch.nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.network, self.kind = rbl.load_classifier("zoo:signs-plain").model, kind

    def forward(self, images):
        import late
        odd = bool((images.mean((1, 2, 3)) > 0.42).any())
        if self.kind == "raises" and odd:
            raise OddImageError("odd")
        if self.kind == "dies" and odd:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.network((late.same(neighbour.same(images)) - 0.4) / 0.25)

def raises(): return Net("raises").eval()
def dies(): return Net("dies").eval()
"""
SAME = "def same(images):\n    return images\n"
GRID: dict[str, Any] = {
    "data": {"source": "signs", "limit": 24},
    "models": [
        {"id": "gaussian", "source": "zoo:signs-gaussian-0.25", "defenses": ["none", "noise-0.1"]},
        {"id": "raises", "source": "python:model.py:raises"},
        {"id": "dies", "source": "python:model.py:dies"},
    ],
    "attacks": ["fgsm-linf-8", "certify-ibp-linf-1"],
}


def find_ports() -> dict[str, int]:
    """Find ports for a node's agents: without them the node gives up where the machine is busy."""
    names = (
        "metrics_agent_port",
        "dashboard_agent_listen_port",
        "runtime_env_agent_port",
        "metrics_export_port",
    )
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: held.getsockname()[1] for name, held in zip(names, sockets, strict=True)}
    for held in sockets:
        held.close()
    return ports


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "45"}
    no_dashboard = ImportError("the dashboard is off")  # its agents take seconds to import
    with mock.patch.object(ray._private.utils, "get_dashboard_dependency_error", return_value=no_dashboard):
        nodes = Cluster()
        for _ in range(2):
            start_node(nodes)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="critical")
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def start_node(nodes, attempts=3):
    """Start a node; Ray gives one up whose processes take 15 seconds on a busy machine."""
    try:
        nodes.add_node(num_cpus=1, include_dashboard=False, **find_ports())
    except Exception:
        if attempts == 1:
            raise
        start_node(nodes, attempts - 1)


def read_verdicts(run: Run) -> pd.DataFrame:
    columns = [
        "model",
        "defense",
        "attack",
        "image",
        "status",
        "clean_correct",
        "clean_prediction",
        "adversarial_prediction",
        "broken",
        "broken_8bit",
        "certified",
        "adversarial_hash",
        "error",
    ]
    frame = run.outcomes[[*columns, "forward_passes", "backward_passes"]]
    return frame.sort_values(["model", "defense", "attack", "image"]).reset_index(drop=True)


class Events(ProgressListener):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.order: list[str] = []
        self.on_batch = lambda: None

    def on_event(self, event):
        self.lines.append(event.message)

    def on_cell_start(self, cell, counts):
        self.order.append(f"start {cell.record.attack}")

    def on_cell_end(self, cell, status, counts, error):
        self.order.append(f"{status} {cell.record.attack}")

    def on_batch_end(self, cell, counts):
        self.on_batch()


def test_verdicts_are_those_of_a_local_run_while_processes_are_killed(cluster, tmp_path, monkeypatch):
    """Models that raise or die on images, code of the user's, a certificate and draws; one task dies too."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"model.py": MODEL, "neighbour.py": SAME, "late.py": SAME}.items():
        Path(name).write_text(text, encoding="utf-8")
    options = {"allow_code": True, "batch_size": 8, "workers": 2}
    local = run_grid(GRID, "local", options=rbl.Options(**options))
    events, killed = Events(), []
    events.on_batch = lambda: killed or killed.extend(kill_a_task(cluster))
    ray_run = run_grid(GRID, "ray", options=rbl.Options(executor="ray", **options), listener=events)
    pd.testing.assert_frame_equal(read_verdicts(ray_run), read_verdicts(local))
    assert killed
    assert any(line.startswith("Ray: 2 nodes, 2 tasks at a time") for line in events.lines)
    errors = read_verdicts(local).query("error.notna()")["error"].str.cat()
    assert "OddImageError" in errors
    assert "SIGKILL" in errors


MADE = """
import numpy, time, torch
from pathlib import Path

def made():
    means = torch.from_numpy(numpy.load(Path(__file__).parent / "means.npy")).flatten(1)
    layer = torch.nn.Linear(108, 4)
    with torch.no_grad():
        layer.weight.copy_(means)
        layer.bias.copy_(-0.5 * (means**2).sum(1))
    return torch.nn.Sequential(torch.nn.Flatten(), layer).eval()

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = made()

    def forward(self, images):
        time.sleep(0.1)
        return self.network(images)

def slow(): return Slow().eval()
"""


@pytest.fixture
def write_made(tmp_path, monkeypatch):
    """Writes 16 images of four classes, two of them alike, and a linear model that knows their means."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    means, labels = rng.uniform(0.2, 0.8, (4, 3, 6, 6)).astype(np.float32), np.arange(16) % 4
    means[3] = means[2] + 0.03 * rng.choice([-1, 1], means[2].shape)
    noise = rng.normal(0, 0.01, (16, 3, 6, 6))
    np.savez("made.npz", images=np.clip(means[labels] + noise, 0, 1).astype(np.float32), labels=labels)
    np.save("means.npy", means)
    Path("made.py").write_text(MADE, encoding="utf-8")


def run_made(name, attacks, model="made", gates=(), listener=None, **options):
    grid = {
        "data": {"source": "npz:made.npz"},
        "models": [{"id": model, "source": f"python:made.py:{model}"}],
        "attacks": attacks,
        "gates": list(gates),
        "skip_verified": len(attacks) > 2,
    }
    options = rbl.Options(allow_code=True, batch_size=4, device="cpu", **options)
    return run_grid(grid, name, options=options, listener=listener)


def read_cells(run: Run) -> list[tuple[Any, ...]]:
    cells = run.results["cells"]
    return sorted((cell["attack"], cell["status"], cell["n"]) for cell in cells)


@pytest.mark.parametrize(
    ("attacks", "options"),
    [
        (["certify-ibp-linf-8", "autoattack-linf-8", "adaptive-linf-8"], {}),
        (
            ["fgsm-linf-8", "pgd20-linf-8"],
            {
                "until_decided": True,
                "gates": [{"metric": "robust_accuracy", "threat": "linf-8", "min": 0.95}],
            },
        ),
        (["pgd20-linf-8"], {"model": "slow", "cell_timeout": 1.0}),
    ],
    ids=["proven images left out", "until decided", "out of time"],
)
def test_other_kinds_of_runs_are_those_of_a_local_one(cluster, write_made, attacks, options):
    local = run_made("local", attacks, **options)
    on_cluster = run_made("ray", attacks, executor="ray", **options)
    assert read_cells(on_cluster) == read_cells(local)
    verdicts = read_verdicts(local)
    pd.testing.assert_frame_equal(read_verdicts(on_cluster), verdicts)
    if "certify-ibp-linf-8" in attacks:  # half of the images are proven, and cost the attacks one pass
        assert (verdicts["forward_passes"] == 1).sum() >= 16
        assert verdicts["certified"].sum() == 3 * 8  # the attacks take the proof over
    environment = on_cluster.results["environment"]
    assert (environment["device"], environment["workers"]) == ("cpu on 2 nodes of Ray", 2)


def test_cells_run_side_by_side_and_the_work_of_the_nodes_is_counted(cluster, write_made):
    attacks = ["fgsm-linf-8", "pgd20-linf-8"]
    local = run_made("local", attacks, model="slow")
    events, cpu_seconds = Events(), read_cpu_seconds()
    on_cluster = run_made("ray", attacks, model="slow", executor="ray", listener=events)
    own = sum(os.times()[:4])
    assert events.order[:2] == [f"start {attack}" for attack in attacks]
    pd.testing.assert_frame_equal(read_verdicts(on_cluster), read_verdicts(local))
    assert read_cpu_seconds() - own > 0.1  # a fresh process of a node imports as much
    # an image's time is its share of the run's, which two tasks at a time divide between them
    spent, alone = (run.outcomes["seconds"].sum() for run in (on_cluster, local))
    assert spent < 0.9 * alone
    assert read_cpu_seconds() > cpu_seconds


def test_a_shard_of_a_cluster_and_one_of_this_machine_are_merged(cluster, write_made):
    attacks = ["fgsm-linf-8", "certify-ibp-linf-1"]
    whole = run_made("whole", attacks)
    run_made("first", attacks, shard="1/2", executor="ray")
    run_made("second", attacks, shard="2/2")
    merged = rbl.merge_runs(["first", "second"], "merged")
    pd.testing.assert_frame_equal(read_verdicts(merged), read_verdicts(whole))


def kill_a_task(cluster) -> list[int]:
    """End a process that works on a chunk; return its id, or nothing if none does."""
    session = cluster.head_node.get_session_dir_path().encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
            is_task = (folder / "cmdline").read_bytes().startswith(b"ray::run_chunk_task")
            if is_task and session in Path("/proc", parent, "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                return [int(folder.name)]
        except OSError:
            continue
    return []
