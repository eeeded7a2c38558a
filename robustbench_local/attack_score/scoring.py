"""The comparison: every contender on every model, stored as it goes, and scored against the envelope."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from robustbench_local.attack_score.contenders import (
    OWN_LIBRARY,
    Contender,
    list_own_contenders,
    list_peer_contenders,
)
from robustbench_local.attack_score.measurement import Measurement, measure_contender
from robustbench_local.attack_score.optimality import (
    compute_envelope,
    compute_optimality,
    compute_robust_accuracies,
    estimate_optimality,
    find_distance_limit,
)
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.planning.environment import compute_code_version
from robustbench_local.evaluation.planning.plan import EvaluationSubject
from robustbench_local.statistics import Estimate
from robustbench_local.store.atomic_files import write_atomically
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import Norm, ThreatModel

NO_LIBRARIES = "none"
"""In place of libraries: our attacks alone."""
_GRAY_LINF = 0.5
"""Distance at which every image of [0, 1] can become uniform gray under Linf."""
_BOX_SHARE = 0.25
"""Largest distance that is searched for under the other norms, as a share of that from black to white."""
_CURVE_POINTS = 33
"""Radii of the stored curves, evenly spaced from 0 to the envelope's largest distance."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is compared."""

    norm: Norm
    attacks: Sequence[str] = ()
    """Our methods; empty: every minimum-norm attack with gradients."""
    libraries: Sequence[str] = ()
    """Other libraries; empty: all that are installed; ``("none",)``: none."""
    budget: int = 400
    """Maximum forward and backward passes per image, all together."""
    own_budget: int | None = None
    """The same for our attacks; None: ``budget``."""
    max_distance: float | None = None
    """Largest distance that is searched for; None: by the norm."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelScore:
    """The measurements on one model and their envelope."""

    model: str
    n: int
    clean_accuracy: float
    max_distance: float
    """Largest distance that was searched for."""
    measurements: tuple[Measurement, ...]

    @property
    def finished(self) -> tuple[Measurement, ...]:
        """Return the measurements of attacks that did not fail."""
        return tuple(measurement for measurement in self.measurements if not measurement.failure)

    @property
    def envelope(self) -> tuple[float, ...]:
        """Return the smallest distance of each image over all attacks."""
        return tuple(compute_envelope([entry.distances for entry in self.finished]).tolist())


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """A row of the table: one attack over all models."""

    library: str
    attack: str
    optimality: Estimate | None
    """Global optimality: the mean over the models; None if it is undefined or the attack failed."""
    local: tuple[float | None, ...]
    """Local optimality on each model."""
    median_ratio: float | None
    """Median over the images of its distance over the smallest known one; infinite: mostly no success."""
    missed: int
    """Images without success for which another attack has one."""
    forward: float
    backward: float
    violations: int
    failure: str

    @property
    def calls(self) -> float:
        """Mean number of forward and backward passes per attacked image, all together."""
        return self.forward + self.backward

    @property
    def is_own(self) -> bool:
        """Whether the attack is of this package."""
        return self.library == OWN_LIBRARY


@dataclass(frozen=True, kw_only=True)
class AttackScore:
    """The result of a comparison."""

    options: ScoreOptions
    models: tuple[ModelScore, ...]
    rows: tuple[AttackRow, ...]
    """Best first; attacks that failed last."""
    missing: tuple[str, ...]
    """A line for each library that is not installed."""

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values; an infinite or undefined number is null."""
        return {
            "norm": self.options.norm,
            "budget": self.options.budget,
            "own_budget": self.options.own_budget or self.options.budget,
            "seed": self.options.seed,
            "missing_libraries": list(self.missing),
            "attacks": [_describe_row(row, self.models) for row in self.rows],
            "models": [_describe_model(model) for model in self.models],
        }


def score_attacks(
    subjects: Sequence[EvaluationSubject],
    options: ScoreOptions,
    *,
    folder: Path | None = None,
    report: Callable[[str], None] = lambda _line: None,
) -> AttackScore:
    """Compare the attacks on the models.

    Args:
        subjects: Models with their images.
        options: What is compared.
        folder: Folder of finished measurements, which a repeated call reads instead of attacking again.
        report: Receives a line for each measurement.

    Raises:
        ConfigError: If an attack, a library or a number is invalid, or nothing is left to compare.
    """
    if options.budget < 1 or (options.own_budget is not None and options.own_budget < 1):
        raise ConfigError("a budget must be at least 1")
    scores = []
    peers, missing = _list_peers(options)
    for subject in subjects:
        max_distance = options.max_distance or _choose_max_distance(subject, options.norm)
        measurements = []
        for contender in [*_list_own(options, max_distance), *peers]:
            found = _measure_or_read(subject, contender, options, max_distance, folder)
            measurements.append(found)
            report(f"{subject}: {found.library} {found.attack}: {_describe_measurement(found)}")
        if not measurements:
            raise ConfigError(f"there is no minimum-norm attack under {options.norm}")
        if all(entry.failure for entry in measurements):
            raise ConfigError(f"no attack finished on {subject}: {measurements[0].failure}")
        counted = next(entry for entry in measurements if not entry.failure).distances
        scores.append(
            ModelScore(
                model=str(subject),
                n=len(counted),
                clean_accuracy=float(np.mean(np.asarray(counted) > 0)),
                max_distance=max_distance,
                measurements=tuple(measurements),
            )
        )
    rows = [_build_row(index, scores, options.seed) for index in range(len(scores[0].measurements))]
    rows.sort(key=lambda row: -math.inf if row.optimality is None else row.optimality.value, reverse=True)
    return AttackScore(options=options, models=tuple(scores), rows=tuple(rows), missing=tuple(missing))


