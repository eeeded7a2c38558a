"""A shard of a run: one of several parts that have the same grid and different images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from robustbench_local.errors import ConfigError

MAX_SHARDS = 100_000
"""Largest number of shards; more is a mistake."""
AUTO = "auto"
"""Stands for the number of this task among those of its SLURM array or Kubernetes job."""
SLURM_ID, SLURM_COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
SLURM_MIN, SLURM_MAX, SLURM_STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
_OPTION = "--shard"


@dataclass(frozen=True, order=True)
class Shard:
    """One of several parts of a run."""

    index: int
    """Its number, from 1."""
    count: int
    """Number of all shards, at least the index."""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def title(self) -> str:
        """The shard in words, such as ``shard 2 of 8``."""
        return f"shard {self.index:,} of {self.count:,}"

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a shard such as ``2/8``.

        Raises:
            ConfigError: If it is none.
        """
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", text)
        if match is None:
            raise _build_error(
                f"{text!r} is no shard", "give its number and that of all, such as 2/8, auto or auto/8"
            )
        index, count = int(match[1]), int(match[2])
        if not 1 <= count <= MAX_SHARDS:
            raise _build_error(f"{count:,} shards are asked for", f"give 1 to {MAX_SHARDS:,}")
        if not 1 <= index <= count:
            raise _build_error(
                f"there is no shard {index} of {count}",
                f"they are numbered from 1/{count} to {count}/{count}",
            )
        return cls(index, count)


def resolve_shard(text: str, variables: Mapping[str, str] | None = None) -> Shard:
    """Find the shard that an option asks for.

    Args:
        text: ``2/8``; ``auto``, the task of a SLURM array; or ``auto/8``, also that of an indexed Kubernetes
            job, which does not tell its tasks how many they are.
        variables: Environment variables; None: those of this process.

    Raises:
        ConfigError: If the text is no shard, the environment names none or several, or both disagree.
    """
    variables = os.environ if variables is None else variables
    word, slash, rest = text.strip().partition("/")
    if word != AUTO:
        return _check_environment(Shard.from_text(text), variables)
    stated = Shard.from_text(f"1/{rest}").count if slash else None
    found = [
        shard
        for shard in (_read_slurm(variables, stated), _read_kubernetes(variables, stated))
        if shard is not None
    ]
    if not found:
        raise _build_error(
            f"{text} asks the environment, which has neither {SLURM_ID} nor {KUBERNETES_INDEX}",
            "name the shard, such as 2/8",
        )
    if len(set(found)) > 1:
        raise _build_error(
            f"{SLURM_ID} stands for {found[0].title}, {KUBERNETES_INDEX} for {found[1].title}",
            f"name the shard, such as {found[0]}, without the other variable",
        )
    return found[0]


def _check_environment(shard: Shard, variables: Mapping[str, str]) -> Shard:
    """Return a shard that was named, unless this is another task of as many."""
    if variables.get(SLURM_ID) and variables.get(SLURM_COUNT) == str(shard.count):
        other, name = _read_slurm(variables, shard.count), SLURM_ID
        _refuse_contradiction(shard, other, name, variables)
    if variables.get(KUBERNETES_INDEX):
        other, name = _read_kubernetes(variables, shard.count), KUBERNETES_INDEX
        _refuse_contradiction(shard, other, name, variables)
    return shard


def _refuse_contradiction(shard: Shard, other: Shard | None, name: str, variables: Mapping[str, str]) -> None:
    if other is not None and other != shard:
        raise _build_error(
            f"the option names {shard.title}, and {name}={variables[name]} is {other.title}",
            f"give auto/{shard.count}, or unset {name}",
        )


def _read_slurm(variables: Mapping[str, str], stated: int | None) -> Shard | None:
    """Read the task of a SLURM array, whose ids may begin at any number and have a step."""
    if not variables.get(SLURM_ID):
        return None
    number = _read_number(variables, SLURM_ID)
    count = _read_number(variables, SLURM_COUNT) if variables.get(SLURM_COUNT) else stated
    if count is None:
        raise _build_error(
            f"{SLURM_ID} is set and {SLURM_COUNT} is not", "say how many shards there are: auto/8"
        )
    if stated is not None and stated != count:
        raise _build_error(
            f"the option says {stated:,} shards, and {SLURM_COUNT} is {count:,}",
            "give the array as many tasks as there are shards, or name the shard, such as 2/8",
        )
    first, step = _find_first_id(variables, number, count), _find_step(variables, count)
    place, rest = divmod(number - first, step)
    if rest or not 0 <= place < count:
        raise _build_error(
            f"{SLURM_ID}={number} is none of the {count:,} ids from {first} in steps of {step}",
            "give the array consecutive ids, or name the shard, such as 2/8",
        )
    return Shard(place + 1, count)


def _find_first_id(variables: Mapping[str, str], number: int, count: int) -> int:
    """Find the first id of an array; without its variable, only an id at an end tells."""
    if variables.get(SLURM_MIN):
        return _read_number(variables, SLURM_MIN)
    if number in {0, count}:
        return 0 if number == 0 else 1
    raise _build_error(
        f"{SLURM_ID}={number} counts from 0 or from 1, and {SLURM_MIN} is not set",
        "name the shard, such as 2/8",
    )


def _find_step(variables: Mapping[str, str], count: int) -> int:
    """Find the step between the ids of an array, which have to be evenly spaced."""
    step = _read_number(variables, SLURM_STEP) if variables.get(SLURM_STEP) else 0
    if variables.get(SLURM_MIN) and variables.get(SLURM_MAX):
        first, last = _read_number(variables, SLURM_MIN), _read_number(variables, SLURM_MAX)
        span = last - first
        even, rest = divmod(span, count - 1) if count > 1 else (1, span)
        if rest or even < 1 or (step and count > 1 and step != even):
            raise _build_error(
                f"the {count:,} ids of the array from {first} to {last} are not evenly spaced",
                "give the array consecutive ids, or name the shard, such as 2/8",
            )
        return even
    return max(step, 1)


def _read_kubernetes(variables: Mapping[str, str], stated: int | None) -> Shard | None:
    """Read the index of a pod of an indexed job, which counts from 0."""
    if not variables.get(KUBERNETES_INDEX):
        return None
    number = _read_number(variables, KUBERNETES_INDEX)
    if stated is None:
        raise _build_error(
            f"{KUBERNETES_INDEX} says which shard this is, not of how many",
            "give auto/N, where N is the job's completions",
        )
    if number >= stated:
        raise _build_error(
            f"{KUBERNETES_INDEX}={number} is beyond the {stated:,} shards of the option",
            "give auto/N, where N is the job's completions",
        )
    return Shard(number + 1, stated)


def _read_number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name].strip()
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _build_error(f"{name} is {variables[name]!r}, no whole number", "name the shard, such as 2/8")
    return int(text)


def _build_error(problem: str, remedy: str) -> ConfigError:
    return ConfigError(problem, where=_OPTION, remedy=remedy)
