"""The course of a load test: answers before, loads, a soak, answers after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from robustbench_local.errors import UnreachableError
from robustbench_local.load_test.answered_images import Predictions, compare_accuracies, predict_sets
from robustbench_local.load_test.generator_ceiling import measure_ceiling
from robustbench_local.load_test.http_connections import Address, HttpConnections
from robustbench_local.load_test.load_findings import list_load_findings
from robustbench_local.load_test.load_loops import LoadWindow
from robustbench_local.load_test.measured_load import (
    BatchClient,
    Load,
    LoadTiming,
    estimate_throughput,
    measure_load,
)
from robustbench_local.load_test.sent_images import CLEAN, SentImages
from robustbench_local.load_test.service import ProcessMeter, ProcessReading, Service
from robustbench_local.load_test.soak import run_soak
from robustbench_local.statistics import Estimate
from robustbench_local.store.load_test_records import (
    Figure,
    LoadResult,
    LoadTestRecord,
    ProcessUse,
    SoakResult,
)

OPEN_LOAD_SHARE = 0.5
"""Rate of the open loop, as a share of the highest rate of a closed one, if none is given."""
_LEVEL = 0.95
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What is measured; times in seconds."""

    batch_sizes: tuple[int, ...]
    """Images in a request."""
    concurrencies: tuple[int, ...]
    """Clients of the closed loops."""
    rates: tuple[float, ...] | None
    """Requests per second of the open loops; None: half of the highest measured rate."""
    warmup: float
    """Before each load."""
    seconds: float
    """Measured time of each load."""
    soak: float
    """Length of the soak; 0 for none."""
    timeout: float
    """After which a request has failed."""
    ceiling_seconds: float
    """Time for the generator's ceiling at each batch size; 0: it is not measured."""
    seed: int
    """Seed of arrivals and of the choice of images."""

    @property
    def timing(self) -> LoadTiming:
        """Times of a load."""
        return LoadTiming(self.warmup, self.seconds, self.timeout, self.seed)


class Subject(NamedTuple):
    """What a load test is about, as its record names it."""

    model: str
    defense: str
    service: str


class _Measured(NamedTuple):
    """A load with its figures and its requests."""

    load: Load
    result: LoadResult
    window: LoadWindow


async def run_load_test(
    service: Service,
    images: SentImages,
    plan: LoadPlan,
    subject: Subject,
    report: Report,
    *,
    pid: int | None = None,
    connect: Callable[[Address], HttpConnections] = HttpConnections,
) -> LoadTestRecord:
    """Test a service under load.

    Args:
        service: The service.
        images: The images to send.
        plan: What to measure.
        subject: Its names in the record.
        report: Receives a line about each step.
        pid: Process of the service on this machine; None: its metrics are read.
        connect: Opens connections to the service.

    Raises:
        UnreachableError: If the service does not answer before any load.
        ModelError: If its answers cannot be read.
    """
    async with connect(service.address) as connections:
        meter = ProcessMeter(connections, pid)
        test = _LoadTest(service, images, plan, connections, report)
        before = await test.predict_images(tolerates_failures=False)
        start = await meter.read_use()
        clients = test.build_clients(before)
        ceilings = await test.measure_ceilings(clients)
        loads = await test.measure_loads(clients, ceilings)
        soak = await test.run_soak(clients, ceilings, meter) if plan.soak else None
        end = await meter.read_use()
        after = await test.predict_images(tolerates_failures=True)
    results = tuple(one.result for one in loads)
    accuracies = tuple(compare_accuracies(images, before, after))
    capacity = select_capacity([one for one in loads if one.load.loop == "closed"])
    return LoadTestRecord(
        **subject._asdict(),
        protocol=service.wire.protocol,
        digest=service.digest,
        images=images.description,
        image_count=len(images.clean),
        warmup_seconds=plan.warmup,
        timeout_seconds=plan.timeout,
        seed=plan.seed,
        loads=results,
        capacity_load=capacity[0] if capacity else None,
        capacity=Figure.from_estimate(capacity[1]) if capacity else None,
        soak=soak,
        accuracies=accuracies,
        process=_describe_use(meter.source, start, end, clients),
        findings=tuple(list_load_findings(results, soak, accuracies, soak_asked=plan.soak > 0)),
    )


def select_capacity(loads: Sequence[_Measured]) -> tuple[str, Estimate] | None:
    """Select the closed loop with the highest throughput.

    Its interval is corrected for the choice (Bonferroni): it was chosen for being high.

    Returns:
        Its name and its throughput; None without closed loops.
    """
    if not loads:
        return None
    best = max(loads, key=lambda one: one.result.throughput.value or 0.0)
    level = 1 - (1 - _LEVEL) / len(loads)
    return best.load.name, estimate_throughput(best.load, best.window, level)


