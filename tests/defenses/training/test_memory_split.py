"""Memory that runs out in a training: the same step from fewer images at once, or one line."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from memory_shortage import SHORTAGE, MemoryShortage
from small_training import COMMON_PARAMETERS, TRAINING, VALIDATION, build_batch, build_context, build_network
from torch import nn

from robustbench_local.classifier import memory_limit
from robustbench_local.defenses.recipes.ard import ARD
from robustbench_local.defenses.recipes.crown_ibp import CrownIBP
from robustbench_local.defenses.recipes.distillation import Distillation
from robustbench_local.defenses.recipes.fast_at import FastTraining
from robustbench_local.defenses.recipes.free_at import FreeTraining
from robustbench_local.defenses.recipes.ibp_training import IBPTraining
from robustbench_local.defenses.recipes.macer import MACER
from robustbench_local.defenses.recipes.mart import MART
from robustbench_local.defenses.recipes.pgd_at import PGDTraining
from robustbench_local.defenses.recipes.smoothadv import SmoothAdv
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.recipes.trades import Trades
from robustbench_local.defenses.training import checkpoint as checkpoint_file
from robustbench_local.defenses.training.learner import Learner
from robustbench_local.defenses.training.memory_split import MIN_BATCH_NORM_IMAGES, MemorySplit
from robustbench_local.defenses.training.training_loop import train
from robustbench_local.errors import ModelMemoryError
from robustbench_local.threats.threat_model import ThreatModel

LINF = {"threat": ThreatModel(norm="Linf", eps=0.1), "eps_warmup_epochs": 0, "steps": 2, "step_size": 0.5}
BOUNDS = {"threat": ThreatModel(norm="Linf", eps=0.05), "kappa": 0.5, "clean_epochs": 0, "ramp_epochs": 2}
ONE_STEP = {**LINF, "steps": 1, "step_size": 1.0}
RECIPES = {
    "standard": Standard(**COMMON_PARAMETERS),
    "weight perturbation": PGDTraining(**COMMON_PARAMETERS, **LINF, awp_gamma=0.01),
    "trades": Trades(**COMMON_PARAMETERS, **LINF, beta=6.0, awp_gamma=0.005),
    "mart": MART(**COMMON_PARAMETERS, **LINF, beta=5.0),
    "fast": FastTraining(**COMMON_PARAMETERS, **ONE_STEP),
    "free": FreeTraining(**COMMON_PARAMETERS, **ONE_STEP, replays=3),
    "ard": ARD(**COMMON_PARAMETERS, **LINF, teacher="robust", alpha=0.5, temperature=5.0),
    "distillation": Distillation(**COMMON_PARAMETERS, temperature=5.0, teacher="robust"),
    "macer": MACER(**COMMON_PARAMETERS, sigma=0.2, draws=2, radius_weight=4.0, hinge=8.0, sharpness=2.0),
    "smoothadv": SmoothAdv(
        **COMMON_PARAMETERS,
        sigma=0.2,
        threat=ThreatModel(norm="L2", eps=0.5),
        steps=2,
        draws=2,
        eps_warmup_epochs=0,
    ),
    "ibp": IBPTraining(**COMMON_PARAMETERS, **BOUNDS),
    "crown-ibp": CrownIBP(**COMMON_PARAMETERS, **BOUNDS, beta=0.5),
}


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Collecting garbage takes a tenth of a second in a process that has imported everything."""
    monkeypatch.setattr(memory_limit.gc, "collect", lambda: 0)


def take_steps(recipe, shortage, *, norm=False, steps=2, module=None):
    """The losses and the weights after some steps, the lines that were printed, and what fits.

    In float64: the adversary's signs would turn over by the rounding of float32.
    """
    module, lines = (module or build_network(norm=norm)).double(), []
    split = MemorySplit(lines.append)
    teacher = split.add_network(build_network(3).double().eval().requires_grad_(False))
    context = replace(build_context(module, teacher=teacher), memory_split=split)
    learner = Learner(module, recipe, recipe.build_objective(context), mixed_precision=False, num_classes=2)
    with shortage:
        batches = [build_batch(progress=1.0, seed=step) for step in range(steps)]
        losses = [learner.step(replace(batch, images=batch.images.double())) for batch in batches]
    return torch.stack(losses), dict(learner.module.state_dict()), lines, split


QUICK = {"free", "ibp"}
SLOW = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in RECIPES]


@pytest.mark.parametrize("name", SLOW)
def test_steps_with_fewer_images_at_once_are_the_same_steps(name):
    recipe, shortage = RECIPES[name], MemoryShortage(5)
    losses, weights, _, _ = take_steps(recipe, nullcontext())
    parted, others, lines, split = take_steps(recipe, shortage)
    torch.testing.assert_close(parted, losses)
    torch.testing.assert_close(others, weights)
    assert shortage.failures > 0
    assert len(lines) == 1
    size = split.limit.max_images
    assert lines[0].startswith(f"out of memory with 16 images at once: going on with {size}; the steps stay")


