"""A run of two cells that writes chunk by chunk; started as a process of its own, to be killed.

Usage: python writer.py DIRECTORY CHUNKS
"""

from __future__ import annotations

import sys
from pathlib import Path

from store_samples import IDENTITY, KEY, OTHER_KEY, RESOLVED, arrays, cell, outcome

from robustbench_local.errors import RobustbenchError
from robustbench_local.store import RunStore

CHUNK = 5


def write(directory: Path, chunks: int) -> None:
    with RunStore.create_or_open(directory, resolved=RESOLVED, identity=IDENTITY) as store:
        store.set_meta("seed", 0)
        for place, key in enumerate((KEY, OTHER_KEY)):
            store.put_cell(cell(key, position=place))
            store.set_status(key, "running")
            done = store.positions_done(key)
            for first in range(0, chunks * CHUNK, CHUNK):
                if first not in done:
                    store.save_arrays(key, first, arrays(first, CHUNK))
                    store.add_outcomes(key, [outcome(first + offset, key) for offset in range(CHUNK)])
            store.set_status(key, "done")


if __name__ == "__main__":
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        write(Path(sys.argv[1]), int(sys.argv[2]))
    except RobustbenchError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
