"""The key of a cell: a digest of everything that decides its verdicts."""

from __future__ import annotations

import hashlib
import json


def cell_key(identity: dict[str, str]) -> str:
    """Return the SHA-256 over a cell's identity, as 64 hex digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
