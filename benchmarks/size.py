"""``python -m benchmarks.size``: memory and time of large data and large reports.

Every figure is measured in a process of its own. Photographs are links to a hundred JPEG files of 224 x 224
pixels; the run is made of outcomes without a model.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.size_run import CLASSES, describe_run, make_cell, make_outcomes
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.reports import write_report
from robustbench_local.store import OutcomeRecord, RunStore

_SIDE_PIXELS, _FILES = 224, 100
_BATCH_IMAGES, _KIB_PER_MIB = 64, 1024
_TEMPORARY_FOLDER = Path(tempfile.gettempdir())
_MOMENTS = (("start", 0.0), ("third", 1 / 3), ("end", 1.0))
"""When commits are measured, as a share of the outcomes."""
_COMMITS, _FILLED_IMAGES = 20, 5000
"""Commits that are measured at each moment; outcomes of each of the others."""
Figures = dict[str, Any]


def main(
    photographs: Annotated[str, typer.Option(help="Numbers of photographs to load.")] = "5000,50000",
    images: Annotated[int, typer.Option(help="Images of each cell of the report; 0: none.")] = 50_000,
    cells: Annotated[int, typer.Option(help="Cells of the report.")] = 30,
    job: Annotated[str, typer.Option(hidden=True)] = "",
    folder: Annotated[Path, typer.Option(help="Folder with room for the files.")] = _TEMPORARY_FOLDER,
) -> None:
    """Print one JSON object for each figure."""
    if job:
        measure = {"load": _load, "append": _append, "report": _report}[job]
        print(json.dumps(measure(folder, images, cells)))
        return
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for count in map(int, filter(None, photographs.split(","))):
            root = _link_photographs(Path(scratch), count)
            _measure("load", root, count, 0)
        if images:
            run = Path(scratch, "run")
            _measure("append", run, images, cells)
            _measure("report", run, images, cells)


def _measure(job: str, folder: Path, images: int, cells: int) -> None:
    command = [sys.executable, "-m", "benchmarks.size", "--job", job, "--folder", str(folder)]
    command += ["--images", str(images), "--cells", str(cells)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    about = {"job": job, "images": images, **({"cells": cells} if cells else {})}
    print(json.dumps(about | json.loads(answer.stdout)), flush=True)


def _load(folder: Path, _images: int, _cells: int) -> Figures:
    """Decode photographs, compute their digest, and read a few batches."""
    before = _get_peak_mib()
    data = load_dataset(f"folder:{folder}")
    data.compute_digest()
    for start in range(0, min(len(data), 10 * _BATCH_IMAGES), _BATCH_IMAGES):
        data.select_images(range(start, min(start + _BATCH_IMAGES, len(data)))).load_images()
    return {"start_mib": before, "peak_mib": _get_peak_mib(), "cpu_seconds": _get_cpu_seconds()}


def _append(folder: Path, images: int, cells: int) -> Figures:
    """Commit the outcomes of a run, and say what a commit costs at the start, a third and the end."""
    total = images * cells
    moments = {max(0, int(share * total) - _COMMITS * _BATCH_IMAGES): name for name, share in _MOMENTS}
    figures: Figures = {}
    with RunStore.create_or_open(folder, resolved_yaml="", identity={"grid": "size"}) as store:
        store.update_meta(describe_run(images))
        for number in range(cells):
            cell = make_cell(number, images)
            store.put_cell(cell)
            rows = make_outcomes(cell)
            while rows:
                known = number * images + images - len(rows)
                if known in moments:
                    figures[moments[known]], count = _measure_commits(store, cell.key, rows)
                else:
                    until_next = min((moment - known for moment in moments if moment > known), default=total)
                    count = min(_FILLED_IMAGES, until_next)
                    store.add_outcomes(cell.key, rows[:count])
                rows = rows[count:]
            store.set_status(cell.key, "done")
    return figures


def _measure_commits(store: RunStore, key: str, rows: Sequence[OutcomeRecord]) -> tuple[Figures, int]:
    """Commit some batches, and return what one of them costs, with the number of outcomes."""
    connection = store._connection  # noqa: SLF001 - it counts pages and rows
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    changes, seconds, count = connection.total_changes, [], 0
    while count < len(rows) and len(seconds) < _COMMITS:
        batch = rows[count : count + _BATCH_IMAGES]
        began = time.process_time()
        store.add_outcomes(key, batch)
        seconds.append((time.process_time() - began) / len(batch))
        count += len(batch)
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    figures = {
        "us_per_image": round(1e6 * float(np.median(seconds)), 1),
        "pages_per_commit": round(pages / len(seconds), 1),
        "rows_per_commit": round((connection.total_changes - changes) / len(seconds), 1),
    }
    return figures, count


def _report(folder: Path, _images: int, _cells: int) -> Figures:
    began = time.perf_counter()
    write_report(folder)
    seconds = round(time.perf_counter() - began, 1)
    return {"peak_mib": _get_peak_mib(), "cpu_seconds": _get_cpu_seconds(), "seconds": seconds}


def _link_photographs(scratch: Path, count: int) -> Path:
    """Return a folder with this many photographs in ten classes."""
    base, rng = scratch / "files", np.random.default_rng(0)
    base.mkdir(exist_ok=True)
    for number in range(_FILES):
        coarse = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
        side = (_SIDE_PIXELS, _SIDE_PIXELS)
        Image.fromarray(coarse).resize(side, Image.Resampling.BILINEAR).save(base / f"{number}.jpg")
    root = scratch / f"photographs{count}"
    for number in range(count):
        path = root / f"class{number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(base / f"{number % _FILES}.jpg", path)
    return root


def _get_peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_MIB)


def _get_cpu_seconds() -> float:
    return round(time.process_time(), 1)


if __name__ == "__main__":
    typer.run(main)
