"""The attacks to compare under a norm: ours and those of the installed libraries, each within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from robustbench_local.attack_score.peers import PEERS, PeerLibrary
from robustbench_local.attack_score.peers.peer_job import PeerAttack, PeerJob
from robustbench_local.attacks import ATTACKS, make_attack
from robustbench_local.attacks.adapters.sandbox import seed_global_generators
from robustbench_local.attacks.base import Attack
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.config.methods import ATTACK_METHODS
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import Norm, ThreatModel

OWN_LIBRARY = "robustbench-local"
"""Name of this package in the tables."""


@dataclass(frozen=True, kw_only=True)
class AttackRequest:
    """What every contender is given."""

    classifier: Classifier
    """Inside ``classifier.evaluation_mode()``."""
    images: Tensor
    """(N, C, H, W) in [0, 1], all correctly classified."""
    labels: Tensor
    """(N,)."""
    ids: tuple[str, ...]
    """Names of the images, from which their random numbers follow."""
    threat: ThreatModel
    """The norm, and the largest distance that is searched for."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Contender:
    """An attack of the comparison."""

    library: str
    name: str
    identity: str
    """Everything that decides its candidates: hyperparameters and the library's version."""
    run: Callable[[AttackRequest], tuple[Tensor, float, float]]
    """Returns candidates, and the mean of the forward and the backward passes per image."""


def list_own_contenders(
    names: Sequence[str], norm: Norm, *, max_distance: float, budget: int, version: str
) -> list[Contender]:
    """Return our attacks for a norm.

    Args:
        names: Methods; empty: every minimum-norm attack with gradients.
        norm: The norm.
        max_distance: The largest distance that is searched for.
        budget: Maximum forward and backward passes per image, all together.
        version: Version of this package.

    Raises:
        ConfigError: If there is no such method, or it does not search for the nearest success under the norm.
    """
    contenders = []
    threat = ThreatModel(norm=norm, eps=max_distance)
    for name in names or _list_minimum_norm_methods():
        if name not in ATTACKS:
            raise ConfigError(f"there is no attack {name!r}", remedy=did_you_mean(name, list(ATTACKS)))
        attack = make_attack(name)
        if names and (attack.measure != "distance" or norm not in attack.norms):
            remedy = f"choose from {', '.join(_list_methods_of_norm(norm))}"
            raise ConfigError(f"{name} is no minimum-norm attack under {norm}", remedy=remedy)
        if norm in attack.norms:
            fitted = fit_to_budget(attack, threat, budget)
            contenders.append(
                Contender(
                    library=OWN_LIBRARY,
                    name=name,
                    identity=f"{fitted!r} {version}",
                    run=_OwnRun(fitted),
                )
            )
    return contenders


def list_peer_contenders(
    names: Sequence[str], norm: str, *, budget: int
) -> tuple[list[Contender], list[str]]:
    """Return the attacks of other libraries for a norm, and a line for each library that is missing.

    Args:
        names: Libraries; empty: all that are installed.
        norm: The norm.
        budget: Maximum forward and backward passes per image, all together.

    Raises:
        ConfigError: If a named library is unknown, not installed or broken.
    """
    contenders, missing = [], []
    for library in _select_libraries(names):
        try:
            attacks = library.load_minimum_norm_attacks(norm)
        except Exception as error:  # a broken installation may raise anything
            problem = f"{library.name} cannot be imported: {extract_first_line(error, 100)}"
            if names:
                raise ConfigError(problem) from error
            missing.append(problem)
            continue
        for name, attack in sorted(attacks.items()):
            steps = max(1, budget // attack.calls_per_step)
            contenders.append(
                Contender(
                    library=library.name,
                    name=name,
                    identity=f"{library.get_version()} steps={steps}",
                    run=_PeerRun(attack, steps),
                )
            )
    absent = [library for library in PEERS if not names and not library.is_installed()]
    return contenders, missing + [
        f"{library.name} is not installed: pip install {library.pip_arguments}" for library in absent
    ]


def fit_to_budget(attack: Attack, threat: ThreatModel, budget: int) -> Attack:
    """Return the attack with the largest number of steps whose maximum cost is within the budget.

    Args:
        attack: An attack; without a parameter ``steps`` it stays as it is.
        threat: The threat model.
        budget: Maximum forward and backward passes per image, all together; one step may exceed it.
    """
    if not hasattr(attack, "steps"):
        return attack
    low, high = 1, max(1, budget)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(_set_steps(attack, middle).estimate_cost(threat)) <= budget:
            low = middle
        else:
            high = middle - 1
    return _set_steps(attack, low)


class _OwnRun:
    """Runs an attack of ours."""

    def __init__(self, attack: Attack) -> None:
        self._attack = attack

    def __call__(self, request: AttackRequest) -> tuple[Tensor, float, float]:
        count = len(request.images)
        stream = RandomStream(request.seed, request.ids, repr(self._attack))
        self._attack.check_support(request.threat, request.classifier)
        with request.classifier.count_passes(count) as counter:
            candidates = self._attack.perturb(
                request.classifier, request.images.clone(), request.labels, request.threat, stream
            )
        forward, backward = counter.forward_passes, counter.backward_passes
        return candidates, float(forward.double().mean()), float(backward.double().mean())


class _PeerRun:
    """Runs an attack of another library."""

    def __init__(self, attack: PeerAttack, steps: int) -> None:
        self._attack, self._steps = attack, steps

    def __call__(self, request: AttackRequest) -> tuple[Tensor, float, float]:
        classifier, count = request.classifier, len(request.images)
        job = PeerJob(
            module=classifier.as_module(),
            images=request.images.clone(),
            labels=request.labels.clone(),
            num_classes=classifier.num_classes,
            eps=request.threat.eps,
            steps=self._steps,
            seed=request.seed,
        )
        classifier.take_external_passes()
        with seed_global_generators(request.seed), torch.enable_grad():
            candidates = self._attack.run(job)
        forward, backward = classifier.take_external_passes()
        return candidates.detach().to(request.images), forward / count, backward / count


def _list_minimum_norm_methods() -> list[str]:
    return [
        name
        for name, method in ATTACK_METHODS.items()
        if {"white-box", "minimum-norm"} <= set(method.kinds) and ATTACKS[name].measure == "distance"
    ]


def _list_methods_of_norm(norm: str) -> list[str]:
    return [name for name in _list_minimum_norm_methods() if norm in ATTACKS[name].norms]


def _select_libraries(names: Sequence[str]) -> list[PeerLibrary]:
    known = {library.name: library for library in PEERS}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no library {name!r}", remedy=did_you_mean(name, list(known)))
        if not known[name].is_installed():
            raise ConfigError(
                f"{name} is not installed", remedy=f"run pip install {known[name].pip_arguments}"
            )
    return [known[name] for name in names] or [library for library in PEERS if library.is_installed()]


def _set_steps(attack: Attack, steps: int) -> Attack:
    changes: dict[str, Any] = {"steps": steps}
    return replace(attack, **changes)
