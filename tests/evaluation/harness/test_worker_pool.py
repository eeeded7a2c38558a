"""Worker processes: the same verdicts whoever works on an image, and nothing lost when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_local.attacks.adapters.libraries import ReferenceAutoAttack
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings, run_batches
from robustbench_local.evaluation.harness.worker_pool import WorkerPool, count_usable_workers
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="worker processes are copies, which needs Linux"
)
THREAT = ThreatModel(norm="Linf", eps=0.02)
ISOLATED = IsolationSettings(isolated=True)


class Around(nn.Module):
    """A module that does something else before it answers."""

    def __init__(self, inner, before):
        super().__init__()
        self.inner, self.before = inner, before

    def forward(self, images):
        self.before(images)
        return self.inner(images)


def task(classifier, data, attack=None):
    attack = attack or PGD(steps=5, restarts=2)
    return AttackJob(key="cell", classifier=classifier, data=data, attack=attack, threat=THREAT, seed=1)


def around(linear, before):
    return Classifier(Around(linear.module, before), num_classes=4, name="around")


def rows(job, heard=None, **options):
    notify = (lambda _line: None) if heard is None else heard.append
    batches = run_batches(job, batch_size=16, notify=notify, **options)
    return sorted((row for batch in batches for row in batch.outcomes), key=lambda row: row.position)


def facts(found):
    """All of an outcome but its share of the time."""
    return [{**vars(row), "seconds": None, "margin": None, "fragile": None} for row in found]


def test_seconds_add_up_to_wall_time(linear, data):
    classifier = around(linear, lambda _images: time.sleep(0.01))
    started = time.perf_counter()
    found = rows(task(classifier, data), workers=3)
    assert sum(row.seconds for row in found) <= time.perf_counter() - started


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_no_verdict_and_no_pass(linear, data, workers):
    alone, shared = rows(task(linear, data)), rows(task(linear, data), workers=workers)
    assert facts(shared) == facts(alone)
    assert [row.position for row in shared] == list(range(len(data)))
    assert [row.margin for row in shared] == pytest.approx([row.margin for row in alone], rel=1e-4, abs=1e-5)


def test_the_work_is_really_done_elsewhere(linear, data, tmp_path):
    def sign(_images):
        (tmp_path / str(os.getpid())).touch()

    rows(task(around(linear, sign), data), workers=2)
    assert len(list(tmp_path.iterdir())) == 2
    assert not (tmp_path / str(os.getpid())).exists()


def test_a_failure_in_a_worker_stays_with_its_image(linear, data):
    cursed = data.images[17].clone()

    def refuse(images):
        if any(torch.allclose(image, cursed, atol=0.03) for image in images):
            raise ValueError("this one")

    heard = []
    found = rows(task(around(linear, refuse), data), heard, workers=2)
    assert [row.image for row in found if row.status == "error"] == ["made/17"]
    assert len(heard) == 1
    assert heard[0].startswith("made/17: around: the model raised ValueError")
    assert len(found) == len(data)


class StubbornError(Exception):
    """Takes more than its message, so that it does not travel."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def test_an_exception_that_cannot_travel_still_speaks(linear, data):
    class Refusing(PGD):
        def perturb(self, *_arguments, **_more):
            raise StubbornError("nothing", "works")

    with pytest.raises(RuntimeError, match="StubbornError: nothing works"):
        rows(task(linear, data, Refusing()), workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_somebody_killed_is_told_and_made_up_for(linear, data, tmp_path, workers):
    def die_once(_images):
        with suppress(FileExistsError):
            (tmp_path / "died").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)

    heard = []
    found = rows(task(around(linear, die_once), data), heard, workers=workers, isolation=ISOLATED)
    assert len(heard) == 1
    assert heard[0].startswith("the model's process ended by signal 9 (SIGKILL), perhaps for lack of memory")
    assert facts(found) == facts(rows(task(linear, data)))


def test_what_a_worker_notes_reaches_the_classifier(linear, data):
    def spoil(_images):
        linear.module.weight.data[0, 0] += 1e-6  # a model that changes while it answers

    classifier = around(linear, spoil)
    rows(task(classifier, data), workers=2)
    assert any("changed while it was attacked" in note for note in classifier.notes)


@pytest.mark.slow
def test_passes_under_way_are_seen_from_outside(linear, data):
    classifier = around(linear, lambda _images: time.sleep(0.1))
    job, seen = task(classifier, data), []
    classifier.record_worker_passes = seen.append
    rows(job, workers=2)
    assert max(seen) > 0
    assert seen[-1] == 0


def test_one_process_where_copies_are_of_no_use(linear, data):
    service = Classifier(linear.module.forward, num_classes=4, access="scores")
    assert count_usable_workers(task(service, data), 4) == 1
    assert count_usable_workers(task(linear, data, ReferenceAutoAttack()), 4) == 1
    assert count_usable_workers(task(linear, data), 4) == 4
    assert count_usable_workers(task(linear, data.select_images([0, 1])), 4) == 2


def test_workers_end_with_the_crew(linear, data):
    with WorkerPool(task(linear, data), 2, prepare_models=nullcontext) as crew:
        crew.run(list(range(8)), 8)
        workers = list(crew._workers)
        assert len(workers) == 2
        assert all(alive(worker.pid) for worker in workers)
    assert not any(alive(worker.pid) for worker in workers)


ORPHANS = """
import time, torch
from contextlib import nullcontext
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.worker_pool import WorkerPool
from robustbench_local.threats.threat_model import ThreatModel

model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
data = Dataset(images=torch.rand(4, 3, 2, 2), labels=torch.zeros(4).long(), ids=tuple("abcd"),
               class_names=("a", "b"), name="made")
job = AttackJob(key="k", classifier=Classifier(model, num_classes=2), data=data, attack=PGD(steps=1),
            threat=ThreatModel(norm="Linf", eps=0.1), seed=0)
with WorkerPool(job, 2, prepare_models=nullcontext) as pool:
    pool.run([0, 1, 2, 3], 4)
    print(*[worker.pid for worker in pool._workers], flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_no_worker_outlives_a_killed_run():
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHANS)], stdout=subprocess.PIPE, text=True
    )
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in workers)


def alive(pid):
    """Whether a process runs; one that waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
