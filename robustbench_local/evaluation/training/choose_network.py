"""From photographs to chosen weights: divide, train, compare, tune, test once, and write everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, DataError
from robustbench_local.evaluation.training.comparison_record import (
    NETWORKS_FOLDER,
    build_record,
    list_measurements,
)
from robustbench_local.evaluation.training.divided_photographs import divide_source
from robustbench_local.evaluation.training.network_comparison import (
    ChosenNetwork,
    ComparisonPlan,
    NetworkComparison,
    NetworkResult,
    format_file_name,
)
from robustbench_local.evaluation.training.network_comparison_files import write_comparison
from robustbench_local.evaluation.training.network_trial import TrialPlace
from robustbench_local.evaluation.training.stability import measure_stability
from robustbench_local.evaluation.training.train_and_save import (
    TrainingImages,
    build_classifier,
    save_reference,
    save_training,
)
from robustbench_local.evaluation.training.training_check import report_check
from robustbench_local.evaluation.training.training_data import (
    TrainingDataSpec,
    load_training_images,
    peek_images,
)
from robustbench_local.evaluation.training.tuned_network import tune_network
from robustbench_local.store.atomic_files import make_directory

BEST_NAME = "best"
"""Name of the chosen network's files."""
MIN_CLASSES = 2
"""Smallest number of classes that can be told apart."""
WORK_FOLDER = "work"
"""Folder of what an interrupted comparison goes on from."""


@dataclass(frozen=True, kw_only=True)
class ChoiceFiles:
    """Where a comparison leaves its files.

    Attributes:
        out: The folder.
        command: The command that makes the same files again, for the cards.
    """

    out: Path
    command: str

    @property
    def best(self) -> Path:
        """The chosen network's weights."""
        return self.out / f"{BEST_NAME}.safetensors"


class ImageSource:
    """The images of a comparison, as each network takes them; those of the last contract are kept.

    Args:
        spec: The images.
        seed: Seed of every random choice.
        base: Folder that relative paths start from.
    """

    def __init__(self, spec: TrainingDataSpec, *, seed: int, base: Path) -> None:
        self._spec, self._seed, self._base = spec, seed, base
        self._geometry: InputContract | None = None
        self._images: TrainingImages | None = None
        self.sources: dict[str, str] = {}

    def load(self, contract: InputContract) -> TrainingImages:
        """Return the images as a network with this contract takes them."""
        if self._images is None or (self._spec.entry.size is None and self._geometry != contract.geometry):
            self._images = None  # before others are read
            spec = replace(self._spec, contract=contract)
            try:
                self._images, self.sources = load_training_images(spec, seed=self._seed, base=self._base)
            except DataError as error:
                if contract.input_size is not None or not error.what.startswith("sizes differ"):
                    raise
                remedy = "set the side that the network takes, such as --size 64"
                raise DataError(error.what, where=error.where, remedy=remedy) from error
            if spec.exclusion is not None:
                training = replace(self._images.training, exclusion=spec.exclusion)
                self._images = replace(self._images, training=training)
            self._geometry = contract.geometry
        return self._images


