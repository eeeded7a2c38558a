"""Attacks of other libraries: AutoAttack as published, and any attack of torchattacks.

Both draw random numbers for a whole batch from torch's global generator. The harness therefore gives them
fixed groups of images, seeds each group separately and restores the global generators afterwards.
"""

from __future__ import annotations

import importlib
import inspect
import io
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adapters.sandbox import (
    FiniteLogits,
    seed_global_generators,
    silence_autoattack,
)
from robustbench_local.attacks.base import AttackInputs, BallAttack
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, DataError, ThreatError, did_you_mean, format_install_command
from robustbench_local.threats.lp_ball import project_to_box
from robustbench_local.threats.threat_model import ThreatModel

TORCHATTACKS_PREFIX = "torchattacks:"
_INSTALL_COMMAND = format_install_command("torchattacks")


@dataclass(frozen=True, kw_only=True)
class ReferenceAutoAttack(BallAttack):
    """AutoAttack as its authors published it, run by ``pyautoattack``: the reference for ``AutoAttack``.

    APGD on the cross-entropy, targeted APGD on the DLR loss, targeted FAB and Square; each stage attacks the
    images that all earlier stages failed on. With fewer than ten classes every other class is a target. The
    targeted DLR loss needs four classes: with three, untargeted DLR replaces it; with two, the stage is
    dropped.

    Args:
        version: ``"standard"``.

    Source: Croce & Hein 2020, arXiv:2003.01690.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2", "L1"})
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})
    per_image: ClassVar[bool] = False

    version: Literal["standard"] = "standard"

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Run the four attacks on one group; see :meth:`BallAttack.find_candidates`."""
        classifier, images, threat = inputs.classifier, inputs.images, inputs.threat
        height, width = images.shape[-2:]
        if threat.norm == "L2" and min(height, width) < 5:
            need = "AutoAttack's Square needs images of at least 5 x 5 pixels under L2"
            raise DataError(f"{need}, these are {height} x {width}", remedy="use pgd")
        seed = inputs.stream.compute_batch_seed() & 0x7FFFFFFF
        guard = _wrap_classifier(classifier, images, threat)
        with seed_global_generators(seed), silence_autoattack():
            attack = importlib.import_module("pyautoattack").AutoAttack(
                guard, norm=threat.norm, eps=threat.eps, seed=seed, version=self.version, device=images.device
            )
            attack.attacks_to_run = list(_list_stages(classifier.num_classes))
            other_class_count = classifier.num_classes - 1
            attack.fab.n_target_classes = min(9, other_class_count)
            attack.apgd_targeted.n_target_classes = min(_count_apgd_targets(threat), other_class_count)
            candidates, _ = attack.run_standard_evaluation(images, inputs.labels, batch_size=len(images))
        return guard.replace_nonfinite_candidates(candidates)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Return the cost of an image that survives every stage, for ten or more classes."""
        if threat.eps == 0:
            return (0, 0)
        apgd, fab, square = 101, 200, 5001
        paths = _count_apgd_targets(threat) + (5 if threat.norm == "L1" else 1)
        return (apgd * paths + fab * 9 + square + 50, apgd * paths + fab // 2 * 9)

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002
        """Describe the stages that differ from the standard version with fewer than four classes."""
        if classifier.num_classes >= 4:
            return ""
        stages = ", ".join(_list_stages(classifier.num_classes))
        return f"the targeted DLR loss needs 4 classes: with {classifier.num_classes}, AutoAttack is {stages}"


@dataclass(frozen=True, kw_only=True)
class TorchattacksAttack(BallAttack):
    """An attack of torchattacks, given by its class name there and its keyword parameters.

    Args:
        name: Class name, such as ``"PGD"``.
        parameters: Keyword arguments of that class, except norm, radius, number of classes and seed, which
            come from the threat model, the classifier and the run.

    Raises:
        ConfigError: If torchattacks is not installed, or has no such attack or parameter.

    Source: Kim 2020, arXiv:2010.01950; each attack cites its own paper.
    """

    per_image: ClassVar[bool] = False

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        allowed = {key: _read_signature(self.name)[key] for key in self.list_parameter_names()}
        for key, value in self.parameters.items():
            if key in _RESERVED_PARAMETERS:
                remedy = "remove it: the threat model, the classifier and the run decide it"
                raise ConfigError(
                    f"{TORCHATTACKS_PREFIX}{self.name} does not take {key!r} from a card", remedy=remedy
                )
            if key not in allowed:
                raise ConfigError(
                    f"{TORCHATTACKS_PREFIX}{self.name} has no parameter {key!r}",
                    remedy=did_you_mean(key, allowed),
                )
            if not _is_same_type(value, allowed[key].default):
                type_name = type(allowed[key].default).__name__
                raise ConfigError(
                    f"{TORCHATTACKS_PREFIX}{self.name}: {key} must be of type {type_name}, got {value!r}"
                )
        object.__setattr__(self, "parameters", dict(sorted(self.parameters.items())))

    def find_candidates(self, inputs: AttackInputs) -> Tensor:
        """Run the attack on one group; see :meth:`BallAttack.find_candidates`."""
        classifier, images, threat = inputs.classifier, inputs.images, inputs.threat
        if not bool(((images >= 0) & (images <= 1)).all()):
            raise DataError(
                "torchattacks would silently clip images outside [0, 1]", remedy="rescale the images"
            )
        seed = inputs.stream.compute_batch_seed() & 0x7FFFFFFF
        guard = _wrap_classifier(classifier, images, threat)
        attack = self._build_attack(guard, classifier, threat, seed)
        labels = inputs.labels
        type_name = torch.full_like(labels, threat.targets[0]) if threat.targets else labels
        with seed_global_generators(seed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidates = guard.replace_nonfinite_candidates(attack(images, type_name).detach())
        return candidates if self._takes_eps else project_to_box(candidates, images, threat)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:
        """Estimate the cost from the number of steps or queries; torchattacks does not state it."""
        values = {key: parameter.default for key, parameter in _read_signature(self.name).items()} | dict(
            self.parameters
        )
        steps = next(
            (int(values[key]) for key in ("n_queries", "steps", "max_iterations") if key in values), 1
        )
        return (steps, 0 if "n_queries" in values else steps) if threat.eps else (0, 0)

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Attack.check_support`; also checks the limits of this attack of torchattacks."""
        super().check_support(threat, classifier)
        norms = _list_norms(self.name)
        if threat.norm not in norms:
            reach = (
                f"its norm is {' or '.join(norms)}" if norms else "it bounds neither the Linf nor the L2 norm"
            )
            raise ThreatError(f"{TORCHATTACKS_PREFIX}{self.name} cannot run under {threat.norm}: {reach}")
        if len(threat.targets) > 1:
            remedy = "use one target, or pgd, which takes a set"
            raise ThreatError(
                f"{TORCHATTACKS_PREFIX}{self.name} takes one target class, not {len(threat.targets)}",
                remedy=remedy,
            )
        if self.name in {"APGDT", "AutoAttack"} and classifier.num_classes < 4:
            raise ThreatError(
                f"{TORCHATTACKS_PREFIX}{self.name} needs 4 classes, the model has {classifier.num_classes}"
            )
        if (
            threat.targets
            and "targeted"
            not in self._build_attack(classifier.as_module(), classifier, threat, seed=0).supported_mode
        ):
            raise ThreatError(
                f"{TORCHATTACKS_PREFIX}{self.name} has no targeted mode",
                remedy="use another attack, such as pgd",
            )

    def describe_caveats(self, classifier: Classifier, threat: ThreatModel) -> str:  # noqa: ARG002
        """Describe known faults of the attack, and the handling of an attack without a radius."""
        notes = [_KNOWN_FAULTS[self.name]] if self.name in _KNOWN_FAULTS else []
        if not self._takes_eps:
            notes.append("it has no radius of its own, so what it found was projected onto the ball")
        return f"torchattacks: {'; '.join(notes)}" if notes else ""

    def list_parameter_names(self) -> tuple[str, ...]:
        """Return the keyword parameters that a card may set."""
        return tuple(key for key in _read_signature(self.name) if key not in _RESERVED_PARAMETERS)

    @property
    def _takes_eps(self) -> bool:
        return bool({"eps", "max_epsilon"} & set(_read_signature(self.name)))

    def _build_attack(self, model: nn.Module, classifier: Classifier, threat: ThreatModel, seed: int) -> Any:
        """Build the torchattacks object for this model, threat model and seed."""
        decided = {
            "eps": threat.eps,
            "max_epsilon": threat.eps,
            "norm": threat.norm,
            "seed": seed,
            "n_classes": min(classifier.num_classes, 10),
        }
        arguments = {key: value for key, value in decided.items() if key in _read_signature(self.name)}
        with redirect_stdout(io.StringIO()):
            attack = getattr(_import_torchattacks(), self.name)(model.eval(), **arguments, **self.parameters)
            attack.set_device(classifier.device)
            if threat.targets and "targeted" in attack.supported_mode:
                attack.set_mode_targeted_by_label(quiet=True)
        return attack


