"""A search for hyper-parameters of the chosen network, and the better of the two trainings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from robustbench_local.classifier.model_identity import digest_parts
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.initial_networks import InitialNetwork
from robustbench_local.defenses.training.training_identity import compute_loop_version, describe_network
from robustbench_local.defenses.training.training_result import EpochResult
from robustbench_local.evaluation.training.candidates import Candidate
from robustbench_local.evaluation.training.network_comparison import (
    ChosenNetwork,
    NetworkComparison,
    format_file_name,
)
from robustbench_local.evaluation.training.network_trial import TrialResult, run_trial
from robustbench_local.evaluation.training.selection import ScoreDifference, compare_scores, estimate_score
from robustbench_local.evaluation.training.train_and_save import TrainingImages
from robustbench_local.evaluation.training.tuning import (
    SearchResult,
    apply_values,
    list_ranges,
    search_hyperparameters,
)

SEARCH_FILE = "tuning.db"
"""The SQLite file of a search, in the folder of the checkpoints."""


@dataclass(frozen=True, kw_only=True)
class TunedResult:
    """The result of a search for hyper-parameters of the chosen network.

    Attributes:
        search: What was tried.
        recipe: The best trial's hyper-parameters; None if no trial has a score.
        difference: The score of the best trial less that of the recipe's own values; None without one.
        is_kept: Whether the best trial's weights are kept.
    """

    search: SearchResult
    recipe: Recipe | None
    difference: ScoreDifference | None
    is_kept: bool


def tune_network(comparison: NetworkComparison, name: str) -> tuple[TunedResult, ChosenNetwork]:
    """Search for hyper-parameters of a network; return what was found, and the better network of the two.

    Args:
        comparison: A comparison whose networks are trained.
        name: The network.

    Raises:
        RobustbenchError: See `search_hyperparameters`.
    """
    plan, before = comparison.plan, comparison.read_chosen(name)
    candidate, seed = comparison.results[name].candidate, before.result.seed
    start, images = comparison.prepare_network(candidate)
    trials = _Trials(comparison, candidate, start, images, seed)
    search = search_hyperparameters(
        trials.run,
        before.recipe,
        trials=plan.trials,
        default_score=comparison.results[name].seed_scores[seed],
        identity=_identify_search(comparison, start, images, before.recipe, seed),
        file=comparison.place.folder / SEARCH_FILE,
        seed=plan.seed,
        report=comparison.place.report,
    )
    if not search.values:
        return TunedResult(search=search, recipe=None, difference=None, is_kept=False), before
    recipe = apply_values(before.recipe, search.values)
    after = ChosenNetwork(start=start, images=images, recipe=recipe, result=trials.train(recipe))
    difference = compare_scores(after.result.stability, before.result.stability, plan.rule)
    is_kept = difference.value > 0
    found = TunedResult(search=search, recipe=recipe, difference=difference, is_kept=is_kept)
    return found, after if is_kept else before


class _Trials:
    """Trainings of one network by different hyper-parameters; only the best one's weights stay on disk."""

    def __init__(
        self,
        comparison: NetworkComparison,
        candidate: Candidate,
        start: InitialNetwork,
        images: TrainingImages,
        seed: int,
    ) -> None:
        self._place, self._rule = comparison.place, comparison.plan.rule
        self._candidate, self._start, self._images, self._seed = candidate, start, images, seed
        self._initial: dict[str, Tensor] = {
            key: value.clone() for key, value in start.module.state_dict().items()
        }
        self._best_score, self._best_file = -1.0, Path()

    def train(
        self, recipe: Recipe, on_epoch: Callable[[EpochResult], None] = lambda _epoch: None
    ) -> TrialResult:
        """Train from the initial weights, or read the result."""
        self._start.module.load_state_dict(self._initial)
        return run_trial(
            self._start,
            recipe,
            self._images,
            self._place,
            name=self._name_files(recipe),
            seed=self._seed,
            on_epoch=on_epoch,
        )

    def run(self, recipe: Recipe, on_epoch: Callable[[EpochResult], None]) -> float:
        """Train and return the score."""
        name = self._name_files(recipe)
        try:
            trial = self.train(recipe, on_epoch)
        except Exception:  # stopped early or failed; after an interruption the checkpoint stays
            (self._place.folder / f"{name}.ckpt").unlink(missing_ok=True)
            raise
        score, file = estimate_score(trial.stability, self._rule).value, self._place.folder / f"{name}.result"
        if score > self._best_score:
            file, self._best_file, self._best_score = self._best_file, file, score
        if file.name:
            file.unlink(missing_ok=True)
        return score

    def _name_files(self, recipe: Recipe) -> str:
        return f"{format_file_name(self._candidate)}-trial-{digest_parts({'recipe': repr(recipe)})[:12]}"


def _identify_search(
    comparison: NetworkComparison, start: InitialNetwork, images: TrainingImages, recipe: Recipe, seed: int
) -> str:
    """Return a digest of everything but the hyper-parameters that decides a score."""
    parts = {
        "loop": compute_loop_version(),
        "start": describe_network(start.module)["weights"],
        "training": images.training.compute_digest(),
        "validation": images.validation.compute_digest(),
        "recipe": repr(recipe),
        "ranges": repr(list_ranges(recipe)),
        "rule": comparison.plan.rule,
        "seed": f"{seed}, {comparison.plan.seed}",
    }
    return digest_parts(parts)[:16]
