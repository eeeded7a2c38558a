"""The goal of an attack on a data set: which images it applies to, and how many it leaves out."""

from __future__ import annotations

import pytest

from robustbench_local.config.cards import CardThreat
from robustbench_local.data.subsample import choose_images
from robustbench_local.evaluation.harness.attack_goal import resolve_goal


@pytest.mark.parametrize(
    ("sources", "targets", "is_applicable"),
    [
        ((), (), lambda label: True),
        (("stop", 1), (), lambda label: label in {0, 1}),
        ((), ("20", 3), lambda label: label in {0, 2}),
        ((0, 1), ("20",), lambda label: label == 0),
    ],
)
def test_a_goal_counts_the_images_that_it_leaves_out(data, sources, targets, is_applicable):
    goal = resolve_goal(CardThreat(norm="Linf", eps=0.1, sources=sources, targets=targets), data)
    expected = [position for position, label in enumerate(data.labels.tolist()) if is_applicable(label)]
    assert goal.positions.tolist() == expected
    assert goal.excluded == len(data) - len(expected)


def test_a_limit_chooses_evenly_over_the_classes_by_the_ids(data):
    """Class 1 is twice as frequent as class 2; both give the same number of images."""
    data.labels[:] = 0
    data.labels[:20], data.labels[20:30] = 1, 2
    goal = resolve_goal(CardThreat(norm="Linf", eps=0.1, sources=(1, 2)), data, limit=8, seed=5)
    labels = data.labels[goal.positions].tolist()
    assert (labels.count(1), labels.count(2)) == (4, 4)
    assert goal.positions.tolist() == choose_images(data.ids[:30], data.labels.tolist()[:30], limit=8, seed=5)
    assert goal.excluded == 30
