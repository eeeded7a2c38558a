"""The nearest right name for a wrong one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(wrong: str, choices: Iterable[str], *, limit: int = 12) -> str:
    """What to write instead of a name that does not exist.

    Args:
        wrong: What the user wrote.
        choices: The names that exist.
        limit: How many names to list when none is near.

    Returns:
        A remedy in the imperative: the nearest name, or the first few there are.
    """
    names = sorted(choices)
    folded = {name.casefold(): name for name in names}
    near = difflib.get_close_matches(str(wrong).casefold(), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]}?"
    more = ", ..." if len(names) > limit else ""
    return f"use one of {', '.join(names[:limit])}{more}" if names else "there are none to choose from"
