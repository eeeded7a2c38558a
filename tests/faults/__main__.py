"""Try faults as a command: ``python -m tests.faults --seed N --minutes M``.

Every kind is tried once; what time is left goes to further variants of those that have them. It prints, for
each family, how many were tried and how many went as specified, and how to repeat each one that did not.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that is forked must not have used OpenMP

import damaged_stores  # noqa: F401 - each registers its faults
import hostile_files  # noqa: F401
import hostile_models  # noqa: F401
import hostile_services  # noqa: F401
import mutated_grids  # noqa: F401
import random_kills  # noqa: F401
import short_memory  # noqa: F401
import wrong_numbers  # noqa: F401
from fault import FAULTS, Fault
from workplace import DeviationError, make_fresh_workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the chosen faults; 0 if all went as specified, else 1."""
    chosen = read_arguments(arguments)
    faults = [f for f in FAULTS if all(word in f"{f.family}: {f.name}" for word in chosen.only)]
    if chosen.list or not faults:
        print("\n".join(f"{f.family}: {f.name}" for f in faults) or "no such fault")
        return 0 if faults else 2
    import_everything()
    tried: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        for fault, seed in schedule_faults(faults, chosen.seed, chosen.minutes * 60, shard=chosen.shard):
            tried[fault.family] += 1
            failure = try_once(fault, seed, Path(folder) / "workplace")
            if failure:
                failures.append(f"{fault.family}: {fault.name} (--draw {seed}): {failure}")
                print(f"deviation: {failures[-1]}", flush=True)
            elif chosen.verbose:
                print(f"as specified: {fault.family}: {fault.name}", flush=True)
    print_table(tried, failures)
    return 1 if failures else 0


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="decides every draw and the order")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with further variants for so long")
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORDS", help="kinds whose name has these words"
    )
    parser.add_argument("--draw", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--shard", default="1/1", help="i/n: every n-th kind, beginning with the i-th")
    parser.add_argument("--list", action="store_true", help="name the kinds and stop")
    parser.add_argument("--verbose", action="store_true", help="name each one that went as specified, too")
    chosen = parser.parse_args(arguments)
    if chosen.draw is not None:
        chosen.seed, chosen.minutes = chosen.draw, 0.0
    number, of = (int(part) for part in chosen.shard.split("/"))
    chosen.shard = (number, of)
    return chosen


def import_everything() -> None:
    """Import once what any command imports when it first needs it: the commands are forked from here."""
    import torch

    import robustbench_local

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for library in ("torchvision", "pandas", "matplotlib.pyplot", "scipy.stats"):
        importlib.import_module(library)
    for module in pkgutil.walk_packages(robustbench_local.__path__, "robustbench_local."):
        if module.name.endswith("__main__") or ".attack_score.peers." in module.name:
            continue  # no fault is about the adapters of other libraries
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as absent:  # a library that only an extra installs
            if (absent.name or "").startswith("robustbench_local"):
                raise


def schedule_faults(
    faults: Sequence[Fault], seed: int, seconds: float, *, shard: tuple[int, int] = (1, 1)
) -> Iterator[tuple[Fault, int]]:
    """Every kind of this shard once, then those with variants in turn until the time is up.

    Yields:
        A fault, and the seed of its draws, which repeats it alone.
    """
    began = time.monotonic()
    mine = list(faults[shard[0] - 1 :: shard[1]])
    random.Random(seed).shuffle(mine)
    yield from ((fault, seed) for fault in mine)
    varied = [fault for fault in mine if fault.has_variants]
    number = seed
    while varied and time.monotonic() - began < seconds:
        number += 1
        for fault in varied:
            if time.monotonic() - began < seconds:
                yield fault, number


def try_once(fault: Fault, seed: int, folder: Path) -> str | None:
    """What the tool did otherwise than specified; None if nothing."""
    draw = random.Random(f"{seed} {fault.name}")
    try:
        fault.trial(make_fresh_workspace(folder), draw)
    except DeviationError as deviation:
        return "\n    ".join([str(deviation), *getattr(deviation, "__notes__", ())])
    except Exception as error:  # noqa: BLE001 - what a trial does not find where it should be is one, too
        return f"{type(error).__name__}: {error}"
    return None


def print_table(tried: Counter[str], failures: Sequence[str]) -> None:
    """The table, and what did not go as specified."""
    wrong = Counter(failure.partition(":")[0] for failure in failures)
    print(f"{'family':20} {'tried':>6} {'as specified':>13}")
    for family, count in sorted(tried.items()):
        print(f"{family:20} {count:6} {count - wrong[family]:13}")
    print(f"{'all':20} {tried.total():6} {tried.total() - len(failures):13}")


if __name__ == "__main__":
    sys.exit(main())
