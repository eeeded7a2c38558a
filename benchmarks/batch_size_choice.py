"""``python -m benchmarks.batch_size_choice``: the measured batch size, again and again, idle and busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
from torch import Tensor

from benchmarks.subjects import MODEL_NAMES, load_model
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.execution.batch_size import BatchSizeChoice, tune_batch_size, use_threads

_IMAGES = 64


def main(
    models: Annotated[str, typer.Option(help=f"With commas; of {', '.join(MODEL_NAMES)}.")] = "",
    tries: Annotated[int, typer.Option(help="Tries of each model, idle and busy.", min=1)] = 20,
    loops: Annotated[int, typer.Option(help="Endless loops beside the busy tries.", min=1)] = 2,
    shared: Annotated[Path | None, typer.Option(help="Folder with MNIST and CIFAR checkpoints.")] = None,
) -> None:
    """Print how often each size was chosen; idle means without loops of our own."""
    print("| network | chosen without loops | beside loops | last reason |\n|---|---|---|---|", flush=True)
    for name in models.split(",") if models else MODEL_NAMES:
        model = load_model(name, _IMAGES, shared)
        if model is None:
            continue
        idle, busy = [], []
        for _ in range(tries):  # in turns, so that what else the machine does is the same for both
            idle.append(_choose_size(model.classifier, model.images))
            with _keep_busy(loops):
                busy.append(_choose_size(model.classifier, model.images))
        row = (name, _format_counts(idle), _format_counts(busy), idle[-1].reason)
        print(f"| {' | '.join(row)} |", flush=True)


def _choose_size(classifier: Classifier, images: Tensor) -> BatchSizeChoice:
    with use_threads(1):
        return tune_batch_size(classifier, images)


def _format_counts(choices: list[BatchSizeChoice]) -> str:
    counts = Counter(choice.size for choice in choices)
    return ", ".join(f"{size}: {count}" for size, count in sorted(counts.items()))


@contextmanager
def _keep_busy(loops: int) -> Iterator[None]:
    """Run endless loops in processes of their own while open."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    typer.run(main)
