"""What the terminal says about a run that is one shard."""

from __future__ import annotations

from typing import Any

from robustbench_local.counted_nouns import choose_form, format_count


def format_shard_prefix(results: dict[str, Any]) -> str:
    """Format what stands before the numbers of a shard; empty for a whole run.

    Args:
        results: The content of results.json.
    """
    shard = results["shard"]
    return (
        "" if shard is None else f"Shard {shard['index']:,} of {shard['count']:,}, {_format_images(shard)}. "
    )


def format_shard_end(results: dict[str, Any], *, is_complete: bool) -> str:
    """Format the last line about a shard; empty for a whole run.

    Args:
        results: The content of results.json.
        is_complete: Whether the shard has run all that it can.
    """
    shard = results["shard"]
    if shard is None:
        return ""
    name = f"shard {shard['index']:,} of {shard['count']:,}"
    if not is_complete:
        return f"{name} is not complete: the same command goes on with what is left"
    gates = len(results["gates"]["verdicts"])
    wait = f", and decides {choose_form(gates, 'the gate', f'the {gates:,} gates')}" if gates else ""
    return f"{name} is complete ({_format_images(shard)}): rbl merge makes one run of all shards{wait}"


def _format_images(shard: dict[str, Any]) -> str:
    return f"{shard['images']:,} of {format_count(shard['of'], 'image')}"