@dataclass(frozen=True)
class _LoadTest:
    """The steps of a load test."""

    service: Service
    images: SentImages
    plan: LoadPlan
    connections: HttpConnections
    report: Report

    async def predict_images(self, *, tolerates_failures: bool) -> Predictions:
        self.report(f"classifying {', '.join(self.images.sets)}")
        return await predict_sets(
            self.service,
            self.connections,
            self.images,
            batch_size=max(self.plan.batch_sizes),
            timeout=self.plan.timeout,
            tolerates_failures=tolerates_failures,
        )

    def build_clients(self, first: Predictions) -> dict[int, BatchClient]:
        """Build the batches of each size; the last images that do not fill one are left out."""
        clients = {}
        for size in self.plan.batch_sizes:
            count, labels = len(self.images.clean), first[CLEAN]
            repeats = -(-size // count)
            order = (list(range(count)) * repeats)[: max(count // size, 1) * size]
            parts = [order[begin : begin + size] for begin in range(0, len(order), size)]
            clients[size] = BatchClient(
                self.connections,
                self.service.wire,
                [self.service.wire.encode_images(self.images.clean[part]) for part in parts],
                [tuple(labels[position] for position in part) for part in parts],
            )
        return clients

    async def measure_ceilings(self, clients: dict[int, BatchClient]) -> dict[int, float | None]:
        if not self.plan.ceiling_seconds:
            return dict.fromkeys(clients)
        self.report("measuring what the generator can send at most")
        ceilings: dict[int, float | None] = {}
        for size, client in clients.items():
            body = client.bodies[0]
            answer = await self.connections.post_body(body.content, body.content_type)
            ceilings[size] = await measure_ceiling(
                self.service,
                client,
                answer.content,
                concurrency=max(self.plan.concurrencies),
                seconds=self.plan.ceiling_seconds,
            )
        return ceilings

    async def measure_loads(
        self, clients: dict[int, BatchClient], ceilings: dict[int, float | None]
    ) -> list[_Measured]:
        measured = []
        for size in self.plan.batch_sizes:
            for concurrency in self.plan.concurrencies:
                load = Load(size, concurrency)
                measured.append(await self._measure_load(load, clients[size], ceilings[size]))
        if not any(one.result.throughput.value for one in measured):
            kinds = ", ".join({kind: None for one in measured for kind in one.result.errors})
            raise UnreachableError(
                f"no request was answered under any load ({kinds})",
                where=self.service.address.url,
                remedy="look at its log, or raise --timeout",
            )
        for rate in self._choose_rates(measured):
            size = self.plan.batch_sizes[0]
            measured.append(await self._measure_load(Load(size, rate=rate), clients[size], ceilings[size]))
        return measured

    def _choose_rates(self, measured: Sequence[_Measured]) -> tuple[float, ...]:
        """Choose the rates of the open loops, in requests of the first batch size."""
        if self.plan.rates is not None:
            return self.plan.rates
        size = self.plan.batch_sizes[0]
        best = max(one.result.throughput.value or 0.0 for one in measured if one.load.batch_size == size)
        return (float(f"{OPEN_LOAD_SHARE * best / size:.2g}"),) if best else ()

    async def _measure_load(self, load: Load, client: BatchClient, ceiling: float | None) -> _Measured:
        result, window = await measure_load(load, client, self.plan.timing, ceiling=ceiling)
        rate, p95 = result.throughput.value, result.p95_ms.value
        latency = "unknown" if p95 is None else f"{p95:.3g} ms"
        self.report(f"{load.name}: {rate or 0:.4g} images/s, p95 {latency}")
        return _Measured(load, result, window)

    async def run_soak(
        self, clients: dict[int, BatchClient], ceilings: dict[int, float | None], meter: ProcessMeter
    ) -> SoakResult:
        """Soak the service with the first batch size and the largest concurrency."""
        size = self.plan.batch_sizes[0]
        load = Load(size, max(self.plan.concurrencies))
        self.report(f"soak of {self.plan.soak:g} s: {load.name}")
        timing = LoadTiming(self.plan.warmup, self.plan.soak, self.plan.timeout, self.plan.seed)
        return await run_soak(load, clients[size], timing, meter.read_use, ceiling=ceilings[size])


def _describe_use(
    source: str, start: ProcessReading | None, end: ProcessReading | None, clients: dict[int, BatchClient]
) -> ProcessUse | None:
    if start is None or end is None:
        return None
    return ProcessUse(
        source=source,
        memory_at_start=start.memory_bytes,
        memory_at_end=end.memory_bytes,
        cpu_seconds=max(0.0, end.cpu_seconds - start.cpu_seconds),
        images=sum(client.checked_images for client in clients.values()),
    )
