"""Loading of a grid's models: they are probed and defended; unusable models become errors in their cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.model_identity import digest_network, digest_parts
from robustbench_local.data.class_labels import fit_labels
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.resize import describe_deviation
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.grid.schema import NO_DEFENSE, PREPROCESSING_SETTINGS, ModelEntry
from robustbench_local.evaluation.isolation.isolated_call import catch_process_exit
from robustbench_local.evaluation.isolation.time_limit import limit_time
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.defended_models import GridDefense, WrapperDefense
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.evaluation.planning.twins import defend_twin
from robustbench_local.evaluation.planning.unusable_model import add_defense_name, make_unusable_subject
from robustbench_local.evaluation.probes.consistency_policy import (
    apply_consistency,
    check_consistency,
    describe_consistency,
    describe_gradients,
)
from robustbench_local.evaluation.probes.model_probe import (
    ModelProbeResult,
    apply_model_probe,
    convert_model_errors,
    probe_copying,
    probe_in_child,
    probe_model,
)
from robustbench_local.extensions.user_import import import_known_libraries
from robustbench_local.models.endpoint_options import remove_credentials
from robustbench_local.models.model_sources import is_outside_model, load_classifier

_FOREIGN_SOURCES = ("python:", "maite:", "onnx:", "litert:", "torchscript:", "export:")
"""How the sources begin that run a user's code, or a program of theirs in a library.

``openvino:`` is none of them: a child of a process that has compiled a network cannot compile another one."""

_ENTRY_KEYS = ("id", "name", "defenses", "twin", "twin_queries")
"""Keys of an entry that are no arguments of `load_classifier`."""


@dataclass(frozen=True, kw_only=True)
class ModelLoader:
    """Loads the models of a grid for its images."""

    options: Options
    """The options of the run."""
    device: torch.device
    """Device to compute on."""
    base_folder: Path
    """Folder that the grid file's relative paths start from."""
    data: Dataset
    """The images as loaded."""

    def load_or_replace(self, entry: ModelEntry) -> EvaluationSubject:
        """Load a model and query it; return a placeholder with error cells if that fails.

        Args:
            entry: The model in the grid.
        """
        try:
            return self._load_subject(entry)
        except ModelError as problem:
            return make_unusable_subject(entry, self.data, problem, self.device)

    def apply_defense(
        self, entry: ModelEntry, model: EvaluationSubject, defense: GridDefense
    ) -> EvaluationSubject:
        """Return a model with a defense, or a placeholder if the recipe's training fails on a user's model.

        Args:
            entry: The model in the grid.
            model: The model as it was loaded.
            defense: The defense.
        """
        if model.problem is not None:
            return add_defense_name(model, defense.name)
        try:
            with catch_process_exit(entry.id), convert_model_errors(entry.id):
                is_outside = isinstance(defense, WrapperDefense) and bool(defense.code)
                with limit_time(self.options.timeout if is_outside else None, f"{entry.id} + {defense.name}"):
                    defended = defense.apply_to_model(model)
                if model.twin is not None:
                    defended = defend_twin(model.twin, defended, defense)
                return self._check_defended_subject(defended)
        except ModelError as problem:
            unusable = make_unusable_subject(entry, self.data, problem, self.device)
            return add_defense_name(unusable, defense.name)

    def _load_subject(self, entry: ModelEntry) -> EvaluationSubject:
        """Load one model, fit the data to it and probe it, so that misfits show before any attack."""
        options = self.options
        on_cpu = self.device.type == "cpu"
        if has_foreign_code(entry):
            import_known_libraries()  # before a copy of this process does so for itself
        is_tried_first = on_cpu and has_foreign_code(entry)
        result = self._probe_in_child(entry) if is_tried_first else None
        with catch_process_exit(entry.id), convert_model_errors(entry.id):
            with limit_time(options.timeout if is_tried_first else None, entry.id):
                classifier, fitted = self._load_classifier(entry)
            if result is None:
                result = (
                    self._probe_copy(entry, classifier, fitted)
                    if on_cpu
                    else probe_model(classifier, fitted.images)
                )
            apply_model_probe(classifier, result)
            if is_tried_first and result.is_complete:
                probe_copying(classifier, fitted.images, options.timeout)
            apply_consistency(
                classifier,
                result.consistency,
                allowed=options.allow_batch_dependence,
                batch_size=options.batch_size,
            )
            return _build_subject(entry, classifier, fitted)

    def _probe_in_child(self, entry: ModelEntry) -> ModelProbeResult:
        """Load and probe a model with user code in a child process first."""

        def load_and_probe(
            rows: slice, *, should_compare: bool, should_use_gradients: bool
        ) -> ModelProbeResult:
            with convert_model_errors(entry.id):
                classifier, fitted = self._load_classifier(entry)
            return probe_model(
                classifier,
                fitted.images[rows],
                should_compare=should_compare,
                should_use_gradients=should_use_gradients,
            )

        return probe_in_child(len(self.data), load_and_probe, timeout=self.options.timeout, name=entry.id)

    def _probe_copy(self, entry: ModelEntry, classifier: Classifier, fitted: Dataset) -> ModelProbeResult:
        """Probe a model in a child process, so that it stays as loaded here."""
        return probe_in_child(
            len(self.data),
            lambda rows, **how: probe_model(classifier, fitted.images[rows], **how),
            timeout=self.options.timeout,
            name=entry.id,
        )

    def _load_classifier(self, entry: ModelEntry) -> tuple[Classifier, Dataset]:
        """Load one model, and fit the data to it."""
        classifier = load_entry(
            entry,
            device=str(self.device),
            allow_code=self.options.allow_code,
            default_classes=self.data.num_classes,
            image_shape=self.data.image_shape,
            default_class_names=self.data.class_names if self.data.has_class_names else None,
            sample_images=self.data.images,
            base_folder=self.base_folder,
        )
        fitted = fit_labels(self.data, classifier.num_classes, classifier.class_names)
        classifier.notes.extend(note for note in fitted.notes if note not in self.data.notes)
        deviation = describe_deviation(classifier.contract, self.data.preparation)
        if deviation is not None:
            classifier.add_note(deviation)
        return classifier, fitted

    def _check_defended_subject(self, subject: EvaluationSubject) -> EvaluationSubject:
        """Probe a defended model as a whole; the model itself was probed when it was loaded."""
        if subject.defense != NO_DEFENSE:
            check_consistency(
                subject.classifier,
                subject.data.images,
                allowed=self.options.allow_batch_dependence,
                batch_size=self.options.batch_size,
                timeout=self.options.timeout,
            )
            subject.description["notes"] = list(subject.classifier.notes)
            subject.description["consistency"] = describe_consistency(subject.classifier)
            subject.description.update(describe_gradients(subject.classifier))
        return subject


