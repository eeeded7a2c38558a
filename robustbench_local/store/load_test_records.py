"""Records of a load test: loads, a soak, accuracies before and after, and the use of memory."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from robustbench_local.statistics import Estimate

LoopKind = Literal["closed", "open"]
"""``closed``: each client sends its next request when the last one is answered; ``open``: requests arrive at
random times, whatever the service does."""
NO_DEFENSE = "none"
"""Stands for a model without a defense."""
FindingLevel = Literal["problem", "note"]
Text = Annotated[str, Field(max_length=2000)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    """A record that is checked when it is read, since the file may come from anywhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Figure(_Record):
    """A measured figure with its interval; None is infinite, or unknown where ``n`` is 0."""

    value: Amount | None
    """The figure."""
    low: Amount | None
    """Lower end of the interval."""
    high: Amount | None
    """Upper end of the interval."""
    n: Count
    """Number of values that it rests on."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Confidence of the interval."""

    @classmethod
    def from_estimate(cls, estimate: Estimate) -> Figure:
        """Convert an estimate, whose numbers may be infinite or NaN."""
        value, low, high = (
            number if math.isfinite(number) else None
            for number in (estimate.value, estimate.low, estimate.high)
        )
        return cls(value=value, low=low, high=high, n=estimate.n, level=estimate.level)

    def to_estimate(self) -> Estimate:
        """Return it as an estimate."""
        if not self.n:
            return Estimate(value=math.nan, low=0.0, high=math.inf, n=0, level=self.level)
        value, low, high = (math.inf if end is None else end for end in (self.value, self.low, self.high))
        return Estimate(value=value, low=low, high=high, n=self.n, level=self.level)


class LoadResult(_Record):
    """What was measured under one load; latencies in milliseconds."""

    name: Text
    """Name of the load in gates: ``b8-c4`` for 8 images a request and 4 clients, ``b1-r50`` for 50 requests a
    second."""
    loop: LoopKind
    """How requests are sent."""
    batch_size: Annotated[int, Field(ge=1)]
    """Images in each request."""
    concurrency: Annotated[int, Field(ge=1)] | None
    """Clients of a closed loop."""
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
    """Requests per second of an open loop."""
    seconds: Amount
    """Length of the measured time."""
    requests: Count
    """Requests that were meant to be sent in it."""
    throughput: Figure
    """Answered images per second; ``n`` is the number of slices of time."""
    p50_ms: Figure
    """Median latency. A failed request counts as slower than every answered one."""
    p95_ms: Figure
    """The same for 95% of the requests."""
    p99_ms: Figure
    """The same for 99%."""
    errors: dict[Text, Count]
    """Failed requests by kind."""
    changed_images: Count
    """Images whose answer differs from the first one for the same image."""
    checked_images: Count
    """Images whose answers were compared."""
    ceiling: Amount | None
    """Images per second that the generator gets from a server that does nothing."""
    generator_cpu_share: Amount | None
    """CPU seconds of the generator per second."""

    @property
    def failed_requests(self) -> int:
        """Number of failed requests."""
        return sum(self.errors.values())


class TrendResult(_Record):
    """The trend of a quantity over a soak, per minute."""

    quantity: Literal["throughput", "latency", "memory"]
    """Images per second, the median latency in milliseconds, or bytes of resident memory."""
    slope: Number
    """Change per minute."""
    low: Number
    """Lower end of its 99% interval."""
    high: Number
    """Upper end."""
    p_value: Annotated[float, Field(ge=0, le=1)]
    """Two-sided p-value of Mann and Kendall's test."""
    n: Count
    """Number of values."""
    start: Number
    """Median of the first tenth of the values."""
    is_alarm: bool
    """Whether it is found and large enough to matter."""


class SoakResult(_Record):
    """The behaviour over time under one load."""

    load: LoadResult
    """The load and its figures over the whole soak."""
    trends: tuple[TrendResult, ...]
    """Trends of throughput, latency and memory; a quantity that was not measured is missing."""


class AccuracyRow(_Record):
    """Accuracy of the service on one set of images, before the loads and after them."""

    images: Text
    """``clean``, or a corruption with its severity."""
    before: Figure
    """Accuracy before; unknown without labels."""
    after: Figure
    """Accuracy after."""
    changed: Count
    """Images whose answer is another one after the loads."""
    n: Count
    """Images in the set."""


class ProcessUse(_Record):
    """What the process of the service used."""

    source: Text
    """Where the figures come from: the service's metrics, or a process of this machine."""
    memory_at_start: Count
    """Resident bytes before the loads, once the service has answered."""
    memory_at_end: Count
    """Resident bytes after them."""
    cpu_seconds: Amount
    """CPU seconds between the two."""
    images: Count
    """Images answered between the two."""


class LoadFinding(_Record):
    """Something that a reader has to know."""

    level: FindingLevel
    """``problem``: of the service; ``note``: about the measurement."""
    text: Text
    """One sentence."""


class LoadTestRecord(_Record):
    """One load test of one model."""

    model: Text
    """Id of the model in the run, or its name."""
    defense: Text
    """Name of its defense; ``none`` without one."""
    service: Text
    """Address of the service without credentials, or the source that was served for the test."""
    protocol: Literal["serve", "json", "png"]
    """The form of requests and answers."""
    digest: Text | None
    """Digest of the served model, if the service says it."""
    images: Text
    """The images that were sent."""
    image_count: Count
    """Their number."""
    warmup_seconds: Amount
    """Time before each load that is not measured."""
    timeout_seconds: Amount
    """Time after which a request has failed."""
    seed: Count
    """Seed of arrivals and choices."""
    loads: tuple[LoadResult, ...]
    """Closed loops over batch sizes and concurrencies, then open loops."""
    capacity_load: Text | None
    """Name of the closed loop with the highest throughput."""
    capacity: Figure | None
    """Its throughput, with an interval corrected for the choice among the closed loops."""
    soak: SoakResult | None
    """The soak, if there was one."""
    accuracies: tuple[AccuracyRow, ...]
    """Answers to held-out images and corruptions, before and after."""
    process: ProcessUse | None
    """Memory and CPU, where they could be read."""
    findings: tuple[LoadFinding, ...]
    """What a reader has to know, problems first."""


class LoadTestFile(_Record):
    """The content of ``load_test.json``."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    """Version of the file format."""
    tests: tuple[LoadTestRecord, ...]
    """One load test for each model; a later one of the same model replaces the earlier."""
    sha256: Text
    """Digest of the tests, so that a damaged file is not read."""
