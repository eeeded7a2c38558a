"""A service in virtual time: its answers, delays, memory and faults are those that a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import torch

from robustbench_local.load_test.http_connections import Address, HttpAnswer, RequestError
from robustbench_local.load_test.run_load_test import LoadPlan, Subject, run_load_test
from robustbench_local.load_test.sent_images import SentImages
from robustbench_local.load_test.service import Service
from robustbench_local.load_test.wire_formats import WireFormat

MEBIBYTE = 1 << 20


class FakeService:
    """Classifies images of one pixel by rounding it; takes the place of `HttpConnections`."""

    def __init__(
        self,
        *,
        seconds: Callable[[float], float] = lambda _now: 0.1,
        memory: Callable[[int], float] = lambda _requests: 100.0 * MEBIBYTE,
        fault: Callable[[int], str] = lambda _number: "",
        shift: Callable[[float], int] = lambda _now: 0,
        workers: int = 1,
    ) -> None:
        self.seconds, self.memory, self.fault, self.shift = seconds, memory, fault, shift
        self.slots, self.requests = asyncio.Semaphore(workers), 0
        self.address = Address("http://fake/", "fake", 80, "/", False, ())

    def __call__(self, _address: Address) -> FakeService:
        return self

    async def __aenter__(self) -> FakeService:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass

    async def post_body(self, body: bytes, content_type: str) -> HttpAnswer:
        assert content_type == "application/json"
        self.requests += 1
        number, loop = self.requests, asyncio.get_running_loop()
        async with self.slots:
            await asyncio.sleep(self.seconds(loop.time()))
        fault = self.fault(number)
        if fault.isdigit():
            return HttpAnswer(int(fault), b"{}")
        if fault:
            raise RequestError(fault)
        shift = self.shift(loop.time())
        labels = [round(9 * image[0][0][0]) + shift for image in json.loads(body)["images"]]
        return HttpAnswer(200, json.dumps({"labels": labels}).encode())

    async def get(self, target: str) -> HttpAnswer:
        assert target == "/metrics"
        text = f"# HELP\nprocess_resident_memory_bytes {self.memory(self.requests):.0f}\n"
        return HttpAnswer(200, f"{text}process_cpu_seconds_total {0.01 * self.requests}\n".encode())


PLAN = LoadPlan(
    batch_sizes=(1, 4), concurrencies=(1, 2), rates=None, warmup=1.0, seconds=10.0, soak=0.0, timeout=5.0,
    ceiling_seconds=0.0, seed=0,
)  # fmt: skip


def make_images(count: int = 8, wrong: int = 1) -> SentImages:
    """Images whose one pixel says the class; the last ones have another label."""
    classes = [number % 4 for number in range(count)]
    labels = tuple(one + (number >= count - wrong) for number, one in enumerate(classes))
    pixels = torch.tensor(classes, dtype=torch.float32).reshape(-1, 1, 1, 1) / 9
    ids = tuple(f"image {number}" for number in range(count))
    return SentImages("8 images of a test", pixels, ids, labels, {"fog-3": pixels + 0.2 / 9})


async def run_fake_test(fake: FakeService, plan: LoadPlan):
    """Run a load test on it."""
    service = Service(address=fake.address, wire=WireFormat("json"), name="fake", digest="d1")
    lines: list[str] = []
    subject = Subject("m", "none", "http://fake/")
    record = await run_load_test(service, make_images(), plan, subject, lines.append, connect=fake)
    return record, lines
