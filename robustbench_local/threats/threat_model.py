"""What may happen to an image: a norm and a radius, a family of transformations, or an object."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from robustbench_local.errors import ThreatError, did_you_mean
from robustbench_local.number_parser import parse_number

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["Linf", "L2", "L1", "spatial", "corruption", "sticker", "patch"]
"""What bounds the change: the ball of a norm, a family of transformations that no norm describes, or an
object in front of the camera."""
Goal = Literal["untargeted", "targeted"]
Region = Literal["image", "mask"]

NORMS: tuple[Norm, ...] = get_args(Norm)
BALL_NORMS: frozenset[Norm] = frozenset({"Linf", "L2", "L1"})
"""The norms that are norms: candidates lie in a ball around the original."""
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen common corruptions. Source: Hendrycks & Dietterich 2019, arXiv:1903.12261."""
MAX_SEVERITY = 5
MAX_ROTATION_DEGREES = 180.0
MAX_SHOWN_CHARACTERS = 60
"""Characters of a value that a message repeats."""
STICKER_SHAPES = ("rectangles", "square", "found", "poster")
"""Shapes of a sticker: two bars above and below the middle, a square where the attacker wants it, any pixels
that the attacker finds, the whole surface. Source: Eykholt et al. 2018, arXiv:1707.08945 (not the square)."""
PHYSICAL_NORMS: frozenset[Norm] = frozenset({"sticker", "patch"})
"""Objects that stand before the camera: judged by what it sees from many places, not by one image."""
FAMILY_NAMES = (
    *(norm.lower() for norm in NORMS if norm != "corruption"),
    *(shape for shape in STICKER_SHAPES if shape != "rectangles"),
    *CORRUPTIONS,
)
"""What a threat model's name starts with: ``linf``, ``spatial``, ``apply_fog``, ``sticker``, ``poster``."""