def choose_network(
    plan: ComparisonPlan, spec: TrainingDataSpec, place: TrialPlace, files: ChoiceFiles
) -> dict[str, Any]:
    """Train networks, choose one on the validation images, test it once, and write everything.

    In the folder lie afterwards: ``best.safetensors`` with its card, curves and reference; the same of every
    network in ``networks/``; ``comparison.json``, ``.csv`` and ``.md``; a plain folder of photographs divided
    into ``photographs/``; and ``work/``, from which an interrupted comparison goes on.

    Args:
        plan: What is trained.
        spec: The images.
        place: Where it runs; its folder is that of the checkpoints.
        files: Where the results go.

    Returns:
        The comparison, as in ``comparison.json``.

    Raises:
        RobustbenchError: If a network, an option or the images cannot be used.
    """
    base = place.base or Path()
    make_directory(place.folder)
    spec = divide_source(spec, out=files.out, seed=plan.seed, base=base, report=place.report)
    num_classes, channels = peek_images(spec.entry, base)
    source = ImageSource(spec, seed=plan.seed, base=base)
    if num_classes < MIN_CLASSES:
        remedy = "put the photographs of each class into a folder of its own"
        raise DataError(
            "there is one class, and nothing to tell apart", where=spec.entry.source, remedy=remedy
        )
    comparison = NetworkComparison(plan, source.load, place, num_classes=num_classes, channels=channels)
    comparison.check_candidates()
    if plan.is_data_checked and spec.entry.source != "signs":  # those are drawn, each by itself
        report_check(comparison.prepare_network(plan.candidates[0])[1], place.report)

    def save(result: NetworkResult, chosen: ChosenNetwork) -> None:
        folder = files.out / NETWORKS_FOLDER
        make_directory(folder)
        rows = list_measurements(result.stability, "validation")
        _save(folder / f"{format_file_name(result.candidate)}.safetensors", chosen, rows, plan, source, files)
        place.report(f"{result.candidate.name}: " + ", ".join(map(_format_row, rows)))

    order = comparison.train_all(save)
    tuned, chosen = (
        tune_network(comparison, order[0]) if plan.trials else (None, comparison.read_chosen(order[0]))
    )
    test = _measure_test(chosen, place)
    record = build_record(comparison, order, tuned, chosen, test, source.sources, files.command)
    selection = {"rule": record["rule"], **record["chosen"], "among": _list_scores(record)}
    _save(files.best, chosen, test, plan, source, files, selection=selection)
    save_reference(files.best, chosen.start, chosen.images, source.sources, place.device)
    write_comparison(files.out, record)
    return record


def check_folder(out: Path) -> None:
    """Refuse a place for the results that is no folder, before anything is read.

    Raises:
        ConfigError: If it is a file, has the suffix of weights, or its parent does not exist.
    """
    if out.suffix == ".safetensors" or out.is_file() or not out.absolute().parent.is_dir():
        raise ConfigError(
            f"{str(out)!r} is not a folder for several networks",
            where="--out",
            remedy="name a new folder, in one that exists, such as trained",
        )
    if out.exists() and not os.access(out, os.W_OK):
        raise ConfigError(f"{str(out)!r} cannot be written to", where="--out", remedy="name another folder")


def _measure_test(chosen: ChosenNetwork, place: TrialPlace) -> list[dict[str, Any]]:
    """Measure the chosen network on the test images, which nothing before has looked at."""
    data = chosen.images.test or chosen.images.validation
    part = "validation" if chosen.images.test is None else "test"
    place.report(f"testing the chosen network on {format_count(len(data), 'image')} that were held out")
    stability = measure_stability(build_classifier(chosen.start, data, place.device), data)
    return list_measurements(stability, part)


def _save(
    path: Path,
    chosen: ChosenNetwork,
    rows: list[dict[str, Any]],
    plan: ComparisonPlan,
    source: ImageSource,
    files: ChoiceFiles,
    *,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Write the weights of a network with their card and curves."""
    save_training(
        path,
        chosen.start,
        chosen.result.trained,
        card=plan.card,
        recipe=chosen.recipe,
        images=chosen.images,
        sources=source.sources,
        scores=rows,
        seed=chosen.result.seed,
        command=files.command,
        selection=selection,
    )


def _list_scores(record: Mapping[str, Any]) -> dict[str, float]:
    return {network["name"]: round(network["figures"]["score"]["value"], 4) for network in record["networks"]}


def _format_row(row: Mapping[str, Any]) -> str:
    names = {"none": "clean", "corruptions": "corrupted", "pgd": "attacked"}
    interval = f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    return f"{names[row['attack']]} {row['accuracy']:.1%} {interval} n={row['n']}"
