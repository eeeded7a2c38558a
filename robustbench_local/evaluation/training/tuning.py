"""A search for the hyper-parameters of a training, by Optuna, on the validation images alone.

What was tried lies in an SQLite file. An interrupted search goes on where it was, with the same results: each
trial's sampler has a seed of its own, and a trial that was interrupted is trained on from its checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from robustbench_local.counted_nouns import format_count
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.training_result import EpochResult
from robustbench_local.errors import ModelError
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.randomness import derive_seed

_AUGMENTATIONS = ("shift", "brightness", "contrast", "saturation", "rotation", "zoom")
"""Hyper-parameters that ``augmentation`` scales together."""
_MAX_SHARE = 0.9
"""Largest brightness, contrast, saturation and zoom; at 1 an image may vanish."""
_STARTUP_TRIALS = 5
"""Trials drawn at random, before the sampler learns and before any trial is pruned."""
_DEFAULTS = "defaults"
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The result of a search.

    Attributes:
        values: The best trial's hyper-parameters, by the names of `list_ranges`; empty if every trial failed.
        score: Its score.
        completed: Trials that ended with a score.
        pruned: Trials that were stopped early, below the median of the others.
        failed: Trials whose training failed, such as by a loss that is not finite.
    """

    values: Mapping[str, float]
    score: float | None
    completed: int
    pruned: int
    failed: int


TrialFunction = Callable[[Recipe, Callable[[EpochResult], None]], float]
"""Trains by a recipe and returns the score in [0, 1]; the second argument is called after each epoch."""


def list_ranges(recipe: Recipe) -> dict[str, tuple[float, float, bool]]:
    """Return name -> (lowest, highest, whether on a logarithmic scale) of what is searched.

    ``augmentation`` is a factor on the strength of every augmentation of the recipe.
    """
    ranges = {
        "learning_rate": (recipe.learning_rate / 10, recipe.learning_rate * 10, True),
        "weight_decay": (1e-5, 0.3, True),
        "label_smoothing": (0.0, 0.2, False),
    }
    if any(getattr(recipe, name) for name in _AUGMENTATIONS):
        ranges["augmentation"] = (0.0, 2.0, False)
    if recipe.fine_tune:
        ranges["backbone_rate"] = (0.02, 1.0, True)
    return ranges


def apply_values(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    """Return a recipe with the values of a trial."""
    names = {field.name for field in fields(recipe)}
    changes: dict[str, Any] = {name: value for name, value in values.items() if name in names}
    factor = values.get("augmentation")
    if factor is not None:
        changes["shift"] = round(recipe.shift * factor)
        changes["rotation"] = min(recipe.rotation * factor, 180.0)
        for name in ("brightness", "contrast", "saturation", "zoom"):
            changes[name] = min(getattr(recipe, name) * factor, _MAX_SHARE)
    return replace(recipe, **changes)


def search_hyperparameters(
    run: TrialFunction,
    recipe: Recipe,
    *,
    trials: int,
    default_score: float,
    identity: str,
    file: Path,
    seed: int,
    report: Callable[[str], None],
) -> SearchResult:
    """Search for hyper-parameters with a higher score than the recipe's own.

    Trials are proposed by a tree-structured Parzen estimator, which knows the recipe's own values and score
    too. A trial whose validation accuracy after an epoch is below the median of earlier trials is stopped.

    Args:
        run: Trains and measures.
        recipe: The hyper-parameters to start from.
        trials: Number of trials.
        default_score: The score of ``recipe``.
        identity: Name of the search: of everything but the hyper-parameters that decides a score.
        file: The SQLite file; searches with another identity in it are left alone.
        seed: Seed of the proposals.
        report: Prints a line.

    Raises:
        ConfigError: If Optuna is not installed.
        RobustbenchError: As ``run`` does, but for a `ModelError`, which is a failed trial.

    Source: Bergstra et al. 2011, NeurIPS 24 (sampler); Golovin et al. 2017, doi:10.1145/3097983.3098043
    (median rule); Akiba et al. 2019, arXiv:1907.10902 (Optuna).
    """
    optuna = import_extra("optuna", extra="tune")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{file.absolute()}")
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=identity,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=max(recipe.head_epochs, 1)
            ),
        )
        search = _Search(optuna, study, recipe, run, report, trials)
        search.add_defaults(default_score)
        search.queue_interrupted()
        while (done := search.count_finished()) < trials:
            study.sampler = optuna.samplers.TPESampler(
                seed=derive_seed(seed, "trial", done) % 2**32, n_startup_trials=_STARTUP_TRIALS
            )
            search.run_one(done)
        return search.summarize_trials()
    finally:
        storage.engine.dispose()


