"""Folders of runs for the tests of the view: small ones of every kind, and large ones that cost little."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sample_run import EPS_8_OF_255, SamplePlan, SampleRun, build_run
from store_records import make_outcome_record

from robustbench_local.reports.summary.run_summary_rows import store_summary
from robustbench_local.store import CellRecord, RunStore

PLANS = (
    SamplePlan(attack="fgsm-linf-8", card="fgsm-linf-8", norm="Linf", eps=EPS_8_OF_255, threat="linf-8",
               strength=0.7, passes_per_image=(3, 1)),
    SamplePlan(attack="pgd50-linf-8", card="pgd50-linf-8", norm="Linf", eps=EPS_8_OF_255, threat="linf-8",
               strength=0.97, passes_per_image=(252, 250)),
)  # fmt: skip
SAMPLE = SampleRun(models=("signs-plain", "signs-pgd-at"), images=48, failing_cell=None, plans=PLANS)
GATE = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2}
IDENTITY = {"grid": "sample"}
LARGE_KEY = "a" * 64


def build_sample(folder: Path, sample: SampleRun = SAMPLE, **metadata: Any) -> Path:
    """A finished run with its summary, and with changes in its metadata."""
    build_run(folder, sample)
    with RunStore.create_or_open(folder, resolved_yaml="schema: 1\n", identity=IDENTITY) as store:
        for key, changes in metadata.items():
            store.set_meta(key, {**store.read_meta(key), **changes})
        store_summary(store)
    return folder


def build_large_run(folder: Path, images: int = 10_000, *, has_summary: bool = True) -> Path:
    """A run of one attack on many images."""
    identity = {"grid": "large"}
    with RunStore.create_or_open(folder, resolved_yaml="schema: 1\n", identity=identity) as store:
        store.update_meta(
            {
                "data": {"name": "cifar10", "split": "test", "n": images, "digest": "ab" * 32},
                "environment": {"started": "2026-11-22T10:00:00+00:00", "code": "0.1.0"},
                "gates": [{**GATE, "min": 0.3}],
            }
        )
        store.put_cell(
            CellRecord(
                key=LARGE_KEY, position=0, model="m", defense="none", attack="pgd50-linf-8",
                card="pgd50-linf-8", norm="Linf", eps=8 / 255, threat="linf-8", goal="untargeted",
                images=images,
            )
        )  # fmt: skip
        store.add_outcomes(
            LARGE_KEY,
            [
                make_outcome_record(
                    cell=LARGE_KEY, position=place, image=f"test/{place}", label=0, broken=place % 2 == 0,
                    adversarial_prediction=1 - place % 2, linf=0.03,
                )
                for place in range(images)
            ],
        )  # fmt: skip
        store.set_status(LARGE_KEY, "done")
        if has_summary:
            store_summary(store)
    return folder


def link_copies(run: Path, count: int) -> None:
    """Copies of a run beside it, which take no space."""
    for number in range(1, count):
        copy = run.parent / f"{run.name}-{number:03d}"
        copy.mkdir()
        for file in run.iterdir():
            os.link(file, copy / file.name)


def build_broken_runs(root: Path, sound: Path) -> dict[str, str]:
    """Runs that cannot be read, by path, with a part of the reason that the list gives."""
    content = sound.joinpath("run.db").read_bytes()
    for name in ("damaged", "foreign", "empty", "no-database", "link", "pipe", "copy"):
        (root / name).mkdir()
    (root / "damaged/run.db").write_bytes(content[:5000] + b"\xff" * 4000 + content[9000:])
    with sqlite3.connect(root / "foreign/run.db") as connection:
        connection.execute("CREATE TABLE notes (text)")
    connection.close()
    (root / "empty/run.db").touch()
    (root / "no-database/run.db").write_text("these are my notes")
    (root / "link/run.db").symlink_to(sound / "run.db")
    os.mkfifo(root / "pipe/run.db")
    for name in ("results.json", "run.yaml"):
        (root / "copy" / name).write_text("{}")
    return {
        "damaged": "malformed",
        "foreign": "belongs to another program",
        "empty": "run.db is empty",
        "no-database": "not a readable database",
        "link": "symbolic link",
        "pipe": "not a file",
        "copy": "copy of a report",
    }
