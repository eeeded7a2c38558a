"""The text around the tables: what was run, on what, and how to read it."""

from __future__ import annotations

import datetime as dt
import platform
from pathlib import Path

import torch

import robustbench_local
from benchmarks.measure import BenchmarkResult
from benchmarks.peers import PEERS
from benchmarks.table import render_tables

_BEGIN_MARK, _END_MARK = "<!-- measured -->", "<!-- end -->"

_EXPLANATION = """\
How to read it:

- *Forward / backward*: passes an image, counted, not estimated.
- *Overhead*: time over that of the same passes, in batches of the same sizes, through the bare network with
  frozen parameters; floor 1.
- *Arithmetic alone*: the paper's steps written out for one batch, with no verdicts, no random stream for each
  image, no work items, no counts and no guards (`benchmarks/arithmetic.py`): what nobody can do without.
- *Time / ours*: how many times longer it takes than our first line, on the same images in the same process.
- *Robust*: images read right, and still read right where the candidate is, of all n. For methods that look
  for the nearest adversarial image: the median distance, over the images read right. Curve-8: at each radius.
- *Missed / extra*: images that only this line broke, and that only our first line broke. In brackets, what
  another seed of our own changes: the noise. For distances: how often this line is nearer by more than 1 %,
  and how often ours is.
- *Operations / questions*: what is dispatched beside the network's own passes, for each forward pass, on 8
  images. A question makes the host wait for the device: on a CPU that is free, and on a GPU ours asks less.

Everything is the median over the rounds, which use the seeds 0, 1, 2, ...; verdicts are those of seed 0. Runs
shorter than .2 s are repeated until so long has been measured."""


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
    times = "times are the GPU's own." if cuda else "times are process time, of which only ratios are kept."
    lines = [
        f"Written by `{command}` on {dt.datetime.now(dt.UTC).date()}, {where}, {rounds} rounds.",
        f"Arms take turns (A B A B ...) in one process, whose allocator keeps freed memory; {times}",
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


def write_page(text: str, file: Path) -> None:
    """Put the measured part into a file, between the two marks if it has them; what is around them stays."""
    before, after = "# Performance beside other libraries\n\n", ""
    if file.exists() and _BEGIN_MARK in (old := file.read_text()):
        before, _, rest = old.partition(_BEGIN_MARK)
        after = rest.partition(_END_MARK)[2]
    file.write_text(f"{before}{_BEGIN_MARK}\n\n{text}\n{_END_MARK}{after}")


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
