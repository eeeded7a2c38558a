"""Dynamic batching: batches fill up, nobody waits long, and no request can fail another."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra web")
from robustbench_local.serving import analysis_process
from robustbench_local.serving.access_guard import AccessGuard
from robustbench_local.serving.batch_queue import BatchQueue
from robustbench_local.serving.metrics import ServingMetrics
from robustbench_local.serving.problems import ProblemError
from robustbench_local.serving.rate_limit import RateLimiter

pytestmark = pytest.mark.extra


def run_queue(scenario, compute, **options):
    """Run a scenario with a started queue."""
    settings = {"max_batch": 4, "max_wait_seconds": 0.001, "max_waiting": 8, **options}

    async def run():
        with ThreadPoolExecutor(1) as executor:
            queue = BatchQueue(compute, executor, **settings)
            queue.start()
            try:
                return await scenario(queue)
            finally:
                await queue.stop()

    return asyncio.run(run())


def make_images(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_requests_share_batches_and_get_their_own_outputs():
    sizes, gate = [], threading.Event()

    def compute(images):
        gate.wait(5)
        sizes.append(len(images))
        return images.flatten(1) * 2

    async def scenario(queue):
        requests = [asyncio.create_task(queue.submit(make_images(value))) for value in (1.0, 2.0, 3.0)]
        requests.append(asyncio.create_task(queue.submit(make_images(4.0, 5.0))))
        await asyncio.sleep(0.05)
        gate.set()
        return [(await request).flatten().tolist() for request in requests]

    assert run_queue(scenario, compute) == [[2.0], [4.0], [6.0], [8.0, 10.0]]
    assert sizes == [3, 2]  # the last request does not fit into the first batch of four


def test_a_request_larger_than_a_batch_is_split():
    sizes = []

    def compute(images):
        sizes.append(len(images))
        return images.flatten(1)

    outputs = run_queue(lambda queue: queue.submit(make_images(*range(6))), compute)
    assert (outputs.flatten().tolist(), sizes) == ([0, 1, 2, 3, 4, 5], [4, 2])


def test_a_full_queue_refuses_and_recovers():
    gate = threading.Event()

    def compute(images):
        gate.wait(5)
        return images.flatten(1)

    async def scenario(queue):
        first = asyncio.create_task(queue.submit(make_images(0.0)))
        await asyncio.sleep(0.05)  # it is at the model
        waiting = [asyncio.create_task(queue.submit(make_images(*[1.0] * 4))) for _ in range(2)]
        await asyncio.sleep(0)
        assert queue.waiting_count == 8
        with pytest.raises(ProblemError, match="too many images wait") as caught:
            await queue.submit(make_images(2.0))
        gate.set()
        await asyncio.gather(first, *waiting)
        assert queue.waiting_count == 0
        assert (await queue.submit(make_images(3.0))).item() == 3.0
        return caught.value

    problem = run_queue(scenario, compute)
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})


def test_a_request_that_fails_fails_alone():
    def compute(images):
        if (images < 0).any():
            raise ValueError("no negative images")
        return images.flatten(1)

    async def scenario(queue):
        requests = [queue.submit(make_images(value)) for value in (1.0, -1.0, 2.0)]
        return await asyncio.gather(*requests, return_exceptions=True)

    one, bad, two = run_queue(scenario, compute)
    assert (one.item(), two.item()) == (1.0, 2.0)
    assert isinstance(bad, ValueError)


def test_memory_that_runs_out_even_for_one_request_is_an_overload_of_that_request():
    def compute(images):
        if len(images) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return images.flatten(1)

    async def scenario(queue):
        requests = [queue.submit(make_images(*values)) for values in ((1.0,), (2.0, 2.0), (3.0,))]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        return answers, await queue.submit(make_images(4.0))

    (one, both, three), later = run_queue(scenario, compute)
    assert (one.item(), three.item(), later.item()) == (1.0, 3.0, 4.0)
    assert (both.status, both.detail) == (503, "memory ran out for the model; try again later")


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("bad_alloc"), ValueError("odd")])
def test_an_attack_or_an_upload_without_memory_is_an_overload(failure, monkeypatch):
    def fail(*_arguments):
        raise failure

    monkeypatch.setattr(analysis_process, "run_analysis", fail)
    answer = analysis_process._answer_request([], None)
    is_shortage = not isinstance(failure, ValueError)
    assert answer.is_overload == is_shortage

    async def app(_scope, _receive, _send):
        fail()

    sent = []

    async def send(message):
        sent.append(message)

    limits = {"allowed_hosts": (), "is_loopback": False, "limiter": RateLimiter(0, 1), "paths": ()}
    guard = AccessGuard(app, metrics=ServingMetrics(), **limits)
    monkeypatch.setattr(guard, "_check_request", lambda _scope: None)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    asyncio.run(guard(scope, None, send))
    assert sent[0]["status"] == (503 if is_shortage else 500)


def test_a_cancelled_request_is_left_out():
    gate, sizes = threading.Event(), []

    def compute(images):
        gate.wait(5)
        sizes.append(len(images))
        return images.flatten(1)

    async def scenario(queue):
        first = asyncio.create_task(queue.submit(make_images(0.0)))
        await asyncio.sleep(0.05)
        gone, kept = (asyncio.create_task(queue.submit(make_images(value))) for value in (1.0, 2.0))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        await first
        return (await kept).item()

    assert run_queue(scenario, compute) == 2.0
    assert sizes == [1, 1]