@pytest.mark.parametrize("at_call", [2, 5])
def test_a_single_shortage_at_any_call_leaves_no_trace(at_call):
    recipe = RECIPES["free"]
    losses, weights, _, _ = take_steps(recipe, nullcontext(), steps=3)
    shortage = MemoryShortage(at_call=at_call)
    parted, others, _, _ = take_steps(recipe, shortage, steps=3)
    assert shortage.failures == 1
    torch.testing.assert_close(parted, losses)
    torch.testing.assert_close(others, weights)


@pytest.mark.slow
def test_batch_norm_is_the_exception_that_the_line_names():
    module = build_network(norm=True)
    module.insert(2, nn.Dropout(0.5))
    _, weights, lines, split = take_steps(RECIPES["mart"], MemoryShortage(6), module=module)
    assert len(lines) == 1
    assert lines[0].endswith("the same but for BatchNorm and dropout, whose layers see the parts")
    assert split.limit.max_images == 4
    assert int(weights["1.num_batches_tracked"]) == 16  # two steps of two calls of four parts, each once
    assert torch.isfinite(torch.cat([weight.flatten() for weight in weights.values()])).all()


@pytest.mark.parametrize(("norm", "smallest"), [(True, MIN_BATCH_NORM_IMAGES), (False, 1)])
def test_the_smallest_part_of_a_network_with_batch_norm_has_two_images(norm, smallest):
    for most, fits in ((smallest, True), (smallest - 1, False)):
        if fits:
            assert (
                take_steps(RECIPES["standard"], MemoryShortage(most), norm=norm, steps=1)[3].limit.max_images
                == smallest
            )
            continue
        words = "2 images" if norm else "1 image"
        with pytest.raises(ModelMemoryError, match=f"memory runs out even with {words} at once") as caught:
            take_steps(RECIPES["standard"], MemoryShortage(most), norm=norm, steps=1)
        assert caught.value.exit_code == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "ibp"])
def test_a_training_ends_with_the_same_weights_and_scores(name):
    recipe = replace(RECIPES[name], epochs=2)
    results, lines = [], []
    for shortage in (nullcontext(), MemoryShortage(7)):
        with shortage:
            results.append(
                train(build_network(norm=False), recipe, TRAINING, VALIDATION, report=lines.append)
            )
    assert sum(line.startswith("out of memory with 16 images") for line in lines) == 1
    one, other = results
    torch.testing.assert_close(other.state, one.state, rtol=1e-3, atol=1e-5)
    assert other.best == one.best
    assert [epoch.validation for epoch in other.curves] == [epoch.validation for epoch in one.curves]


@pytest.mark.slow
def test_a_shortage_in_the_validation_alone_splits_it():
    lines, recipe = [], replace(RECIPES["standard"], epochs=2)
    with MemoryShortage(39):
        whole = train(build_network(), recipe, TRAINING, VALIDATION, report=lines.append)
    assert any(line.startswith("out of memory with 40 images at once: going on with 20") for line in lines)
    assert whole.best == train(build_network(), recipe, TRAINING, VALIDATION).best


@pytest.mark.slow
def test_a_training_that_ends_for_memory_goes_on_from_its_checkpoint(tmp_path):
    recipe, file = replace(RECIPES["standard"], epochs=3), tmp_path / "training.ckpt"
    expected = train(build_network(), recipe, TRAINING, VALIDATION)
    shortage = MemoryShortage()

    def end_memory(result):
        shortage.most = 1

    with shortage, pytest.raises(ModelMemoryError, match="goes on from it"):
        train(build_network(), recipe, TRAINING, VALIDATION, checkpoint=file, on_epoch=end_memory)
    lines = []
    resumed = train(build_network(), recipe, TRAINING, VALIDATION, checkpoint=file, report=lines.append)
    assert lines[0] == "resumed after epoch 1 of 3"
    torch.testing.assert_close(resumed.state, expected.state, rtol=0, atol=0)


def test_a_checkpoint_that_memory_has_no_room_for_is_not_called_damaged(tmp_path, monkeypatch):
    file = tmp_path / "training.ckpt"
    checkpoint_file.save_checkpoint(file, {}, {"epoch": 1})

    def fail(*_arguments, **_options):
        raise RuntimeError(SHORTAGE)

    monkeypatch.setattr(checkpoint_file.torch, "load", fail)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        checkpoint_file.load_checkpoint(file, {})


def test_a_forward_of_its_own_is_put_back():
    module = build_network(norm=False)
    own = module.forward
    module.forward = lambda images: own(images)  # noqa: PLW0108 - of the instance, not of its class
    mine = module.forward
    losses, _, _, _ = take_steps(RECIPES["standard"], MemoryShortage(5), module=module)
    assert module.__dict__["forward"] is mine
    torch.testing.assert_close(losses, take_steps(RECIPES["standard"], nullcontext())[0])