def _list_own(options: ScoreOptions, max_distance: float) -> list[Contender]:
    return list_own_contenders(
        options.attacks,
        options.norm,
        max_distance=max_distance,
        budget=options.own_budget or options.budget,
        version=compute_code_version(),
    )


def _list_peers(options: ScoreOptions) -> tuple[list[Contender], list[str]]:
    if NO_LIBRARIES in options.libraries:
        return [], []
    return list_peer_contenders(options.libraries, options.norm, budget=options.budget)


def _choose_max_distance(subject: EvaluationSubject, norm: str) -> float:
    """Return the largest distance to search for: a quarter of the box, or to gray under Linf."""
    if norm == "Linf":
        return _GRAY_LINF
    whole = float(compute_norms(torch.ones_like(subject.data.images[:1]), norm).max())
    return float(math.floor(_BOX_SHARE * whole)) if norm == "L0" else _BOX_SHARE * whole


def _measure_or_read(
    subject: EvaluationSubject,
    contender: Contender,
    options: ScoreOptions,
    max_distance: float,
    folder: Path | None,
) -> Measurement:
    """Return the stored measurement of exactly this attack, model and images, or measure and store it."""
    threat = ThreatModel(norm=options.norm, eps=max_distance)
    if folder is None:
        return measure_contender(contender, subject.classifier, subject.data, threat, options.seed)
    identity = {
        "model": subject.digest,
        "images": subject.data.compute_digest(),
        "attack": f"{contender.library} {contender.name} {contender.identity}",
        "threat": threat.name,
        "seed": str(options.seed),
    }
    file = folder / f"{cell_key(identity)}.json"
    if file.is_file():
        return Measurement.from_json(json.loads(file.read_text()))
    found = measure_contender(contender, subject.classifier, subject.data, threat, options.seed)
    if not found.failure:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(found.to_json()))
    return found


def _build_row(index: int, models: Sequence[ModelScore], seed: int) -> AttackRow:
    """Return the row of the attack at ``index``, which is the same on every model."""
    entries = [model.measurements[index] for model in models]
    failures = [entry.failure for entry in entries if entry.failure]
    finished = [(entry, model) for entry, model in zip(entries, models, strict=True) if not entry.failure]
    pairs = [(entry.distances, np.asarray(model.envelope)) for entry, model in finished]
    ratios = [
        distance / best
        for distances, envelope in pairs
        for distance, best in zip(distances, envelope.tolist(), strict=True)
        if 0 < best < math.inf
    ]
    return AttackRow(
        library=entries[0].library,
        attack=entries[0].attack,
        optimality=None if failures else estimate_optimality(pairs, seed),
        local=tuple(
            None if entry.failure else compute_optimality(entry.distances, np.asarray(model.envelope))
            for entry, model in zip(entries, models, strict=True)
        ),
        median_ratio=median(ratios) if ratios else None,
        missed=sum(ratio == math.inf for ratio in ratios),
        forward=mean(entry.forward for entry, _ in finished) if finished else 0.0,
        backward=mean(entry.backward for entry, _ in finished) if finished else 0.0,
        violations=sum(len(entry.violations) for entry in entries),
        failure="; ".join(dict.fromkeys(failures)),
    )


def _describe_measurement(found: Measurement) -> str:
    if found.failure:
        return f"failed, {found.failure}"
    attacked = [distance for distance in found.distances if distance > 0]
    middle = f"{median(attacked):.4g}" if attacked else "-"
    return f"median distance {middle}, {found.calls:.0f} calls per image"


def _describe_row(row: AttackRow, models: Sequence[ModelScore]) -> dict[str, Any]:
    finite = row.median_ratio is not None and math.isfinite(row.median_ratio)
    return {
        "library": row.library,
        "attack": row.attack,
        "optimality": None if row.optimality is None else row.optimality.to_json(),
        "local_optimality": {model.model: value for model, value in zip(models, row.local, strict=True)},
        "median_ratio": row.median_ratio if finite else None,
        "missed": row.missed,
        "forward_passes": row.forward,
        "backward_passes": row.backward,
        "violations": row.violations,
        "failure": row.failure or None,
    }


def _describe_model(model: ModelScore) -> dict[str, Any]:
    limit = find_distance_limit(np.asarray(model.envelope)) or 0.0
    radii = np.linspace(0, limit, _CURVE_POINTS).tolist()
    return {
        "model": model.model,
        "n": model.n,
        "clean_accuracy": model.clean_accuracy,
        "max_distance": model.max_distance,
        "radii": radii,
        "envelope": compute_robust_accuracies(model.envelope, radii),
        "measurements": [
            {**entry.to_json(), "curve": compute_robust_accuracies(entry.distances, radii)}
            for entry in model.finished
        ],
    }
