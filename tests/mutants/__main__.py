"""Change what decides a verdict, and see a test fail: ``python -m tests.mutants``.

A constant that can be moved without any test noticing decides verdicts that nobody has checked. Each one in
``constants.py`` is moved to either side, in a copy of the package, and the tests named there have to fail.
With ``--harness`` the code of the harness is changed instead, see ``harness_run.py``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "robustbench_local"
sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

from constants import CONSTANTS, VerdictConstant
from forked_call import run_forked
from harness_run import add_arguments, try_harness_mutants


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the mutants; 0 if a test noticed each, 1 if one survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="mutants whose name matches")
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th mutant, beginning with the i-th")
    add_arguments(parser)
    chosen = parser.parse_args(arguments)
    number, of = (int(part) for part in chosen.shard.split("/"))
    import pytest  # noqa: F401 - what every child needs is imported once
    import torch

    torch.set_num_threads(1)
    if chosen.harness:
        sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        return try_harness_mutants(chosen, number, of)
    mutants = [
        (c, v) for c in CONSTANTS for v in c.mutated_values if re.search(chosen.only, f"{c.file} {c.name}")
    ][number - 1 :: of]
    broken = [
        tests for tests in sorted({constant.tests for constant, _ in mutants}) if run_tests(ROOT, tests) != 0
    ]
    if broken:
        print(f"these fail as it is, so that nothing follows: {broken}")
        return 1
    noticed = [is_noticed(constant, value) for constant, value in mutants]
    survivors = [
        f"{c.file}: {c.name} = {v}" for (c, v), seen in zip(mutants, noticed, strict=True) if not seen
    ]
    print("\n".join(f"survived: {line}" for line in survivors))
    print(f"{len(mutants)} mutants, {len(mutants) - len(survivors)} noticed")
    return 1 if survivors else 0


def is_noticed(constant: VerdictConstant, value: str) -> bool:
    """Whether a test of the constant fails once it is changed."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / PACKAGE
        shutil.copytree(ROOT / PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        for name in ("attacks", "defenses", "reports"):  # the cards and the evidence lie beside the package
            (Path(folder) / name).symlink_to(ROOT / name)
        change_constant(copy / constant.file, constant, value)
        return run_tests(Path(folder), constant.tests) == 1  # pytest: tests were run, and some failed


def change_constant(file: Path, constant: VerdictConstant, value: str) -> None:
    """Write another value into a source file.

    Raises:
        ValueError: If the constant does not stand there exactly once.
    """
    text, count = re.subn(
        rf"^(\s*{re.escape(constant.name)}(?:: [\w\[\], ]+)? = ).*$",
        lambda found: found[1] + value,
        file.read_text("utf-8"),
        flags=re.MULTILINE,
    )
    if count != 1:
        raise ValueError(f"{constant.file} has {constant.name} {count} times")
    file.write_text(text, "utf-8")


def run_tests(folder: Path, tests: Sequence[str]) -> int | None:
    """pytest's exit code on the copy in a folder, in a process of its own."""

    def call_pytest() -> int:
        import pytest

        sys.path[:0] = [str(folder), str(ROOT / "tests")]
        sys.dont_write_bytecode = True
        os.chdir(ROOT)
        os.environ["PYTHONPATH"] = str(folder)
        return int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", "not gpu", *tests]))

    return run_forked(call_pytest)


if __name__ == "__main__":
    sys.exit(main())