_RESERVED_PARAMETERS = frozenset({"eps", "max_epsilon", "norm", "seed", "n_classes", "verbose"})
_L2_ATTACKS = frozenset({"CW", "PGDL2", "PGDRSL2", "DeepFool", "EADEN"})
_UNSUPPORTED_NORM_ATTACKS = frozenset({"JSMA", "SparseFool", "OnePixel", "Pixle", "EADL1"})
_KNOWN_FAULTS: Mapping[str, str] = {
    "CW": "its C&W does nothing where all logits are negative (issue 184) and stops for whole batches",
    "AutoAttack": "it takes 10 steps where the published AutoAttack takes 100 (issue 188): use autoattack",
    "SPSA": "its SPSA makes 1 iteration by default, where the paper makes 100",
}


def _count_apgd_targets(threat: ThreatModel) -> int:
    """Return the number of target classes of the targeted APGD in the standard version."""
    return 5 if threat.norm == "L1" else 9


def _list_stages(num_classes: int) -> tuple[str, ...]:
    """Return the attacks of the standard version that are defined for this number of classes."""
    if num_classes >= 4:
        return ("apgd-ce", "apgd-t", "fab-t", "square")
    return ("apgd-ce", "apgd-dlr", "fab-t", "square") if num_classes == 3 else ("apgd-ce", "fab-t", "square")


