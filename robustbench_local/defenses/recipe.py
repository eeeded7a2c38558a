"""Recipe: everything that decides how a model is trained, checked before the first step."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from robustbench_local.catalogue import Card
from robustbench_local.errors import CardError
from robustbench_local.suggestion import did_you_mean
from robustbench_local.threat import ThreatModel


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Ordinary training: stochastic gradient descent on clean images.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images a step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: On all parameters.
        warmup_epochs: Over which the learning rate rises; afterwards it falls along a cosine.
        label_smoothing: Share of the target spread over all classes.
        ema_decay: Decay a step of the averaged weights, which are the ones kept.
        shift: Augmentation: largest move in pixels, border repeated. There are no flips: they would turn
            "keep right" into "keep left".
        brightness: Augmentation: gain drawn from 1 - brightness to 1 + brightness.
    """

    method: ClassVar[str] = "standard"

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    label_smoothing: float
    ema_decay: float
    shift: int
    brightness: float

    def __post_init__(self) -> None:
        _require(
            self.epochs >= 1 and self.batch_size >= 2, "epochs must be at least 1 and batch_size at least 2"
        )
        _require(0 <= self.warmup_epochs < self.epochs, "warmup_epochs must be at least 0 and below epochs")
        _require(self.learning_rate > 0 and self.weight_decay >= 0, "learning_rate must be positive")
        _require(0 <= self.ema_decay < 1 and 0 <= self.label_smoothing < 1, "a share must be in [0, 1)")
        _require(self.shift >= 0 and 0 <= self.brightness < 1, "shift and brightness must not be negative")

    @property
    def parameters(self) -> dict[str, Any]:
        """All hyper-parameters, as a card has them."""
        values = asdict(self)
        values.pop("threat", None)
        return values


@dataclass(frozen=True, kw_only=True)
class AdversarialRecipe(Recipe):
    """Adversarial training: each batch is replaced by its own PGD examples.

    Attributes:
        threat: Norm Linf; the full radius.
        steps: PGD steps a batch, from a random start.
        step_size: In units of the radius.
        eps_warmup_epochs: Over which the radius grows from 0 to its full size.

    Source: Madry et al. 2018, sec. 2.1.
    """

    method: ClassVar[str] = "pgd-at"

    threat: ThreatModel
    steps: int
    step_size: float
    eps_warmup_epochs: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.threat.norm == "Linf", f"trains against Linf only, not {self.threat.norm}")
        _require(self.steps >= 1 and self.step_size > 0, "steps must be at least 1 and step_size positive")
        _require(0 <= self.eps_warmup_epochs <= self.epochs, "eps_warmup_epochs must be 0 to epochs")


_RECIPES: dict[str, type[Recipe]] = {kind.method: kind for kind in (Recipe, AdversarialRecipe)}


def read_recipe(card: Card) -> Recipe:
    """The recipe that a defense's card describes.

    Raises:
        CardError: If the card's method is no training recipe, or a parameter is missing, unknown or
            impossible.
    """
    where = f"card {card.name}"
    if card.method not in _RECIPES:
        raise CardError(
            f"{card.method!r} is no training recipe", where=where, remedy=did_you_mean(card.method, _RECIPES)
        )
    kind = _RECIPES[card.method]
    values = dict(card.parameters)
    if kind is AdversarialRecipe:
        if card.threat is None:
            raise CardError(
                "adversarial training needs a threat model", where=where, remedy="add threat: to the card"
            )
        values["threat"] = card.threat.model()
    known = {field.name for field in fields(kind)}
    for name in values.keys() - known:
        raise CardError(f"unknown parameter {name!r}", where=where, remedy=did_you_mean(name, known))
    if missing := sorted(known - values.keys()):
        raise CardError(f"parameter {missing[0]!r} is missing", where=where)
    try:
        return kind(**values)
    except (CardError, TypeError) as error:
        what = error.what if isinstance(error, CardError) else "a parameter has the wrong type"
        raise CardError(what, where=where) from None


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise CardError(what, where="recipe")
