"""No step of a search asks the device for a value, which a GPU would have to finish its queue for.

Operations are counted as they are dispatched, so that a CPU shows it too. Ages are kept on the host, and one
shortcut of the projection asks only there: they cost a GPU nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import pytest
from attack_samples import Sample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.core.search import Search
from robustbench_local.threats.threat_model import ThreatModel

ASKING_OPERATIONS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
INDEXING_OPERATIONS = {"index", "index_put", "index_put_"}
ON_THE_HOST = {("work_items.py", "compute_age_range"), ("hyperplane_projection.py", "_solve_water_level")}
"""Functions of `core/` that ask tensors of the host."""


class AskCounter(TorchDispatchMode):
    """Counts operations that wait for a value, by the function of the package that asks."""

    def __init__(self, counts: Counter[tuple[str, str]]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_indexed = name in INDEXING_OPERATIONS and any(
            isinstance(index, Tensor) and not index.dtype.is_floating_point and index.dtype.itemsize == 1
            for index in args[1]
        )
        if name in ASKING_OPERATIONS or is_indexed:
            self.counts[_find_asking_function()] += 1
        return func(*args, **(kwargs or {}))


def _find_asking_function() -> tuple[str, str]:
    frame = sys._getframe(2)
    while frame is not None and "robustbench_local/" not in frame.f_code.co_filename:
        frame = frame.f_back
    return (frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name) if frame else ("", "")


def _list_searches(kind: type) -> list[type]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in _list_searches(below))]


def count_asking(sample: Sample, name: str, threat: ThreatModel, monkeypatch, **settings) -> Counter:
    counts: Counter[tuple[str, str]] = Counter()

    def watch(step):
        def run(*arguments):
            counts["steps", ""] += 1
            with AskCounter(counts):
                return step(*arguments)

        return run

    attack = replace(make_attack(name), **settings)
    for kind in _list_searches(Search):
        if "step" in vars(kind):
            monkeypatch.setattr(kind, "step", watch(kind.step))
    sample.attack(attack, threat)
    return counts


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pgd", {"steps": 4}),
        ("apgd", {"steps": 12}),
        ("apgd-t", {"steps": 12}),
        ("fab-t", {"steps": 6}),
        ("square", {"queries": 24}),
        ("fmn", {"steps": 6}),
    ],
)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_step_asks_the_device(small: Sample, name, settings, norm, monkeypatch):
    few = small.select_images(slice(0, 4))
    threat = ThreatModel(norm=norm, eps="2/255" if norm == "Linf" else 0.1)
    counts = count_asking(few, name, threat, monkeypatch, **settings)
    assert counts.pop(("steps", "")) >= 4
    assert set(counts) <= ON_THE_HOST


def test_a_step_that_asks_is_found(small: Sample, monkeypatch):
    from robustbench_local.attacks.pgd import PGDSearch

    step = PGDSearch.step

    def ask(search, front, state, evaluation):
        return step(search, front, state, evaluation) if bool(evaluation.logits.max() > -1e9) else None

    monkeypatch.setattr(PGDSearch, "step", ask)
    few = small.select_images(slice(0, 4))
    counts = count_asking(few, "pgd", ThreatModel(norm="Linf", eps="2/255"), monkeypatch, steps=3)
    assert counts.total() > counts["steps", ""]
