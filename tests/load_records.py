"""Records of load tests, for tests of gates and reports."""

from __future__ import annotations

from typing import Any

from robustbench_local.store.load_test_records import (
    AccuracyRow,
    Figure,
    LoadFinding,
    LoadResult,
    LoadTestRecord,
    ProcessUse,
    SoakResult,
    TrendResult,
)


def make_figure(value: float | None, low: float | None, high: float | None, n: int = 400) -> Figure:
    return Figure(value=value, low=low, high=high, n=n)


def make_load(name: str = "b1-c1", **changes: Any) -> LoadResult:
    kind = {"concurrency": None, "rate": 50.0} if "-r" in name else {"concurrency": 1, "rate": None}
    settings = {
        "name": name, "loop": "open" if "-r" in name else "closed", "batch_size": 1, **kind, "seconds": 10.0,
        "requests": 400, "throughput": make_figure(40.0, 38.0, 42.0, 20),
        "p50_ms": make_figure(20.0, 19.0, 21.0),
        "p95_ms": make_figure(50.0, 45.0, 55.0), "p99_ms": make_figure(80.0, 70.0, None), "errors": {},
        "changed_images": 0, "checked_images": 400, "ceiling": 1000.0, "generator_cpu_share": 0.1,
    }  # fmt: skip
    return LoadResult(**settings | changes)


def make_load_test(model: str = "m", **changes: Any) -> LoadTestRecord:
    loads = changes.pop("loads", (make_load(), make_load("b1-r50")))
    accuracy = make_figure(0.9, 0.82, 0.95, 100)
    settings = {
        "model": model, "defense": "none", "service": "http://h/", "protocol": "serve", "digest": "abc",
        "images": "100 images of signs, test", "image_count": 100, "warmup_seconds": 1.0,
        "timeout_seconds": 30.0, "seed": 0, "loads": loads, "capacity_load": "b1-c1",
        "capacity": make_figure(40.0, 37.0, 43.0, 20),
        "soak": None, "process": None, "findings": (),
        "accuracies": (AccuracyRow(images="clean", before=accuracy, after=accuracy, changed=0, n=100),),
    }  # fmt: skip
    return LoadTestRecord(**settings | changes)


def make_soaked_test() -> LoadTestRecord:
    trend = TrendResult(
        quantity="memory", slope=3e6, low=2e6, high=4e6, p_value=0.0002, n=30, start=5e8, is_alarm=True
    )
    use = ProcessUse(
        source="process 7", memory_at_start=5 << 28, memory_at_end=6 << 28, cpu_seconds=4.0, images=400
    )
    finding = LoadFinding(level="problem", text="memory grows <b>fast</b> | here")
    soak = SoakResult(load=make_load(errors={"timeout": 3}), trends=(trend,))
    return make_load_test(soak=soak, process=use, findings=(finding,))
