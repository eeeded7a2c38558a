"""``python -m benchmarks``: measure, and write the table."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import typer

from benchmarks import ours
from benchmarks.job import AttackFunction
from benchmarks.measure import BenchmarkResult, measure_row
from benchmarks.page import list_missing_libraries, render_page, write_page
from benchmarks.rows import QUICK_IMAGE_COUNTS, ROWS, BenchmarkRow
from benchmarks.subjects import IMAGE_FACTOR_BY_MODEL, MODEL_NAMES, BenchmarkModel, load_model
from robustbench_local.attack_score.peers import PEERS
from robustbench_local.classifier.device import resolve_device
from robustbench_local.cli.malloc import keep_freed_memory
from robustbench_local.errors import ConfigError

_QUICK_MODEL = "signs-pgd-at"


def main(
    rows: Annotated[str, typer.Option(help="Comma-separated names; by default all.")] = "",
    subjects: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(MODEL_NAMES)}.")] = "",
    image_count: Annotated[int, typer.Option(help="Images a row; 0: as the row says.", min=0)] = 0,
    rounds: Annotated[int, typer.Option(help="Times that every arm runs.", min=1)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A few rows on few images.")] = False,
    device: Annotated[
        str, typer.Option(help="cpu; or cuda, by the device's own clock and with absolute times.")
    ] = "cpu",
    shared: Annotated[Path | None, typer.Option(help="Folder with MNIST and CIFAR checkpoints.")] = None,
    out: Annotated[Path | None, typer.Option(help="Put it into this page too.")] = None,
) -> None:
    """Measure every installed library and ours side by side."""
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        resolve_device(device)
    except ConfigError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    chosen = [row for row in ROWS if _is_wanted(row, rows, quick)]
    peers = {peer.name: peer.load_methods() for peer in PEERS if peer.is_installed()}
    skipped = list_missing_libraries()
    results: list[BenchmarkResult] = []
    for name in MODEL_NAMES:
        if (subjects and name not in subjects.split(",")) or (
            quick and not subjects and name != _QUICK_MODEL
        ):
            continue
        here = [(row, _count_images(row, name, image_count, quick)) for row in chosen if name in row.models]
        subject = load_model(name, max((count for _, count in here), default=1), shared)
        if subject is None:
            skipped.append(f"{name} needs a folder of checkpoints: `--shared FOLDER`")
            continue
        for row, count in here:
            results += _measure_row(row, subject.to(device), count, rounds, peers, device, skipped)
    text = render_page(
        results,
        command=_format_command(shared),
        rounds=rounds,
        device=device,
        skipped=list(dict.fromkeys(skipped)),
    )
    print(text)
    if out is not None:
        write_page(text, out)


def _is_wanted(row: BenchmarkRow, names: str, quick: bool) -> bool:
    if names:
        return row.name.lower() in names.lower().split(",")
    return not quick or row.name in QUICK_IMAGE_COUNTS


def _count_images(row: BenchmarkRow, subject: str, n: int, quick: bool) -> int:
    if n or quick:
        return n or QUICK_IMAGE_COUNTS.get(row.name, row.image_count)
    return row.image_count * IMAGE_FACTOR_BY_MODEL.get(subject, 1)


def _measure_row(
    row: BenchmarkRow,
    subject: BenchmarkModel,
    n: int,
    rounds: int,
    peers: dict[str, dict[str, AttackFunction]],
    device: str,
    skipped: list[str],
) -> list[BenchmarkResult]:
    """The row at each of its radii; nothing if ours does not exist yet."""
    missing = [method for method in row.our_methods if not ours.has_method(method)]
    if missing:
        skipped.append(f"{row.name}: this version has no {missing[0]}")
        return []
    theirs = {name: methods[row.peer_method] for name, methods in peers.items() if row.peer_method in methods}
    results = []
    for level in row.levels or (None,):
        start = time.process_time()
        eps = None if level is None else subject.radii[level]
        results.append(measure_row(row, subject, eps, n, rounds, theirs, device))
        where = f"{subject.name} {row.name}" + (f" {level}" if level else "")
        print(f"{where}: {time.process_time() - start:.0f} s of CPU time", file=sys.stderr, flush=True)
    return results


def _format_command(shared: Path | None) -> str:
    """What was typed, without the reader's folders."""
    words = ["FOLDER" if shared is not None and Path(word) == shared else word for word in sys.argv[1:]]
    return " ".join(["python -m benchmarks", *words])


if __name__ == "__main__":
    typer.run(main)
