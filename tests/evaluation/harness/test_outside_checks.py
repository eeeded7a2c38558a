"""What a method from outside returns and leaves: each mistake is one line, and everything is put back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.modules import module as module_hooks

from robustbench_local.attacks.pgd import PGD
from robustbench_local.certification.base import CertifiedBatch
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.harness.outside_checks import (
    check_candidates,
    check_certified_batch,
    is_own_method,
    keep_model_unchanged,
    keep_process_unchanged,
)

RIGHT = CertifiedBatch(
    predictions=torch.tensor([-1, 2]),
    verified=torch.tensor([False, True]),
    radius=torch.tensor([0.0, torch.nan], dtype=torch.float64),
    margins=torch.tensor([-1.0, torch.nan], dtype=torch.float64),
)


class Outside:
    """A method from another package."""


def test_own_methods_are_told_from_others():
    assert is_own_method(PGD())
    assert not is_own_method(Outside())


def test_candidates_are_a_tensor():
    images = torch.zeros(2)
    assert check_candidates(Outside(), images) is images
    with pytest.raises(ConfigError, match="Outside: perturb returned a list, not a tensor of images"):
        check_candidates(Outside(), [images])


def test_a_certificates_answer_is_passed_on():
    assert check_certified_batch(Outside(), RIGHT, 2) is RIGHT


@pytest.mark.parametrize(
    ("changes", "count", "message"),
    [
        ({}, 3, r"predictions must be torch.int64 of shape \(3,\), got torch.int64 \(2,\)"),
        ({"verified": [True, False]}, 2, r"verified must be torch.bool of shape \(2,\), got list"),
        (
            {"verified": torch.ones(2)},
            2,
            r"verified must be torch.bool of shape \(2,\), got torch.float32 \(2,\)",
        ),
        ({"radius": torch.ones(2)}, 2, "radius must be torch.float64"),
        ({"radius": torch.ones(2, 1, dtype=torch.float64)}, 2, r"got torch.float64 \(2, 1\)"),
        ({"margins": torch.ones(2)}, 2, "margins must be torch.float64"),
        ({"predictions": torch.ones(2)}, 2, "predictions must be torch.int64"),
        (
            {"radius": torch.tensor([0.5, -1e-9], dtype=torch.float64)},
            2,
            "a radius or a prediction is negative",
        ),
        ({"predictions": torch.tensor([0, -2])}, 2, "a radius or a prediction is negative"),
    ],
)
def test_a_certificates_answer_of_another_form_is_one_line(changes, count, message):
    with pytest.raises(ConfigError, match=f"Outside: .*{message}"):
        check_certified_batch(Outside(), replace(RIGHT, **changes), count)


def test_a_certificate_that_returns_something_else_is_one_line():
    with pytest.raises(ConfigError, match="Outside: certify returned a dict, not a CertifiedBatch"):
        check_certified_batch(Outside(), {}, 2)


@pytest.fixture
def network():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout())
    with torch.no_grad():
        layers[1].weight.fill_(0.5)
        layers[1].bias.fill_(torch.nan)
    return layers.eval()


def keep(method, *networks):
    return keep_model_unchanged(method, *[Classifier(each, num_classes=3) for each in networks])


def test_a_method_that_changes_nothing_is_left_alone(network):
    hook = network.register_forward_hook(lambda *_: None)
    with keep(Outside(), network, network):
        pass
    with keep_model_unchanged(Outside(), Classifier(lambda images: images, num_classes=3, access="scores")):
        pass
    hook.remove()


@pytest.mark.parametrize("second", [False, True])
def test_changed_weights_are_put_back(network, second):
    other = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    before = other[1].weight.clone()
    with (
        pytest.raises(
            ConfigError, match="Outside: changed the model's weights: what it found does not count"
        ),
        keep(Outside(), *((network, other) if second else (other, network))),
    ):
        other[1].weight.data += 1
    assert torch.equal(other[1].weight, before)
    assert bool((network[1].weight == 0.5).all())
    assert bool(network[1].bias.isnan().all())


def test_weights_that_become_nan_or_go_are_changes(network):
    with pytest.raises(ConfigError, match="weights"), keep(Outside(), network):
        network[1].weight.data[0, 0] = torch.nan
    assert bool((network[1].weight == 0.5).all())
    with pytest.raises(ConfigError, match="weights"), keep(Outside(), network):
        network[1].register_parameter("bias", None)
    with pytest.raises(ConfigError, match="weights"), keep(Outside(), network):
        network[1].weight = nn.Parameter(torch.zeros(2, 2))


CALLS = {
    "forward": lambda network: setattr(network, "forward", len),
    "inner forward": lambda network: setattr(network[1], "forward", len),
    "hook": lambda network: network.register_forward_hook(lambda *_: None),
    "inner hook": lambda network: network[1].register_forward_pre_hook(lambda *_: None),
    "backward hook": lambda network: network[1].register_full_backward_hook(lambda *_: None),
    "backward hook before": lambda network: network.register_full_backward_pre_hook(lambda *_: None),
    "hook of all": lambda network: module_hooks.register_module_forward_pre_hook(lambda *_: None),
    "backward hook of all": lambda network: module_hooks.register_module_full_backward_hook(lambda *_: None),
}


@pytest.mark.parametrize("change", CALLS)
def test_changed_calls_are_put_back(network, change):
    kept = network.register_forward_hook(lambda *_: None)
    own = network[2].forward
    network[2].forward = own  # a forward of its own, before the method
    with pytest.raises(ConfigError, match="changed the model's forward or hooks"), keep(Outside(), network):
        CALLS[change](network)
    assert "forward" not in vars(network)
    assert "forward" not in vars(network[1])
    assert vars(network[2])["forward"] == own
    assert list(network._forward_hooks) == [kept.id]
    assert not network[1]._forward_pre_hooks
    assert not network[1]._backward_hooks
    assert not network._backward_pre_hooks
    assert not module_hooks._global_forward_pre_hooks
    assert not module_hooks._global_backward_hooks
    with keep(Outside(), network):
        pass


def test_a_changed_forward_of_the_class_is_put_back_and_weights_are_named_first():
    class Own(nn.Linear):
        def forward(self, images):
            return super().forward(images)

    own = Own.forward
    layers = nn.Sequential(nn.Flatten(), Own(12, 3))

    def change():
        Own.forward = lambda self, images: images
        layers[1].weight.data += 1

    with pytest.raises(ConfigError, match="changed the model's weights"), keep(Outside(), layers):
        change()
    assert Own.forward is own


def test_a_hook_that_is_taken_away_is_put_back(network):
    hook = network.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match="forward or hooks"), keep(Outside(), network):
        hook.remove()
    assert list(network._forward_hooks) == [hook.id]


@pytest.mark.parametrize("mode", [False, True])
def test_the_mode_of_each_layer_is_put_back_without_an_error(network, mode):
    network[2].train()
    with keep(Outside(), network):
        network.train(mode)
    assert [part.training for part in network.modules()] == [False, False, False, True]


def test_an_error_of_the_method_is_its_own_and_the_model_is_put_back(network):
    def fail():
        network[1].weight.data += 1
        network.train()
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"), keep(Outside(), network):
        fail()
    assert bool((network[1].weight == 0.5).all())
    assert not network.training


def test_methods_of_this_package_are_trusted_with_the_model(network):
    with keep(PGD(), network):
        network[1].weight.data += 1
    assert bool((network[1].weight == 1.5).all())


def test_settings_of_the_process_are_put_back_and_named(network):
    notes = []
    with keep_process_unchanged(PGD(), notes.append):
        torch.set_grad_enabled(False)
        torch.set_autocast_enabled("cpu", True)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    assert notes == ["PGD changes the process-wide grad_enabled, autocast; put back before verification"]
    with keep_process_unchanged(PGD(), notes.append):
        pass

    def fail():
        torch.set_default_dtype(torch.float64)
        raise ValueError("own")

    with pytest.raises(ValueError, match="own"), keep_process_unchanged(PGD(), notes.append):
        fail()
    assert torch.get_default_dtype() == torch.float32
    assert len(notes) == 2
