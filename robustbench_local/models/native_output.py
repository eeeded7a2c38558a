"""What native libraries print: lines for their developers are kept from the user's terminal."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def hide_log_lines(*prefixes: str) -> Iterator[None]:
    """Keep lines with these beginnings, written while the context is open, from the standard error output.

    A native library writes to the descriptor, past Python's ``sys.stderr``. Other lines follow at the end.
    """
    sys.stderr.flush()
    try:
        original = os.dup(STDERR)
    except OSError:  # closed, as in a service
        yield
        return
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, STDERR)
            os.close(original)
            kept.seek(0)
            for line in kept.read().splitlines(keepends=True):
                if not line.startswith(tuple(prefix.encode() for prefix in prefixes)):
                    os.write(STDERR, line)