_TRANSFORMATIONS_BY_NORM: dict[Norm, tuple[str, tuple[str, ...]]] = {
    "corruption": ("corruption", CORRUPTIONS),
    "sticker": ("shape of a sticker", STICKER_SHAPES),
}
"""What ``transformation`` names, and what it may name."""
_NORM_SPELLINGS = {norm.lower(): norm for norm in NORMS}
_NORM_SPELLINGS |= {"l_inf": "Linf", "inf": "Linf", "l_2": "L2", "2": "L2", "l_1": "L1", "1": "L1"}


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """A budget and what counts as success.

    Args:
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``: the norm of the perturbation of a whole image, in pixel units
            of [0, 1]. ``"spatial"``: rotation and translation. ``"corruption"``: a common corruption.
            ``"sticker"``: on the surface of the sign. ``"patch"``: a square beside it, the same
            for all images.
        eps: Radius of the ball, at least 0; ``"8/255"`` is read exactly. Spatial: the largest angle in
            degrees, at most 180; the image may also move by ``eps / 300`` of its side in each direction, so
            that 30 means 30 degrees and a tenth (arXiv:1712.02779). Corruption: the severity, 1 to 5.
            Sticker: its area as a share of the sign's surface; patch: as a share of the frame; at most 1. In
            every family 0 leaves the image as it is.
        targets: Class indices the attacker wants to be read; empty means untargeted: any wrong class.
        region: ``"image"``, or ``"mask"`` to confine the perturbation to each image's mask.
        transformation: Which corruption, such as ``"fog"``, or the sticker's shape, one of ``STICKER_SHAPES``;
            empty for every other norm.

    Raises:
        ThreatError: If the norm is unknown, the radius is negative, not finite or impossible in its family, a
            target is negative, or the transformation is missing, unknown or out of place.
    """

    norm: Norm
    eps: float
    targets: tuple[int, ...] = ()
    region: Region = "image"
    transformation: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", parse_norm(self.norm))
        object.__setattr__(self, "eps", parse_eps(self.eps))
        object.__setattr__(self, "targets", tuple(sorted({int(target) for target in self.targets})))
        if any(target < 0 for target in self.targets):
            raise ThreatError(f"target classes must be 0 or more, got {list(self.targets)}")
        if self.region not in get_args(Region):
            raise ThreatError(f"region must be one of {get_args(Region)}, got {self.region!r}")
        _check_family(self)

    def __str__(self) -> str:
        """The short name, with the target classes; ``repr`` says everything."""
        region = " on the mask" if self.region == "mask" else ""
        targets = f" to {', '.join(map(str, self.targets))}" if self.targets else ""
        return f"{self.name}{region}{targets}"

    @property
    def goal(self) -> Goal:
        """``"targeted"`` as soon as there is one target."""
        return "targeted" if self.targets else "untargeted"

    @property
    def is_ball(self) -> bool:
        """Whether a norm bounds the change, so that a candidate image can be judged by its distance."""
        return self.norm in BALL_NORMS

    @property
    def is_physical(self) -> bool:
        """Whether it is an object before the camera, judged over many views."""
        return self.norm in PHYSICAL_NORMS

    @property
    def name(self) -> str:
        """Short name as in cards and gates: ``linf-8`` (eps * 255), ``l2-0.5``, ``spatial-30``, ``fog-3``.

        Shares of a surface are in whole percent, as the field calls them: ``sticker-19`` (two rectangles),
        ``poster-100``, ``patch-10``; below one percent with all their digits.
        """
        if self.is_physical:
            percent = 100 * self.eps
            size = f"{percent:.0f}" if percent >= 1 else f"{percent:.6g}"
        else:
            size = f"{self.eps * 255 if self.norm == 'Linf' else self.eps:.6g}"
        family = "" if self.transformation == "rectangles" else self.transformation
        return f"{family or self.norm.lower()}-{size}"

    def is_success(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Which predictions give the attacker what was wanted.

        Args:
            predictions: Predicted classes, (N,).
            labels: True classes, (N,).

        Returns:
            Boolean, (N,). Untargeted: prediction differs from the label. Targeted: the prediction is one
            of the targets and is not the label (trust invariant V7).
        """
        wrong = predictions != labels
        if not self.targets:
            return wrong
        return wrong & is_target(predictions, self.targets)


def _check_family(threat: ThreatModel) -> None:
    """Refuse what a family that is no ball does not have."""
    if threat.norm not in _TRANSFORMATIONS_BY_NORM and threat.transformation:
        raise ThreatError(f"the norm {threat.norm} has no transformation, got {threat.transformation!r}")
    if not threat.is_ball and threat.region != "image":
        takes = "finds its own place" if threat.is_physical else "transforms the whole image"
        raise ThreatError(f"the norm {threat.norm!r} {takes}", remedy="use region: image")
    if threat.norm == "spatial" and threat.eps > MAX_ROTATION_DEGREES:
        raise ThreatError(
            f"eps is the largest angle, at most {MAX_ROTATION_DEGREES:g} degrees, got {threat.eps:g}"
        )
    if threat.norm in _TRANSFORMATIONS_BY_NORM:
        _check_transformation(threat)
    if threat.is_physical and threat.eps > 1:
        raise ThreatError(f"eps is a share of an area, at most 1, got {threat.eps:g}", remedy="10% is 0.1")
    if threat.transformation == "poster" and threat.eps not in (0, 1):
        raise ThreatError(f"a poster covers the whole surface: eps is 1, got {threat.eps:g}")
    if threat.norm == "corruption" and threat.eps not in range(MAX_SEVERITY + 1):
        raise ThreatError(f"eps is the severity, a whole number from 1 to {MAX_SEVERITY}, got {threat.eps:g}")


def _check_transformation(threat: ThreatModel) -> None:
    """Refuse a corruption or a sticker's shape that does not exist."""
    what, known = _TRANSFORMATIONS_BY_NORM[threat.norm]
    if threat.transformation in known:
        return
    problem = f"unknown {what} {threat.transformation!r}" if threat.transformation else f"no {what} named"
    raise ThreatError(problem, where="transformation", remedy=did_you_mean(threat.transformation, known))


def is_target(classes: Tensor, targets: Collection[int]) -> Tensor:
    """Whether each class index, (N,), is one of ``targets``; boolean, (N,)."""
    wanted = classes.new_tensor(sorted(targets))
    return (classes[:, None] == wanted[None, :]).any(dim=1)


def parse_norm(norm: str) -> Norm:
    """Read a norm in any of its usual spellings.

    Raises:
        ThreatError: If there is no such norm here.
    """
    known = _NORM_SPELLINGS.get(str(norm).lower())
    if known is None:
        raise ThreatError(f"unknown norm {norm!r}", remedy=f"use one of {', '.join(NORMS)}")
    return known


def parse_eps(eps: float | str) -> float:
    """Read a radius: a number, or a fraction such as ``"8/255"``, without rounding in between.

    Raises:
        ThreatError: If it is not a number, negative, NaN or infinite; see
            :func:`~robustbench_local.number_parser.parse_number`.
    """
    try:
        value = parse_number(eps)
    except ValueError:
        if isinstance(eps, float):
            raise ThreatError(f"eps must be finite and at least 0, got {eps!r}") from None
        remedy = 'write a number or a fraction such as "8/255"'
        raise ThreatError(f"cannot read eps {_shorten_value(eps)}", remedy=remedy) from None
    if value < 0:
        raise ThreatError(f"eps must be finite and at least 0, got {eps!r}")
    return value


def _shorten_value(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}..."