def _wrap_classifier(classifier: Classifier, images: Tensor, threat: ThreatModel) -> FiniteLogits:
    """Wrap the classifier for other libraries.

    Raises:
        ModelError: If it gives no gradients; the libraries would fail with a message of torch.
    """
    classifier.compute_gradient(images[:1], lambda logits: logits.sum(dim=1))
    return FiniteLogits(classifier.as_module(images), images, threat, classifier.num_classes)


def _import_torchattacks() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("torchattacks")
    except ImportError:
        raise ConfigError("torchattacks is not installed", remedy=f"run {_INSTALL_COMMAND}") from None


def _read_signature(name: str) -> Mapping[str, inspect.Parameter]:
    """Return the keyword parameters of an attack of torchattacks.

    Raises:
        ConfigError: If it is not installed or has no such attack.
    """
    library = _import_torchattacks()
    names = set(library.__all__) - set(library.__wrapper__)
    if name not in names:
        raise ConfigError(f"torchattacks has no attack {name!r}", remedy=did_you_mean(name, names))
    parameters = inspect.signature(getattr(library, name)).parameters
    return {key: parameter for key, parameter in parameters.items() if key != "model"}


def _list_norms(name: str) -> tuple[str, ...]:
    """Return the norms of this package that an attack of torchattacks supports."""
    if name in _UNSUPPORTED_NORM_ATTACKS:
        return ()
    if "norm" in _read_signature(name) or name in {"VANILA", "GN"}:
        return ("Linf", "L2")
    return ("L2",) if name in _L2_ATTACKS else ("Linf",)


def _is_same_type(value: Any, default: Any) -> bool:
    """Return whether a value has the type of the default."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(default))
