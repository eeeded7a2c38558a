"""The last layer and the layers below it: found, frozen, trained at different rates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import COMMON_PARAMETERS, TRAINING, VALIDATION, build_batch, build_context, build_network
from torch import nn

from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.training.epoch_order import draw_order
from robustbench_local.defenses.training.layer_groups import find_head, group_layers
from robustbench_local.defenses.training.learner import Learner
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import CardError, ModelError

PLAIN = Standard(**COMMON_PARAMETERS)


def _step(recipe, progress):
    """Take a step on a network; return it before and after."""
    module = build_network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    objective = recipe.build_objective(build_context(module))
    learner = Learner(module, recipe, objective, mixed_precision=False, num_classes=2)
    learner.step(build_batch(progress=progress))
    return before, module.state_dict(), learner


def test_the_head_is_the_last_layer_with_an_output_for_each_class():
    deeper = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 5))
    assert (find_head(deeper, 3), find_head(deeper, 5), find_head(deeper, 7)) == ("2", "4", None)
    squeezed = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert (find_head(squeezed, 5), find_head(squeezed, 8)) == ("1", None)
    assert find_head(nn.Flatten(), 2) is None
    with pytest.raises(ModelError, match="no last layer of 7 outputs"):
        group_layers(deeper, 7)


def test_in_the_first_epochs_only_the_head_changes():
    recipe = replace(PLAIN, head_epochs=1)
    before, after, learner = _step(recipe, progress=0.5)
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"4.weight", "4.bias"}  # and no statistics of the batch normalization
    learner.step(build_batch(progress=1.0))
    changed = {
        name for name, value in learner.module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == set(before)
    assert all(parameter.requires_grad for parameter in learner.module.parameters())


def test_layers_below_the_head_learn_at_their_share_of_the_rate():
    _, _, learner = _step(replace(PLAIN, backbone_rate=0.25), progress=1.0)
    backbone, head = (group["lr"] for group in learner.optimizer.param_groups)
    assert head == PLAIN.learning_rate
    assert backbone == 0.25 * head


def test_training_ends_when_nothing_gets_better():
    recipe = replace(PLAIN, learning_rate=1e-9, warmup_epochs=0, patience=2)
    lines = []
    result = train(build_network(), recipe, TRAINING, VALIDATION, report=lines.append)
    assert len(result.curves) == 3
    assert lines[-1] == "stopped: nothing better in 2 epochs"
    seen = []
    train(
        build_network(),
        replace(recipe, patience=0, epochs=4),
        TRAINING,
        VALIDATION,
        on_epoch=lambda result: seen.append(result.validation.epoch),
    )
    assert seen == [1, 2, 3, 4]


def test_a_balanced_epoch_has_each_class_equally_often():
    labels = torch.tensor([0] * 12 + [1] * 3 + [2] * 6)
    rows = draw_order(labels, balanced=True, generator=torch.Generator().manual_seed(0))
    assert len(rows) == 21
    assert labels[rows].bincount().tolist() == [7, 7, 7]
    assert rows[labels[rows] == 0].unique().numel() == 7  # no image of a frequent class comes twice
    assert sorted(rows[labels[rows] == 1].bincount()[12:].tolist()) == [2, 2, 3]
    equal = torch.arange(12) % 3
    for balanced in (True, False):
        drawn = draw_order(equal, balanced=balanced, generator=torch.Generator().manual_seed(0))
        assert sorted(drawn.tolist()) == list(range(12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head_epochs": 6}, "head_epochs"),
        ({"head_epochs": -1}, "head_epochs"),
        ({"backbone_rate": 0.0}, "backbone_rate"),
        ({"backbone_rate": 1.01}, "backbone_rate"),
        ({"patience": -1}, "patience"),
    ],
)
def test_impossible_values_are_refused(changes, message):
    with pytest.raises(CardError, match=message):
        replace(PLAIN, **changes)
    replace(PLAIN, head_epochs=5, backbone_rate=1.0, patience=1)
