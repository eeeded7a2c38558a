"""Options of the loop: augmentation that turns no sign into another, schedules, optimizers, clipping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_training import COMMON_PARAMETERS, TRAINING, VALIDATION, build_batch, build_context, build_network

from robustbench_local.defenses.recipes.augmentation import Augmentation
from robustbench_local.defenses.recipes.standard import Standard
from robustbench_local.defenses.training.learner import Learner
from robustbench_local.defenses.training.schedule import compute_learning_rate
from robustbench_local.defenses.training.training_loop import refuse_teacher, train
from robustbench_local.errors import CardError, ConfigError

PLAIN = Standard(**COMMON_PARAMETERS)


def _seen(augmentation, image, count=400, labels=None):
    given = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    return augmentation(image.expand(count, -1, -1, -1), given, torch.Generator().manual_seed(0))


def test_only_the_classes_that_may_be_are_mirrored():
    image = torch.zeros(1, 3, 4, 4)
    image[..., 0] = 1
    labels = torch.arange(400) % 2
    seen = _seen(Augmentation(flip=frozenset({1})), image, labels=labels)
    mirrored = seen[:, 0, 0, 3] == 1
    assert not mirrored[labels == 0].any()
    assert 60 < int(mirrored[labels == 1].sum()) < 140


@pytest.mark.parametrize(
    ("flip", "classes"), [((), []), (("horizontal",), [1]), ((0,), [0]), (("*",), [0, 1])]
)
def test_classes_are_named_by_name_or_index(flip, classes):
    chosen = replace(PLAIN, flip=flip).build_augmentation(("vertical", "horizontal"))
    assert sorted(chosen.flip) == classes


def test_a_class_that_the_data_do_not_have_is_refused():
    for wrong in ("diagonal", 7):
        with pytest.raises(CardError, match=f"flip names {wrong!r}"):
            replace(PLAIN, flip=(wrong,)).build_augmentation(("vertical", "horizontal"))


def test_contrast_and_saturation_keep_what_they_pivot_on():
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.2 + 0.4
    grey = torch.tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    for augmentation in (Augmentation(contrast=0.5), Augmentation(saturation=0.5)):
        seen = _seen(augmentation, image)
        assert seen.std(dim=(1, 2, 3)).max() > image.std() * 1.05
        assert seen.std(dim=(1, 2, 3)).min() < image.std() * 0.95
        before, after = (image * grey).sum(1).mean(), (seen * grey).sum(1).mean(dim=(1, 2))
        assert torch.allclose(after, before.expand(400), atol=1e-3)


def test_turns_stay_within_their_angle_and_keep_the_centre():
    _row, column = torch.meshgrid(torch.arange(9) - 4.0, torch.arange(9) - 4.0, indexing="ij")
    image = (0.5 + column / 20)[None, None].float()
    seen = _seen(Augmentation(rotation=20), image)
    slope_right = (seen[:, 0, 4, 6] - seen[:, 0, 4, 2]) / 4 * 20
    slope_down = (seen[:, 0, 6, 4] - seen[:, 0, 2, 4]) / 4 * 20
    angles = torch.rad2deg(torch.atan2(slope_down, slope_right))
    assert angles.abs().max() <= 20.1
    assert angles.max() > 18
    assert angles.min() < -18
    assert torch.allclose(seen[:, 0, 4, 4], torch.tensor(0.5), atol=1e-5)


def test_zoom_changes_the_size_only():
    _row, column = torch.meshgrid(torch.arange(9) - 4.0, torch.arange(9) - 4.0, indexing="ij")
    image = (0.5 + column / 20)[None, None].float()
    seen = _seen(Augmentation(zoom=0.2), image)
    sizes = 1 / ((seen[:, 0, 4, 5] - seen[:, 0, 4, 3]) / 2 * 20)
    assert sizes.min() == pytest.approx(0.8, abs=0.01)
    assert sizes.max() == pytest.approx(1.2, abs=0.01)


def test_the_piecewise_schedule_falls_tenfold_at_each_milestone():
    recipe = replace(PLAIN, epochs=8, warmup_epochs=1, schedule="piecewise", milestones=(0.5, 0.75))
    rates = {progress: compute_learning_rate(recipe, progress) for progress in (1, 3.9, 4, 5.9, 6, 7.9)}
    assert list(rates.values()) == pytest.approx([0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005])
    assert compute_learning_rate(recipe, 0) < 0.01


def test_adamw_learns_too():
    recipe = replace(PLAIN, optimizer="adamw", learning_rate=0.01)
    assert train(build_network(), recipe, TRAINING, VALIDATION).best.clean >= 0.95


def test_gradients_are_clipped_together():
    free, clipped = (
        Learner(
            module,
            recipe,
            recipe.build_objective(build_context(module)),
            mixed_precision=False,
            num_classes=2,
        )
        for module, recipe in (
            (build_network(), PLAIN),
            (build_network(), replace(PLAIN, gradient_clip=1e-3)),
        )
    )
    for learner in (free, clipped):
        learner.step(build_batch())
    norms = [
        torch.stack([one.grad.norm() for one in learner.module.parameters()]).norm()
        for learner in (free, clipped)
    ]
    assert norms[0] > 0.01
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


def test_bfloat16_computes_the_loss_and_keeps_float32_weights():
    module = build_network()
    learner = Learner(
        module, PLAIN, PLAIN.build_objective(build_context(module)), mixed_precision=True, num_classes=2
    )
    exact = PLAIN.build_objective(build_context(build_network().train())).compute_loss(build_batch()).item()
    assert learner.step(build_batch()).item() == pytest.approx(exact, rel=0.02)
    assert {one.dtype for one in module.parameters()} == {torch.float32}


def test_the_curves_have_a_point_for_each_epoch():
    trained = train(build_network(), PLAIN, TRAINING, VALIDATION)
    assert [one.validation.epoch for one in trained.curves] == list(range(1, PLAIN.epochs + 1))
    assert trained.curves[-1].loss < trained.curves[0].loss
    assert trained.curves[-1].training.clean >= 0.95
    assert max(one.validation.clean for one in trained.curves) == trained.best.clean


def test_a_checkpoint_of_another_start_is_refused(tmp_path):
    recipe, checkpoint = replace(PLAIN, epochs=2), tmp_path / "training.pt"
    train(
        build_network(), recipe, TRAINING, VALIDATION, checkpoint=checkpoint, extra_identity={"weights": "a"}
    )
    for start in ({"weights": "b"}, {}):
        with pytest.raises(ConfigError, match="another weights"):
            train(build_network(), recipe, TRAINING, VALIDATION, checkpoint=checkpoint, extra_identity=start)


def test_a_teacher_needs_a_way_to_load_it():
    with pytest.raises(ConfigError, match="teacher 'signs-pgd-at' cannot be loaded"):
        refuse_teacher("signs-pgd-at")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"milestones": (0.5, 1.5)}, "milestones"),
        ({"gradient_clip": -1.0}, "gradient_clip"),
        ({"contrast": 1.0}, "contrast"),
        ({"rotation": 200.0}, "rotation"),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(CardError, match=message):
        replace(PLAIN, **change)
