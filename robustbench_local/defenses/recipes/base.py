"""The base class of recipes: all hyperparameters of a training, checked before the first step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from robustbench_local.defenses.recipes.augmentation import Augmentation
from robustbench_local.defenses.recipes.training_objective import TrainingContext, TrainingObjective
from robustbench_local.errors import CardError


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """The common hyperparameters of every training: length, optimizer and augmentation.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Peak of the schedule.
        weight_decay: Weight decay on all parameters.
        warmup_epochs: Epochs over which the learning rate rises from near 0.
        label_smoothing: Share of the target spread over all classes.
        ema_decay: Decay per step of the averaged weights, which are the weights that are saved.
        fine_tune: Whether to start from the model's weights instead of freshly initialized ones.
        optimizer: ``"sgd"`` with Nesterov momentum, or ``"adamw"``.
        momentum: Momentum of SGD.
        schedule: ``"one-cycle"``: after the warm-up, a cosine decay to 0. ``"piecewise"``: multiplied by a
            tenth at each milestone.
        milestones: Milestones of the piecewise schedule, as fractions of all epochs.
        gradient_clip: Largest L2 norm of all gradients together; 0 for no clipping.
        head_epochs: First epochs, in which only the last layer learns and all others are frozen.
        backbone_rate: Learning rate of all layers but the last, as a share of ``learning_rate``.
        class_sampling: ``"natural"``: each image once an epoch. ``"balanced"``: each class equally often, so
            that images of rare classes come more often than others; the same where classes are equal.
        patience: Epochs without a better result on the validation images after which training ends; 0 for
            all epochs.
        shift: Augmentation: largest shift in pixels, with the border repeated.
        brightness: Augmentation: gain drawn from 1 - brightness to 1 + brightness.
        contrast: Augmentation: distance to the image's mean gray, scaled likewise.
        saturation: Augmentation: distance to each pixel's gray, scaled likewise.
        rotation: Augmentation: largest rotation in degrees.
        zoom: Augmentation: size drawn from 1 - zoom to 1 + zoom.
        flip: Augmentation: classes, by index or name, whose images are mirrored half the time; ``"*"`` means
            all. None by default, since a mirrored "keep right" is "keep left".
    """

    method: ClassVar[str]

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_epochs: int
    label_smoothing: float
    ema_decay: float
    fine_tune: bool = False
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    schedule: Literal["one-cycle", "piecewise"] = "one-cycle"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gradient_clip: float = 0.0
    head_epochs: int = 0
    backbone_rate: float = 1.0
    class_sampling: Literal["natural", "balanced"] = "natural"
    patience: int = 0
    shift: int
    brightness: float
    contrast: float = 0.0
    saturation: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    flip: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        check_condition(
            self.epochs >= 1 and self.batch_size >= 2, "epochs must be at least 1 and batch_size at least 2"
        )
        check_condition(
            0 <= self.warmup_epochs < self.epochs, "warmup_epochs must be at least 0 and below epochs"
        )
        check_condition(self.learning_rate > 0 and self.weight_decay >= 0, "learning_rate must be positive")
        check_condition(
            0 <= self.ema_decay < 1 and 0 <= self.label_smoothing < 1, "a share must be in [0, 1)"
        )
        check_condition(0 <= self.momentum < 1, "momentum must be in [0, 1)")
        check_condition(
            all(0 < milestone < 1 for milestone in self.milestones),
            "milestones must be shares of the epochs, in (0, 1)",
        )
        check_condition(self.gradient_clip >= 0, "gradient_clip must not be negative")
        check_condition(
            0 <= self.head_epochs < self.epochs, "head_epochs must be at least 0 and below epochs"
        )
        check_condition(0 < self.backbone_rate <= 1, "backbone_rate must be above 0 and at most 1")
        check_condition(self.patience >= 0, "patience must not be negative")
        check_condition(
            self.shift >= 0 and 0 <= self.brightness < 1, "shift must not be negative, brightness below 1"
        )
        check_condition(
            all(0 <= value < 1 for value in (self.contrast, self.saturation, self.zoom)),
            "contrast, saturation and zoom must be in [0, 1)",
        )
        check_condition(0 <= self.rotation <= 180, "rotation must be 0 to 180 degrees")

    @abstractmethod
    def build_objective(self, context: TrainingContext) -> TrainingObjective:
        """Build the loss of this recipe, for one training."""

    @property
    def parameters(self) -> dict[str, Any]:
        """All hyperparameters, as on a card."""
        values = asdict(self)
        values.pop("threat", None)
        return values

    def build_augmentation(self, class_names: tuple[str, ...]) -> Augmentation:
        """Build the augmentation of training images, for data with these classes.

        Raises:
            CardError: If ``flip`` names a class that the data does not have.
        """
        everything = "*" in self.flip
        indices = (
            range(len(class_names))
            if everything
            else [_find_class_index(entry, class_names) for entry in self.flip]
        )
        return Augmentation(
            shift=self.shift,
            brightness=self.brightness,
            contrast=self.contrast,
            saturation=self.saturation,
            rotation=self.rotation,
            zoom=self.zoom,
            flip=frozenset(indices),
        )


def check_condition(condition: bool, what: str) -> None:
    """Refuse a recipe that violates a condition.

    Raises:
        CardError: If the condition is false; the message is ``what``.
    """
    if not condition:
        raise CardError(what, where="recipe")


def _find_class_index(entry: int | str, class_names: tuple[str, ...]) -> int:
    is_known = entry in class_names if isinstance(entry, str) else 0 <= entry < len(class_names)
    check_condition(is_known, f"flip names {entry!r}, which is not a class of the data")
    return class_names.index(entry) if isinstance(entry, str) else entry
