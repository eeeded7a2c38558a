"""``python -m benchmarks.broken_models``: run diagnostics and attacks on every case, and write the tables."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer

from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.case_result import CaseResult, read_result
from benchmarks.broken_models.case_run import run_case
from benchmarks.broken_models.registry import list_models, list_quick_models, list_study_models
from benchmarks.broken_models.study_table import format_catches, format_summary, format_table, write_csv
from benchmarks.page import write_page

_QUICK_IMAGES = 8
_CARDS = "autoattack-linf-8,adaptive-linf-8"


def main(
    folder: Annotated[Path, typer.Option(help="Runs of the cases; a second call continues there.")] = Path(
        "runs/broken_models"
    ),
    names: Annotated[str, typer.Option(help="Only cases whose name holds one of these texts.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Each kind on each of its networks.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases on few images.")] = False,
    images: Annotated[int, typer.Option(help="Most images a case; 0: as the case says.", min=0)] = 0,
    attacks: Annotated[str, typer.Option(help="Comma-separated cards.")] = _CARDS,
    workers: Annotated[int, typer.Option(help="Cases at a time.", min=1)] = 2,
    should_run: Annotated[bool, typer.Option("--run/--no-run", help="Or only read what was run.")] = True,
    out: Annotated[Path | None, typer.Option(help="Put the short table into this page.")] = None,
    table: Annotated[Path | None, typer.Option(help="Write all rows into this CSV file.")] = None,
) -> None:
    """Run every case that this code has not run in the folder yet, and write the tables."""
    cases = _choose_cases(names, every=every, quick=quick)
    limit = _QUICK_IMAGES if quick and not images else images
    if should_run:
        for line in _run_cases(cases, folder.resolve(), attacks.split(","), limit, workers):
            print(line, file=sys.stderr, flush=True)
    read = [read_result(case, folder) for case in cases]
    results = [result for result in read if result is not None]
    missing = [case.name for case, result in zip(cases, read, strict=True) if result is None]
    summary = _format_summary(results, missing)
    ordered = sorted(results, key=lambda result: not result.case.is_sound)
    print("\n\n".join([summary, format_catches(results), format_table(ordered)]))
    if table is not None:
        table.write_text(write_csv(results), encoding="utf-8")
    if out is not None:
        text = f"{summary}\n\n{format_catches(results)}\n"
        write_page(text, out, part="broken models", title="Sound and broken models")


def _choose_cases(names: str, *, every: bool, quick: bool) -> list[ModelCase]:
    if quick:
        return list(list_quick_models())
    cases = sorted(list_models() if every else list_study_models(), key=lambda case: case.is_sound)
    return [case for case in cases if not names or any(part in case.name for part in names.split(","))]


def _run_cases(
    cases: Sequence[ModelCase], folder: Path, attacks: list[str], limit: int, workers: int
) -> Iterator[str]:
    """Run the cases, several of them in processes of their own; yield a line for each."""
    if workers == 1:
        for case in cases:
            yield run_case(case.name, folder, attacks, min(limit or case.images, case.images))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=8) as pool:
        waiting = {
            pool.submit(run_case, case.name, folder, attacks, min(limit or case.images, case.images)): case
            for case in cases
        }
        for job in as_completed(waiting):
            failure = job.exception()
            yield f"{waiting[job].name}: {failure}" if failure else job.result()


def _format_summary(results: list[CaseResult], missing: list[str]) -> str:
    minutes = sum(result.seconds for result in results) / 60
    attacks = ", ".join(dict.fromkeys(card for result in results for card in result.robust))
    written = f"Written on {dt.datetime.now(dt.UTC).date()} with {attacks or 'no attack'}"
    lines = [
        f"{written}, in {minutes:.0f} minutes of CPU time.",
        "",
        format_summary(results),
    ]
    if missing:
        lines.append(f"- Not run: {', '.join(missing)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
