"""Training in a grid: a recipe's weights are made once, stored, and looked up by what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import resolve_device
from robustbench_local.config.cards import Card
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.initial_networks import (
    InitialNetwork,
    build_teacher_loader,
    load_initial_network,
)
from robustbench_local.defenses.training.training_identity import (
    compute_loop_version,
    describe_network,
    describe_teacher,
)
from robustbench_local.errors import ConfigError, StorageError
from robustbench_local.evaluation.grid.schema import Grid, ModelEntry
from robustbench_local.evaluation.isolation.child_process import can_fork
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, send_to_parent
from robustbench_local.evaluation.training.train_and_save import TrainingImages, fit, save_training
from robustbench_local.evaluation.training.training_data import (
    TrainingDataSpec,
    hash_images,
    load_training_images,
)
from robustbench_local.extensions.open_registry import describe_outside_code
from robustbench_local.extensions.python_reference import PYTHON_PREFIX
from robustbench_local.models.model_sources import is_outside_model, load_classifier


def find_cache_folder() -> Path:
    """Return the folder of trained weights: ``RBL_CACHE``, else a folder in the user's cache."""
    folder = os.environ.get("RBL_CACHE") or Path.home() / ".cache" / "robustbench_local" / "trained"
    return Path(folder).expanduser()