def load_entry(entry: ModelEntry, **circumstances: Any) -> Classifier:
    """Load the classifier of an entry, as it is written in the grid.

    Args:
        entry: The model in the grid.
        **circumstances: Arguments of `load_classifier` that come from the data and the options of the run.

    Raises:
        RobustbenchError: As `load_classifier` does, with the model's id where that names no place.
    """
    try:
        return load_classifier(
            **entry.model_dump(exclude={*_ENTRY_KEYS, *PREPROCESSING_SETTINGS}),
            **entry.list_preprocessing(),
            name=entry.id,
            **circumstances,
        )
    except ConfigError as error:
        if error.where is not None:
            raise
        raise ConfigError(error.what, where=f"model {entry.id}", remedy=error.remedy) from error


def has_foreign_code(entry: ModelEntry) -> bool:
    """Check whether loading a model may run code from its user or a third party."""
    sources = (entry.source, entry.architecture or "")
    is_foreign = any(source.startswith(_FOREIGN_SOURCES) for source in sources)
    return is_foreign or entry.trust_pickle is not None or is_outside_model(entry.source)


def _build_subject(entry: ModelEntry, classifier: Classifier, fitted: Dataset) -> EvaluationSubject:
    """Build the grid's subject of a loaded model, with its description for the report."""
    parts = classifier.describe_parts()
    digest = digest_parts(parts)
    about: dict[str, Any] = {
        "id": entry.id,
        "name": entry.id,
        "defense": "none",
        "source": remove_credentials(entry.source),
        "digest": digest,
        "num_classes": classifier.num_classes,
        "parameters": classifier.count_parameters(),
        "access": classifier.access,
        "preprocessing": classifier.contract.describe_fields(),
        "preprocessing_from": classifier.contract.origin_words,
        "notes": list(classifier.notes),
        "consistency": describe_consistency(classifier),
        "provenance": classifier.provenance or None,
        "class_names": list(fitted.class_names),
        "abstain": entry.abstain,
        **describe_gradients(classifier),
    }
    return EvaluationSubject(
        id=entry.id,
        classifier=classifier,
        data=fitted,
        digest=digest,
        description=about,
        network=digest_network(parts),
    )
