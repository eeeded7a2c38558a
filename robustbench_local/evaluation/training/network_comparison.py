"""Several networks trained on the same photographs, compared on validation images, and one of them chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.config.cards import Card
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.initial_networks import InitialNetwork
from robustbench_local.evaluation.training.candidates import (
    Candidate,
    CandidateOptions,
    load_candidate,
    replace_contract,
)
from robustbench_local.evaluation.training.fitted_recipe import fit_recipe
from robustbench_local.evaluation.training.network_trial import TrialPlace, TrialResult, run_trial
from robustbench_local.evaluation.training.selection import (
    ScoreDifference,
    SelectionRule,
    compare_scores,
    estimate_score,
    rank_networks,
)
from robustbench_local.evaluation.training.stability import Stability, average_stability
from robustbench_local.evaluation.training.train_and_save import TrainingImages
from robustbench_local.statistics import Estimate

SPREAD_EPOCHS = 5
"""Last epochs over which the validation accuracy of a training is compared with itself."""


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """What is trained, and how one network is chosen.

    Attributes:
        candidates: The networks.
        options: What holds for all of them.
        card: The card of the recipe.
        recipe: Its hyper-parameters, with the user's changes.
        set_names: Names of the hyper-parameters that the user set; they stay as they are.
        rule: How the network is chosen.
        seeds: Number of trainings of each network.
        seed: First seed.
        trials: Number of trials of the search for hyper-parameters of the chosen network; 0 for none.
        is_data_checked: Whether the images are checked before the training.
    """

    candidates: tuple[Candidate, ...]
    options: CandidateOptions
    card: Card
    recipe: Recipe
    set_names: frozenset[str] = frozenset()
    rule: SelectionRule = "balanced"
    seeds: int = 1
    seed: int = 0
    trials: int = 0
    is_data_checked: bool = True


@dataclass(frozen=True, kw_only=True)
class NetworkResult:
    """The results of one network on the validation images.

    Attributes:
        candidate: The network.
        parameters: Number of its weights.
        contract: How it takes its images.
        recipe: What it was trained by.
        stability: Its results, over all its trainings.
        score: Its score by the rule.
        seed_scores: Seed -> score.
        best_seed: The training whose weights are kept.
        epochs: Epochs of that training, the kept epoch, and the largest difference between the clean
            validation accuracies of its last epochs.
        seconds: Seconds of all its trainings.
    """

    candidate: Candidate
    parameters: int
    contract: InputContract
    recipe: Recipe
    stability: Stability = field(repr=False)
    score: Estimate
    seed_scores: Mapping[int, float]
    best_seed: int
    epochs: tuple[int, int, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ChosenNetwork:
    """The chosen network with its weights.

    Attributes:
        start: The network, with the trained weights.
        images: The images as it takes them.
        recipe: What it was trained by.
        result: Its training.
    """

    start: InitialNetwork
    images: TrainingImages
    recipe: Recipe
    result: TrialResult


ImageLoader = Callable[[InputContract], TrainingImages]
"""Returns the images as a network with this contract takes them."""
ResultListener = Callable[[NetworkResult, ChosenNetwork], None]
"""Called with each network when it has been trained and measured."""


class NetworkComparison:
    """A comparison of networks.

    Args:
        plan: What is trained.
        load_images: Loads the images.
        place: Where it runs.
        num_classes: Number of classes of the data.
        channels: Channels of its images.
    """

    def __init__(
        self,
        plan: ComparisonPlan,
        load_images: ImageLoader,
        place: TrialPlace,
        *,
        num_classes: int,
        channels: int,
    ) -> None:
        self.plan, self.place = plan, place
        self._load_images, self._num_classes, self._channels = load_images, num_classes, channels
        self.results: dict[str, NetworkResult] = {}

    def check_candidates(self) -> None:
        """Load every network once, so that a mistake shows before anything is trained.

        Raises:
            RobustbenchError: See `load_candidate`.
        """
        for candidate in self.plan.candidates:
            self._load(candidate)

    def train_all(self, on_result: ResultListener) -> list[str]:
        """Train and measure every network; return their names from the best to the worst."""
        for candidate in self.plan.candidates:
            self.results[candidate.name] = self._train(candidate, on_result)
        return rank_networks(
            {name: result.score.value for name, result in self.results.items()},
            {name: result.parameters for name, result in self.results.items()},
        )

    def compare_with(self, best: str) -> dict[str, ScoreDifference]:
        """Return how much better the best network is than each other; the intervals hold together."""
        others = [name for name in self.results if name != best]
        mine = self.results[best].stability
        return {
            name: compare_scores(mine, self.results[name].stability, self.plan.rule, comparisons=len(others))
            for name in others
        }

    def read_chosen(self, name: str) -> ChosenNetwork:
        """Return a network of `train_all` with the weights of its best training."""
        result = self.results[name]
        start, images = self.prepare_network(result.candidate)
        seed = result.best_seed
        quiet = replace(self.place, report=lambda _line: None)  # it has been trained a moment ago
        trial = run_trial(
            start, result.recipe, images, quiet, name=_name_files(result.candidate, seed), seed=seed
        )
        return ChosenNetwork(start=start, images=images, recipe=result.recipe, result=trial)

    def prepare_network(self, candidate: Candidate) -> tuple[InitialNetwork, TrainingImages]:
        """Load a network that is not trained, and the images as it takes them."""
        start = self._load(candidate)
        images = self._load_images(start.contract)
        height, width = images.training.image_shape[1:]
        is_own_size = self.plan.options.size is None and images.training.preparation is None
        if candidate.is_fresh and is_own_size and start.contract.input_size != (height, width):
            # small images of one size: nothing was learned at another size that they had to be brought to
            start = replace_contract(start, replace(start.contract, input_size=None, resize=None))
        return start, images

    def _load(self, candidate: Candidate) -> InitialNetwork:
        return load_candidate(
            candidate,
            self.plan.options,
            num_classes=self._num_classes,
            channels=self._channels,
            seed=self.plan.seed,
        )

    def _train(self, candidate: Candidate, on_result: ResultListener) -> NetworkResult:
        """Train a network with every seed, and keep the best training."""
        start, images = self.prepare_network(candidate)
        recipe = fit_recipe(
            self.plan.recipe,
            images.training,
            start.contract,
            is_fresh=candidate.is_fresh,
            kept=self.plan.set_names,
        )
        side = "x".join(map(str, start.contract.input_size or images.training.image_shape[1:]))
        self.place.report(f"training {candidate.name} by {self.plan.card.name}, input {side}")
        initial = {key: value.clone() for key, value in start.module.state_dict().items()}
        trials: list[TrialResult] = []
        for seed in range(self.plan.seed, self.plan.seed + self.plan.seeds):
            start.module.load_state_dict(initial)
            name = _name_files(candidate, seed)
            trials.append(run_trial(start, recipe, images, self.place, name=name, seed=seed))
        scores = {trial.seed: estimate_score(trial.stability, self.plan.rule).value for trial in trials}
        best = max(trials, key=lambda trial: scores[trial.seed])
        stability = average_stability([trial.stability for trial in trials])
        start.module.load_state_dict(best.trained.state)
        result = NetworkResult(
            candidate=candidate,
            parameters=sum(parameter.numel() for parameter in start.module.parameters()),
            contract=start.contract,
            recipe=recipe,
            stability=stability,
            score=estimate_score(stability, self.plan.rule),
            seed_scores=scores,
            best_seed=best.seed,
            epochs=_summarize_epochs(best),
            seconds=sum(trial.trained.seconds for trial in trials),
        )
        on_result(result, ChosenNetwork(start=start, images=images, recipe=recipe, result=best))
        return result


def format_file_name(candidate: Candidate) -> str:
    """Return the name of a network as that of a file."""
    return re.sub(r"[^\w.-]+", "-", candidate.name).strip("-.") or "network"


def _name_files(candidate: Candidate, seed: int) -> str:
    return f"{format_file_name(candidate)}-seed{seed}"


def _summarize_epochs(trial: TrialResult) -> tuple[int, int, float]:
    """Return the number of epochs, the kept one, and how far the last ones' clean accuracies are apart."""
    curves = trial.trained.curves
    last = [epoch.validation.clean for epoch in curves[-SPREAD_EPOCHS:]]
    return len(curves), trial.trained.best.epoch, max(last) - min(last)
