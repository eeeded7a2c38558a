"""The text around the tables: what was run, on what, and how to read it."""

from __future__ import annotations

import datetime as dt
import platform
from pathlib import Path

import torch

import robustbench_local
from benchmarks.measure import BenchmarkResult
from benchmarks.table import render_tables
from robustbench_local.attack_score.peers import PEERS

_EXPLANATION = """\
How to read it:

- *Forward / backward*: passes per image, counted and not estimated.
- *Overhead*: time divided by that of the same passes, in batches of the same sizes, through the bare
  network with frozen parameters. The least possible is 1.
- *Arithmetic alone*: the steps of the paper for one batch, without verdicts, random streams per image, work
  items, counters or guards (`benchmarks/arithmetic.py`).
- *Time / ours*: time divided by that of our first row, on the same images in the same process.
- *Robust*: correctly classified images on which the attack fails, of all n. For methods that search for the
  nearest adversarial example: the median distance over the correctly classified images. Curve-8: at each
  radius.
- *Missed / extra*: images on which only this row succeeds, and on which only our first row does. In
  brackets: what another seed of ours changes, which is the noise. For distances: how often this row is
  nearer by more than 1%, and how often ours is.
- *Operations / questions*: operations beside the network's own, per forward pass, on 8 images; and how
  often the host waits for the device, which costs nothing on a CPU.

All figures are medians over the rounds, which use the seeds 0, 1, 2, ...; verdicts are those of seed 0.
Runs shorter than .2 s are repeated until they have taken that long."""


def render_page(
    results: list[BenchmarkResult], *, command: str, rounds: int, device: str, skipped: list[str]
) -> str:
    """The measured part of a page.

    Args:
        results: What was measured.
        command: The command line that did it.
        rounds: Rounds of every row.
        device: Where.
        skipped: What did not run, one line each.
    """
    cuda = device.startswith("cuda")
    where = torch.cuda.get_device_name() if cuda else f"one thread of a CPU ({_format_cpu_capability()})"
    times = "times are the GPU's own." if cuda else "times are process time, and only ratios are kept."
    lines = [
        f"Written by `{command}` on {dt.datetime.now(dt.UTC).date()}, {where}, {rounds} rounds.",
        f"The methods take turns (A B A B ...) in one process whose allocator keeps freed memory; {times}",
        "",
        _EXPLANATION,
        "",
        render_tables(results, has_times=cuda),
        "",
        "### Versions",
        "",
        _format_versions(),
    ]
    if skipped:
        lines += ["", "### Not run", "", *(f"- {line}" for line in skipped)]
    return "\n".join(lines) + "\n"


def write_page(
    text: str, file: Path, *, part: str = "measured", title: str = "Performance beside other libraries"
) -> None:
    """Put the measured part into a file, between its two marks if it has them; what is around them stays.

    Args:
        text: The part.
        file: The page.
        part: The name in the first mark.
        title: Of a page that is new.
    """
    begin_mark, end_mark = f"<!-- {part} -->", "<!-- end -->"
    before, after = f"# {title}\n\n", ""
    if file.exists() and begin_mark in (old := file.read_text()):
        before, _, rest = old.partition(begin_mark)
        after = rest.partition(end_mark)[2]
    file.write_text(f"{before}{begin_mark}\n\n{text}\n{end_mark}{after}")


def list_missing_libraries() -> list[str]:
    """The peers that are not installed, and how to get them."""
    return [
        f"{peer.name} is absent: `pip install {peer.pip_arguments}`"
        for peer in PEERS
        if not peer.is_installed()
    ]


def _format_versions() -> str:
    parts = [
        f"robustbench-local {robustbench_local.__version__}",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__.partition('+')[0]}",
        *(f"{peer.name} {peer.get_version()}" for peer in PEERS if peer.is_installed()),
    ]
    return ", ".join(parts) + "."


def _format_cpu_capability() -> str:
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
