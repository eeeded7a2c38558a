"""What an inspection finds out about a model: plain values that can be pickled and written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

LayerFault = Literal["cut", "zero", "nonfinite", "contradicted", "saturated"]
PartRole = Literal["member", "base"]
Answers = Literal["scores", "labels"]
"""What a model's answers say where it gives no gradient."""


@dataclass(frozen=True, kw_only=True)
class GradientFindings:
    """The gradients at the pixels, over the probed images that are classified correctly (all if none is)."""

    has_graph: bool
    """Whether a graph leads from the output to the pixels."""
    has_access: bool = True
    """Whether the attacker may ask for gradients."""
    error: str = ""
    """The first line of the exception that the backward pass raised; empty if none."""
    zero_margin_share: float = 0.0
    """Share of images whose margin loss has a gradient of exactly zero."""
    tiny_margin_share: float = 0.0
    """Share of images whose margin loss has a gradient with no entry of 1e-10 or more."""
    zero_cross_entropy_share: float = 0.0
    """Share of images whose cross-entropy has a gradient of exactly zero."""
    tiny_cross_entropy_share: float = 0.0
    """Share of images whose cross-entropy has a gradient with no entry of 1e-10 or more."""
    nonfinite_share: float = 0.0
    """Share of images whose margin loss has a gradient with NaN or infinite entries."""
    cosine: float | None = None
    """Median cosine between the slopes that the gradient predicts along 8 sign directions and the central
    finite differences of the margin loss; None if no difference is informative."""
    relative_error: float | None = None
    """Median norm of the difference of the two, relative to that of the finite differences."""
    surrogate_cosine: float | None = None
    """Median cosine with the gradient through surrogates of all operators; near 1 if there are none, or if
    the model declares surrogates itself. None if one of the two is missing."""
    informative_share: float = 0.0
    """Share of images whose loss changes by more than rounding along the directions."""
    images: int = 0
    """Number of images that the shares refer to."""


@dataclass(frozen=True, kw_only=True)
class LogitFindings:
    """The scale of the logits, over all probed images."""

    range: float
    """Median of the largest minus the smallest logit of an image."""
    are_probabilities: bool
    """Whether all rows are in [0, 1] and sum to 1."""
    saturated_share: float
    """Share of images whose softmax (or output, if these are probabilities) is exactly 0 or 1 in float32."""
    are_labels: bool = False
    """Whether an answer says no more than the label: one value for it and another one for all other classes,
    the same for every image."""


@dataclass(frozen=True, kw_only=True)
class RandomnessFindings:
    """Differences between repeated forward passes on the same images."""

    max_difference: float
    """Largest L2 distance between the unit-normalized logits of one image in two of 5 passes."""
    changed_labels: int
    """Number of images whose label differs between passes."""
    is_repeated_by_seed: bool
    """Whether the same seed of the global generators gives the same logits."""
    draws: int = 1
    """Draws that a gradient has to average, from the variance between draws; 1 for a deterministic model."""

    @property
    def is_random(self) -> bool:
        """Whether the differences exceed rounding: limit 1e-4 as in AutoAttack's check."""
        return self.max_difference > MAX_ROUNDING_DIFFERENCE


MAX_ROUNDING_DIFFERENCE = 1e-4
"""Largest difference of unit-normalized logits that is not yet random.

Source: the check for randomized defenses of AutoAttack; deterministic networks give 0."""


