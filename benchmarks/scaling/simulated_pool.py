"""The real pool and the real queue, with workers that take simulated time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from benchmarks.scaling.image_costs import compute_request_time
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.execution.pilot_positions import choose_pilot_positions
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import _BatchQueue
from robustbench_local.evaluation.harness.job import OutcomeBatch
from robustbench_local.evaluation.harness.worker_pool import WorkerPool
from robustbench_local.evaluation.harness.worker_process import WorkerRequest, WorkerResponse
from robustbench_local.threats.threat_model import ThreatModel


class SimulatedWorker:
    """A worker whose requests end at a moment of the simulated clock.

    Args:
        pool: The pool, whose clock it follows.
    """

    def __init__(self, pool: SimulatedPool) -> None:
        self.pool, self.ends_at = pool, 0.0

    def send_request(self, request: Any) -> None:
        if isinstance(request, WorkerRequest):  # the last request is a word
            passes = self.pool.passes[request.positions]
            self.ends_at = self.pool.clock + compute_request_time(passes.tolist(), request.batch_size)

    def count_received_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        """Nothing runs."""


class SimulatedPool(WorkerPool):
    """Workers on a simulated clock.

    Args:
        job: The work.
        workers: Number of workers.
        passes: Passes of each image.
    """

    def __init__(self, job: AttackJob, workers: int, passes: np.ndarray) -> None:
        super().__init__(job, workers, prepare_models=nullcontext, isolated=True)
        self.clock, self.passes = 0.0, passes

    def _start_worker(self, index: int) -> Any:  # noqa: ARG002
        return SimulatedWorker(self)

    def _wait_once(self, waiting: Sequence[Any], watch: Any, timeout: float | None) -> dict[Any, Any]:  # noqa: ARG002
        self.clock = max(self.clock, min(worker.ends_at for worker in waiting))
        batch = OutcomeBatch(outcomes=(), candidates=torch.empty(0, 1, 1, 2))
        ended = [worker for worker in waiting if worker.ends_at <= self.clock]
        return {worker: WorkerResponse(batch, None, ()) for worker in ended}


def build_simulated_job(count: int) -> AttackJob:
    """Build a job of AutoAttack whose images are never looked at.

    Args:
        count: Number of images.
    """
    data = Dataset(
        name="simulated",
        images=torch.zeros(count, 1, 1, 2),
        labels=torch.zeros(count, dtype=torch.int64),
        ids=tuple(map(str, range(count))),
        class_names=("a", "b"),
    )
    classifier = Classifier(torch.nn.Flatten(), num_classes=2, device="cpu")
    threat = ThreatModel(norm="Linf", eps="8/255")
    return AttackJob(key="k", classifier=classifier, data=data, threat=threat, seed=0, attack=AutoAttack())


def simulate_run(passes: np.ndarray, workers: int, batch_size: int) -> float:
    """Return the simulated time of a cell of AutoAttack, in image-passes: its pilot, then the rest.

    Args:
        passes: Passes of each image.
        workers: Number of workers.
        batch_size: Images per pass of a single worker.
    """
    job = build_simulated_job(len(passes))
    pilot = choose_pilot_positions(job, batch_size)
    with SimulatedPool(job, workers, passes) as pool:
        if pilot:
            pool.run(pilot, batch_size)
        for _ in _BatchQueue(job, pool, batch_size, pilot, lambda _: None).run():
            pass
    return pool.clock