@dataclass(frozen=True, kw_only=True)
class WeightCache:
    """Trains the models of one grid and caches their weights.

    Attributes:
        grid: The grid.
        load_evaluation_data: Loads the images that the grid evaluates on.
        base: Folder that relative paths start from.
        device: Device to train on.
        folder: Folder of weights and of checkpoints of interrupted trainings.
        allow_code: Whether ``python:`` models may run.
        is_dry_run: Whether untrained weights replace missing ones, for a dry run.
        report: Receives lines of progress.
    """

    grid: Grid
    load_evaluation_data: Callable[[], Dataset]
    base: Path
    device: str = "auto"
    folder: Path = field(default_factory=find_cache_folder)
    allow_code: bool = False
    is_dry_run: bool = False
    report: Callable[[str], None] = lambda _line: None

    def train(self, model: str, loaded_classifier: Classifier, card: Card, recipe: Recipe) -> Classifier:
        """Return a model of the grid trained by a recipe; from the cache if it is there.

        Args:
            model: Its id in the grid.
            loaded_classifier: The model as it was loaded: the new one has the same network and classes.
            card: The recipe's card.
            recipe: Its hyper-parameters.

        Raises:
            ConfigError: If the grid names no training images.
            DataError: If their classes are not the model's.
            RobustbenchError: Any error of a training.
        """
        entry = next(candidate for candidate in self.grid.models if candidate.id == model)
        images = self._fit_image_labels(loaded_classifier)
        start = self._load_initial_network(entry, loaded_classifier, recipe)
        key = self._compute_key(start, card, recipe, images)
        weights = self.folder / f"{card.base_name}-{key[:16]}.safetensors"
        what = (
            f"{model} by {card.name}, {format_count(recipe.epochs, 'epoch')} on "
            f"{format_count(len(images.training), 'image')}"
        )
        if not weights.exists():
            if self.is_dry_run:
                return self._add_overlap_note(
                    self._build_untrained_classifier(
                        start, loaded_classifier, f"would first be trained: {what}"
                    )
                )
            make = partial(self._train_and_save, weights, start, card, recipe, images, what)
            if self._runs_foreign_code(entry, recipe) and can_fork(resolve_device(self.device)):
                aside = replace(self, report=send_to_parent)
                train = aside._train_and_save  # noqa: SLF001 - a copy of this very object
                make = partial(train, weights, start, card, recipe, images, what)
                call_isolated(make, timeout=None, name=model, on_message=self.report)
            else:
                make()
        trained = load_classifier(
            f"checkpoint:{weights}",
            name=entry.id,
            device=self.device,
            allow_code=self.allow_code,
            base_folder=self.base,
        )
        return self._add_overlap_note(trained)

    def _runs_foreign_code(self, entry: ModelEntry, recipe: Recipe) -> bool:
        """Check whether a training runs external code, which may end its process."""
        is_outside = entry.source.startswith(PYTHON_PREFIX) or is_outside_model(entry.source)
        return is_outside or bool(describe_outside_code(type(recipe)))

    def _add_overlap_note(self, classifier: Classifier) -> Classifier:
        """Add a note if a classifier was trained on evaluated images."""
        if self._overlap_note:
            classifier.add_note(self._overlap_note)
        return classifier

    @cached_property
    def _overlap_note(self) -> str:
        """The note that evaluated images were used for training; empty if none were."""
        images, _ = self._training_images
        evaluated, training = hash_images(self.load_evaluation_data()), set(hash_images(images.training))
        validation = set(hash_images(images.validation)) - training
        roles = {"trained it": training, "chose its epoch": validation}
        counts = {role: sum(mark in part for mark in evaluated) for role, part in roles.items()}
        overlap = " and ".join(f"{count} {role}" for role, count in counts.items() if count)
        what = f"of the {len(evaluated)} evaluated images {overlap}, so its figures are too good"
        return f"{what}: evaluate on images of their own" if overlap else ""

    @cached_property
    def _training_images(self) -> tuple[TrainingImages, dict[str, str]]:
        entry = self.grid.training
        if entry is None:
            raise ConfigError(
                "a defense has to be trained, and the grid names no images for it",
                where="defenses",
                remedy="add training: {source: ..., split: train}",
            )
        wanted = TrainingDataSpec(
            entry=entry,
            validation_source=entry.val,
            validation_share=entry.val_share,
            max_validation_images=entry.val_limit,
        )
        seed = self.grid.seed if entry.seed is None else entry.seed
        images, sources = load_training_images(wanted, seed=seed, base=self.base)
        return replace(images, test=None), sources

    def _fit_image_labels(self, before: Classifier) -> TrainingImages:
        """Return the images with labels in the order of the model's logits."""
        training_images, _ = self._training_images
        training, validation = (
            fit_labels(part, before.num_classes, before.class_names)
            for part in (training_images.training, training_images.validation)
        )
        return TrainingImages(training=training, validation=validation)

    def _load_initial_network(self, entry: ModelEntry, before: Classifier, recipe: Recipe) -> InitialNetwork:
        """Load the model's own weights for a fine-tuning; otherwise the same network with initial weights."""
        arguments: dict[str, Any] = {
            "num_classes": before.num_classes,
            "declared_classes": entry.num_classes,
            "seed": self.grid.seed,
            **entry.list_preprocessing(),
            "allow_code": self.allow_code,
            "base_folder": self.base,
        }
        own = load_initial_network(
            entry.source,
            weights=entry.weights,
            entry=entry.entry,
            architecture=entry.architecture,
            sha256=entry.sha256,
            trust_pickle=entry.trust_pickle,
            **arguments,
        )
        if recipe.fine_tune:
            return own
        contract = own.contract
        arguments |= {"normalize": contract.normalization or "none", "input_size": contract.input_size}
        arguments["preprocessing"] = contract.describe_extras()
        return load_initial_network(before.provenance.get("architecture") or own.architecture, **arguments)

    def _compute_key(self, start: InitialNetwork, card: Card, recipe: Recipe, images: TrainingImages) -> str:
        """Return the SHA-256 over everything that the weights depend on."""
        parts: dict[str, Any] = {
            "card": card.digest,
            "recipe": repr(recipe),
            "architecture": start.architecture,
            "network": describe_network(start.module),  # it covers the code and the initial weights
            "training": images.training.compute_digest(),
            "validation": images.validation.compute_digest(),
            "seed": self.grid.seed,
            "loop": compute_loop_version(),
        }
        if code := describe_outside_code(type(recipe)):
            parts["recipe code"] = code
        teacher = build_teacher_loader(
            torch.device("cpu"), self.base, allow_code=self.allow_code, num_classes=start.num_classes
        )
        parts |= describe_teacher(recipe, teacher)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _train_and_save(
        self,
        weights: Path,
        start: InitialNetwork,
        card: Card,
        recipe: Recipe,
        images: TrainingImages,
        what: str,
    ) -> None:
        """Train, and write the weights to the cache; an interrupted training resumes from its checkpoint."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot be made: {error.strerror}", where=str(self.folder)) from None
        self.report(f"training {what}")
        checkpoint = weights.with_suffix(".checkpoint")
        trained = fit(
            start,
            recipe,
            images,
            seed=self.grid.seed,
            device=resolve_device(self.device),
            checkpoint=checkpoint,
            report=self.report,
            base=self.base,
            allow_code=self.allow_code,
        )
        save_training(
            weights,
            start,
            trained,
            card=card,
            recipe=recipe,
            images=images,
            sources=self._training_images[1],
            scores=[],
            seed=self.grid.seed,
            command=f"rbl run, training of {self.grid.name or 'grid'}",
        )
        checkpoint.unlink(missing_ok=True)

    def _build_untrained_classifier(self, start: InitialNetwork, before: Classifier, note: str) -> Classifier:
        """Build an untrained classifier of the same size, for planning."""
        classifier = Classifier(
            start.module.network.eval(),
            num_classes=start.num_classes,
            preprocessing=start.contract,
            class_names=before.class_names,
            name=before.name,
            device=resolve_device(self.device),
        )
        classifier.add_note(note)
        return classifier
