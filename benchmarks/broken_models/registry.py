"""All cases: each kind on each of its networks that can be built here."""

from __future__ import annotations

import csv
from functools import cache, partial
from pathlib import Path

from benchmarks.broken_models.case import ModelCase, ModelKind
from benchmarks.broken_models.composed_kinds import COMPOSED_KINDS
from benchmarks.broken_models.false_gradient_kinds import FALSE_GRADIENT_KINDS
from benchmarks.broken_models.format_kinds import FORMAT_KINDS
from benchmarks.broken_models.input_kinds import INPUT_KINDS
from benchmarks.broken_models.layer_kinds import LAYER_KINDS
from benchmarks.broken_models.networks import NETWORKS, list_available
from benchmarks.broken_models.output_kinds import OUTPUT_KINDS
from benchmarks.broken_models.plain_sound_kinds import PLAIN_SOUND_KINDS
from benchmarks.broken_models.pretence_kinds import PRETENCE_KINDS
from benchmarks.broken_models.random_kinds import RANDOM_KINDS
from benchmarks.broken_models.sound_kinds import SOUND_KINDS
from benchmarks.broken_models.stateful_kinds import STATEFUL_KINDS
from benchmarks.broken_models.table_kinds import TABLE_KINDS
from benchmarks.broken_models.trained_kinds import TRAINED_KINDS
from benchmarks.broken_models.wave_kinds import WAVE_KINDS

BROKEN_KINDS = (
    *TRAINED_KINDS,
    *INPUT_KINDS,
    *OUTPUT_KINDS,
    *LAYER_KINDS,
    *RANDOM_KINDS,
    *COMPOSED_KINDS,
    *STATEFUL_KINDS,
    *FORMAT_KINDS,
    *PRETENCE_KINDS,
    *WAVE_KINDS,
    *FALSE_GRADIENT_KINDS,
    *TABLE_KINDS,
)
"""Kinds whose robustness number cannot be believed without more work."""
HONEST_FILE = Path(__file__).with_name("honest.csv")
"""Robust accuracy under the strongest attack made by hand, see ``honest.py``."""
QUICK_KINDS = (
    "float64",
    "logits x10",
    "log-softmax output",
    "blur",
    "black border",
    "left in training mode",
    "rounded input",
    "JPEG without BPDA",
    "logits x1000",
    "saturated softmax output",
    "label only",
    "detached features",
    "flipped backward",
    "zero backward",
    "dropout always on",
    "majority of labels",
    "cache of near images",
    "switch by gradient mode",
)
"""Six sound and twelve broken kinds that stand for the others."""
_FALLBACK = {
    "cifar10": "signs",
    "mnist": "signs-at",
    "mnist-trades": "signs-trades",
    "mnist-convex": "signs-ibp",
    "gtsrb": "signs",
}
"""A shipped network for each that needs the folder of published checkpoints."""


def list_models() -> tuple[ModelCase, ...]:
    """All cases that can be built here, the sound ones first.

    Without the folder of published checkpoints a kind is built on shipped networks instead, once each.
    """
    available = list_available()
    cases = []
    for kind in (*SOUND_KINDS, *PLAIN_SOUND_KINDS, *BROKEN_KINDS):
        names = (name if name in available else _FALLBACK[name] for name in kind.networks)
        cases += [_make_case(kind, name) for name in dict.fromkeys(names)]
    return tuple(cases)


def list_study_models() -> tuple[ModelCase, ...]:
    """Each broken kind on the first of its networks, and all sound cases."""
    first = _list_first_cases()
    return tuple(case for case in list_models() if case.is_sound or case.name == first[case.kind].name)


def list_quick_models() -> tuple[ModelCase, ...]:
    """A few kinds, each on the first of its networks."""
    first = _list_first_cases()
    return tuple(first[kind] for kind in QUICK_KINDS)


def _list_first_cases() -> dict[str, ModelCase]:
    return {case.kind: case for case in reversed(list_models())}


def find_model(name: str) -> ModelCase:
    """The case of that name.

    Raises:
        KeyError: If there is none.
    """
    return {case.name: case for case in list_models()}[name]


def _make_case(kind: ModelKind, network_name: str) -> ModelCase:
    base = NETWORKS[network_name]
    name = f"{kind.name} on {network_name}"
    return ModelCase(
        name=name,
        is_sound=kind.is_sound,
        kind=kind.name,
        build=partial(kind.build, base),
        data=base.data,
        threat=base.threat,
        expected=kind.expected,
        honest_verdicts=read_honest_verdicts().get(name, ()),
        images=min(kind.images or base.images, base.images),
        clean_floor=kind.clean_floor,
    )


@cache
def read_honest_verdicts() -> dict[str, tuple[bool, ...]]:
    """For each case whether its first images are robust."""
    if not HONEST_FILE.exists():
        return {}
    with HONEST_FILE.open(encoding="utf-8", newline="") as lines:
        return {row["case"]: tuple(mark == "1" for mark in row["robust"]) for row in csv.DictReader(lines)}