@dataclass(frozen=True, kw_only=True)
class OperatorFinding:
    """An operator whose gradient does not describe it, between the pixels and the output."""

    path: str
    """Path of the module in whose forward it is called; "" for the model itself."""
    operator: str
    """Its name: round, floor, sign, threshold, argmax, top-k mask, integer cast, detach, no_grad, ..."""
    count: int
    """Number of calls in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class LayerFinding:
    """An innermost module at which the gradient goes wrong, by finite differences of the module itself.

    Modules are compared only where the gradient of the whole is unsound.
    """

    path: str
    """Path of the module; "" for the model itself."""
    kind: LayerFault
    """``cut``: no graph from its output to its input; ``zero``: zero gradient although its output changes;
    ``nonfinite``: NaN or infinite; ``contradicted``: another slope than the finite differences';
    ``saturated``: activations whose correct gradient nearly vanishes for most units."""
    keeps_shape: bool = False
    """Whether input and output have the same shape."""
    inputs: int = 0
    """Number of input values per image."""
    is_affine: bool = False
    """Whether it is affine up to 10 %, so that one Jacobian describes it at all images."""
    is_declared_identity: bool = False
    """Whether it, or a module around it, has the gradient of the identity by its own doing."""


@dataclass(frozen=True, kw_only=True)
class PartInput:
    """How a part is fed directly with the images that the model gets.

    The part's input is ``slope * channel + offset``, after resizing to ``size``: the straight line closest to
    what the model feeds it.
    """

    slopes: tuple[float, ...]
    """One per channel."""
    offsets: tuple[float, ...]
    """One per channel."""
    size: tuple[int, int] | None = None
    """(H, W), if it differs from the images'."""


@dataclass(frozen=True, kw_only=True)
class PartFinding:
    """A submodule that is a classifier of images itself."""

    path: str
    """Path of the module, or of the attribute, list entry or closure variable that holds it."""
    role: PartRole
    """``member`` of an ensemble; ``base``: the network under a defense."""
    agreement: float
    """Share of the probed images to which it gives the same label as the whole model, fed directly."""
    input: PartInput
    """How it is fed directly."""
    gives_probabilities: bool = False
    """Whether its outputs are probabilities."""


@dataclass(frozen=True, kw_only=True)
class ModelFindings:
    """Everything that an inspection found."""

    gradients: GradientFindings
    logits: LogitFindings
    randomness: RandomnessFindings
    operators: tuple[OperatorFinding, ...] = ()
    layers: tuple[LayerFinding, ...] = ()
    parts: tuple[PartFinding, ...] = ()
    selections: tuple[OperatorFinding, ...] = ()
    """Functions that choose values by rank, such as median or sort: their gradient is right, but only that of
    the values chosen."""
    optimizes_inside: bool = False
    """Whether its forward calls autograd."""
    surrogate_error: str = ""
    """Why the pass with surrogates failed, so that operators are not known; empty if it did not."""
    is_wrapped: bool = False
    """Whether a wrapper defense of this package is around the model."""
    images: int
    """Number of probed images."""
    passes: tuple[int, int]
    """Forward and backward passes of the inspection, over all probed images."""

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the findings of `to_json`."""
        return cls(
            gradients=GradientFindings(**values["gradients"]),
            logits=LogitFindings(**values["logits"]),
            randomness=RandomnessFindings(**values["randomness"]),
            operators=tuple(OperatorFinding(**entry) for entry in values["operators"]),
            layers=tuple(LayerFinding(**entry) for entry in values["layers"]),
            parts=tuple(read_part(entry) for entry in values["parts"]),
            selections=tuple(OperatorFinding(**entry) for entry in values.get("selections", ())),
            optimizes_inside=values["optimizes_inside"],
            surrogate_error=values["surrogate_error"],
            is_wrapped=values["is_wrapped"],
            images=values["images"],
            passes=(values["passes"][0], values["passes"][1]),
        )


@dataclass(frozen=True, kw_only=True)
class StudentRecord:
    """A trained student as plain values, from which the same one is rebuilt."""

    channels: int
    """Color channels of the images."""
    num_classes: int
    """K."""
    answers: Answers
    """What it learned from."""
    queries: int
    """Number of the model's answers that it learned from."""
    agreement: float
    """Share of fresh queries on which its label is the model's."""
    weights: str
    """Its weights in half precision, compressed, base64."""


def read_part(values: dict[str, Any]) -> PartFinding:
    """Return a part from its fields as JSON values."""
    entry = values["input"]
    size = None if entry["size"] is None else (int(entry["size"][0]), int(entry["size"][1]))
    part_input = PartInput(slopes=tuple(entry["slopes"]), offsets=tuple(entry["offsets"]), size=size)
    return PartFinding(**{**values, "input": part_input})
