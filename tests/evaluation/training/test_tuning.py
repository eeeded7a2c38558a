"""The search for hyper-parameters: it finds better ones, stops bad trials, and resumes."""

from __future__ import annotations

import pytest

from robustbench_local.config.cards import find_card
from robustbench_local.defenses.recipes.recipe_registry import read_recipe
from robustbench_local.defenses.training.training_result import EpochResult, Score
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.training import tuning
from robustbench_local.evaluation.training.tuning import (
    apply_values,
    format_search,
    list_ranges,
    search_hyperparameters,
)

RECIPE = read_recipe(find_card("fine-tune", kind="defense"))


def test_values_of_a_trial_scale_every_augmentation():
    recipe = apply_values(RECIPE, {"learning_rate": 0.01, "augmentation": 2.0})
    assert (recipe.learning_rate, recipe.shift, recipe.rotation) == (0.01, 16, 10.0)
    assert (recipe.brightness, recipe.zoom) == (0.6, 0.2)
    strong = apply_values(RECIPE, {"augmentation": 5.0})
    assert strong.contrast == 0.9
    assert apply_values(RECIPE, {"augmentation": 0.0}).shift == 0
    for values in (0, 1):
        apply_values(RECIPE, {name: ends[values] for name, ends in list_ranges(RECIPE).items()})
    plain = read_recipe(find_card("standard", kind="defense"))
    assert set(list_ranges(plain)) == {"learning_rate", "weight_decay", "label_smoothing"}


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    def miss(*_args, **_options):
        raise ConfigError("optuna is not installed", remedy="run pip install")

    monkeypatch.setattr(tuning, "import_extra", miss)
    with pytest.raises(ConfigError, match="optuna is not installed"):
        _search(tmp_path, _Trainer())


class _Trainer:
    """Scores that are highest at a rate of 0.003; interrupted or failing at a given call."""

    def __init__(self, interrupt_at=0, fail_at=0):
        self.calls, self.recipes, self._interrupt_at, self._fail_at = 0, [], interrupt_at, fail_at

    def __call__(self, recipe, on_epoch):
        self.calls += 1
        self.recipes.append(recipe)
        if self.calls == self._fail_at:
            raise ModelError("the loss is nan")
        score = max(0.0, 0.9 - abs(recipe.learning_rate - 0.003) * 40)
        for epoch in range(1, 6):
            if self.calls == self._interrupt_at and epoch == 2:
                raise KeyboardInterrupt
            share = score * epoch / 5
            on_epoch(EpochResult(0.0, 0.0, 0.0, Score(epoch, share, None), Score(epoch, share, None)))
        return score


def _search(folder, run, trials=12, identity="one", lines=None):
    return search_hyperparameters(
        run,
        RECIPE,
        trials=trials,
        default_score=0.5,
        identity=identity,
        file=folder / "tuning.db",
        seed=0,
        report=(lines if lines is not None else []).append,
    )


@pytest.mark.extra
@pytest.mark.slow
def test_an_interrupted_search_ends_as_if_there_had_been_no_interruption(tmp_path):
    pytest.importorskip("optuna", reason="the search needs the extra tune")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    trainer, lines = _Trainer(fail_at=4), []
    found = _search(whole, trainer, lines=lines)
    assert found.score > 0.88
    assert found.failed == 1
    assert found.pruned > 0
    assert found.completed + found.pruned + found.failed == trainer.calls == 12
    assert any("stopped, below the median" in line for line in lines)
    assert any("failed: the loss is nan" in line for line in lines)
    assert f"{found.pruned} stopped early, 1 failed" in format_search(found)

    interrupted = _Trainer(interrupt_at=3, fail_at=0)
    with pytest.raises(KeyboardInterrupt):
        _search(parts, interrupted)
    resumed = _Trainer(fail_at=2)  # the fourth trial again: the third is repeated first
    assert _search(parts, resumed) == found
    assert resumed.recipes[0] == interrupted.recipes[-1]
    assert interrupted.recipes[:2] + resumed.recipes == trainer.recipes

    again = _Trainer()
    assert _search(parts, again) == found
    assert again.calls == 0
    other = _Trainer()
    assert _search(parts, other, trials=1, identity="other").completed == 1
    assert other.calls == 1


@pytest.mark.extra
@pytest.mark.slow
def test_a_search_of_which_every_trial_fails_has_no_values(tmp_path):
    pytest.importorskip("optuna", reason="the search needs the extra tune")
    found = _search(tmp_path, _Trainer(fail_at=1), trials=1)
    assert (found.values, found.score, found.failed) == ({}, None, 1)
