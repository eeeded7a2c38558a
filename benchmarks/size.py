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
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.reports import write_report
from robustbench_local.store import CellRecord, OutcomeRecord, RunStore

_SIDE_PIXELS, _FILES, _CLASSES = 224, 100, 10
_BATCH_IMAGES, _KIB_PER_MIB = 64, 1024
_TEMPORARY_FOLDER = Path(tempfile.gettempdir())
_ATTACKS, _EPS = ("fgsm", "pgd50", "autoattack"), (1, 2, 4, 8, 16)
Figures = dict[str, float]


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
    """Commit the outcomes of a run, and say what the first and the last tenth of the commits cost."""
    seconds = []
    with RunStore.create_or_open(folder, resolved_yaml="", identity={"grid": "size"}) as store:
        store.update_meta(_describe_run(images))
        for number in range(cells):
            cell = _make_cell(number, images)
            store.put_cell(cell)
            for start in range(0, images, _BATCH_IMAGES):
                positions = range(start, min(start + _BATCH_IMAGES, images))
                rows = [_make_outcome(cell, position) for position in positions]
                began = time.process_time()
                store.add_outcomes(cell.key, rows)
                seconds.append((time.process_time() - began) / len(rows))
            store.set_status(cell.key, "done")
    tenth = max(1, len(seconds) // 10)
    return {
        "first_us_per_image": round(1e6 * float(np.median(seconds[:tenth])), 1),
        "last_us_per_image": round(1e6 * float(np.median(seconds[-tenth:])), 1),
    }


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
        path = root / f"class{number % _CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(base / f"{number % _FILES}.jpg", path)
    return root


def _describe_run(images: int) -> dict[str, object]:
    names = [f"class {label}" for label in range(_CLASSES)]
    data = {"name": "size", "split": "test", "n": images, "image_shape": [3, 224, 224], "class_names": names}
    models = [{"id": f"model {number}", "num_classes": _CLASSES} for number in range(2)]
    return {"data": data, "models": models, "gates": [], "seed": 0, "environment": {}, "grid": {}}


def _make_cell(number: int, images: int) -> CellRecord:
    model, column = number % 2, number // 2
    attack, eps = _ATTACKS[column % len(_ATTACKS)], _EPS[column // len(_ATTACKS) % len(_EPS)]
    name = f"{attack}-linf-{eps}" + ("" if number < 30 else f"-{number}")
    return CellRecord(
        key=f"{number:064x}", position=number, model=f"model {model}", defense="none", attack=name,
        card=attack, norm="Linf", eps=eps / 255, threat=f"linf-{eps}", goal="untargeted", images=images,
    )  # fmt: skip


def _make_outcome(cell: CellRecord, position: int) -> OutcomeRecord:
    rng, label = np.random.default_rng([position, cell.position % 2]), position % _CLASSES
    correct = bool(rng.random() < 0.9)
    broken = correct and bool(rng.random() < min(0.95, 20 * cell.eps))
    other = (label + 1 + int(rng.integers(_CLASSES - 1))) % _CLASSES
    return OutcomeRecord(
        cell=cell.key, position=position, image=f"class{label}/{position}.jpg", label=label,
        clean_prediction=label if correct else other,
        adversarial_prediction=label if correct and not broken else other, clean_correct=correct,
        broken=broken, moved_elsewhere=False, margin=0.5 if broken else float(rng.normal()),
        fragile=False, linf=cell.eps, l2=float(rng.random()), l1=float(rng.random()),
        broken_8bit=True if broken else None,
        forward_passes=int(rng.integers(1, 500)), backward_passes=50, seconds=float(rng.random()),
        status="ok" if correct else "clean-wrong", original_hash=f"{position:016x}",
        adversarial_hash=f"{position + 1:016x}",
    )  # fmt: skip


def _get_peak_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_MIB)


def _get_cpu_seconds() -> float:
    return round(time.process_time(), 1)


if __name__ == "__main__":
    typer.run(main)