class _Search:
    """The trials of one search."""

    def __init__(
        self,
        optuna: Any,
        study: Any,
        recipe: Recipe,
        run: TrialFunction,
        report: Callable[[str], None],
        trials: int,
    ) -> None:
        self._optuna, self._study, self._recipe, self._run = optuna, study, recipe, run
        self._report, self._trials = report, trials
        self._states = optuna.trial.TrialState
        self._distributions = {
            name: optuna.distributions.FloatDistribution(low, high, log=log)
            for name, (low, high, log) in list_ranges(recipe).items()
        }

    def add_defaults(self, score: float) -> None:
        """Tell the sampler the score of the recipe's own values, if they are in the ranges."""
        values = {**self._recipe.parameters, "augmentation": 1.0}
        known = {name: float(values[name]) for name in self._distributions}
        is_inside = all(
            distribution.low <= known[name] <= distribution.high
            for name, distribution in self._distributions.items()
        )
        if is_inside and not self._study.get_trials(deepcopy=False):
            self._study.add_trial(
                self._optuna.trial.create_trial(
                    params=known, distributions=self._distributions, value=score, user_attrs={_DEFAULTS: True}
                )
            )

    def queue_interrupted(self) -> None:
        """Put trials that were interrupted at the front, with their values."""
        for trial in self._study.get_trials(states=(self._states.RUNNING,)):
            self._study.tell(trial.number, state=self._states.FAIL)
            attributes = {_INTERRUPTED: trial.number}
            self._study.enqueue_trial(trial.params, user_attrs=attributes)

    def list_finished(self) -> list[Any]:
        """Return the trials of this search that count: not the defaults, and none that was interrupted."""
        finished = self._study.get_trials(
            deepcopy=False, states=(self._states.COMPLETE, self._states.PRUNED, self._states.FAIL)
        )
        again = {
            trial.user_attrs[_INTERRUPTED]
            for trial in self._study.get_trials(deepcopy=False)
            if _INTERRUPTED in trial.user_attrs
        }
        return [
            trial for trial in finished if _DEFAULTS not in trial.user_attrs and trial.number not in again
        ]

    def count_finished(self) -> int:
        """Return the number of trials that count."""
        return len(self.list_finished())

    def run_one(self, done: int) -> None:
        """Run the next trial."""
        trial = self._study.ask(self._distributions)
        earlier = self._find_earlier_values(trial)
        for step, value in earlier.items():
            trial.report(value, step)
        values = dict(trial.params)

        def watch(epoch: EpochResult) -> None:
            if epoch.validation.epoch not in earlier:
                trial.report(epoch.validation.rank, epoch.validation.epoch)
            if trial.should_prune():
                raise self._optuna.TrialPruned

        name = f"trial {done + 1} of {self._trials}"
        self._report(f"{name}: {format_values(values)}")
        try:
            score = self._run(apply_values(self._recipe, values), watch)
        except self._optuna.TrialPruned:
            self._study.tell(trial, state=self._states.PRUNED)
            self._report(f"{name}: stopped, below the median of the others")
        except ModelError as error:
            self._study.tell(trial, state=self._states.FAIL)
            self._report(f"{name}: failed: {error}")
        else:
            self._study.tell(trial, score)
            self._report(f"{name}: score {score:.1%}")

    def _find_earlier_values(self, trial: Any) -> dict[int, float]:
        """Return what the interrupted trial that this one continues had reported."""
        number = trial.user_attrs.get(_INTERRUPTED)
        if number is None:
            return {}
        return dict(self._study.get_trials(deepcopy=False)[number].intermediate_values)

    def summarize_trials(self) -> SearchResult:
        """Return the best trial and the counts."""
        trials = self.list_finished()
        by_state = {
            state: [trial for trial in trials if trial.state == state]
            for state in (self._states.COMPLETE, self._states.PRUNED, self._states.FAIL)
        }
        completed = by_state[self._states.COMPLETE]
        best = max(completed, key=lambda trial: trial.value, default=None)
        return SearchResult(
            values={} if best is None else dict(best.params),
            score=None if best is None else best.value,
            completed=len(completed),
            pruned=len(by_state[self._states.PRUNED]),
            failed=len(by_state[self._states.FAIL]),
        )


def format_values(values: Mapping[str, float]) -> str:
    """Return the values of a trial in one line."""
    return ", ".join(f"{name} {value:.3g}" for name, value in sorted(values.items()))


def format_search(result: SearchResult) -> str:
    """Return the counts of a search in one line."""
    parts = [f"{format_count(result.completed, 'trial')} with a score"]
    parts += [f"{result.pruned} stopped early"] if result.pruned else []
    parts += [f"{result.failed} failed"] if result.failed else []
    return ", ".join(parts)
