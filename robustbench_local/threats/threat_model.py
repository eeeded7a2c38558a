"""Threat models: a norm and a radius, a family of transformations, or a physical object."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from robustbench_local.errors import ThreatError, did_you_mean
from robustbench_local.number_parser import parse_number

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["Linf", "L2", "L1", "L0", "spatial", "corruption", "sticker", "patch"]
"""The bound of a perturbation: the ball of a norm, a family of transformations without a norm, or an object
in front of the camera."""
Goal = Literal["untargeted", "targeted"]
Region = Literal["image", "mask"]

NORMS: tuple[Norm, ...] = get_args(Norm)
BALL_NORMS: frozenset[Norm] = frozenset({"Linf", "L2", "L1", "L0"})
"""Norms, with the number of changed pixels among them: candidates are in a ball around the original."""
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
"""Longest quotation of a value in a message."""
STICKER_SHAPES = ("rectangles", "square", "found", "poster")
"""Shapes of a sticker: two bars above and below the middle, a square at a position that the attacker chooses,
any pixels that the attacker chooses, the whole surface. Source: Eykholt et al. 2018, arXiv:1707.08945 (except
the square)."""
PHYSICAL_NORMS: frozenset[Norm] = frozenset({"sticker", "patch"})
"""Objects in front of the camera, evaluated over many views instead of one image."""
FAMILY_NAMES = (
    *(norm.lower() for norm in NORMS if norm != "corruption"),
    *(shape for shape in STICKER_SHAPES if shape != "rectangles"),
    *CORRUPTIONS,
)
"""Prefixes of threat models' names: ``linf``, ``spatial``, ``fog``, ``sticker``, ``poster``."""

_TRANSFORMATIONS_BY_NORM: dict[Norm, tuple[str, tuple[str, ...]]] = {
    "corruption": ("corruption", CORRUPTIONS),
    "sticker": ("shape of a sticker", STICKER_SHAPES),
}
"""Norm -> meaning and valid values of ``transformation``."""
_NORM_SPELLINGS = {norm.lower(): norm for norm in NORMS}
_NORM_SPELLINGS |= {
    "l_inf": "Linf",
    "inf": "Linf",
    "l_2": "L2",
    "2": "L2",
    "l_1": "L1",
    "1": "L1",
    "l_0": "L0",
    "0": "L0",
}


@dataclass(frozen=True, kw_only=True)
class ThreatModel:
    """A perturbation budget and the attacker's goal.

    Args:
        norm: ``"Linf"``, ``"L2"`` or ``"L1"``: the norm of the perturbation of a whole image, in pixel units
            of [0, 1]. ``"L0"``: the number of changed pixels; a pixel counts once, whatever number of its
            channels changes, and its new color is free. ``"spatial"``: rotation and translation.
            ``"corruption"``: a common corruption. ``"sticker"``: on the surface of the sign. ``"patch"``: a
            square beside it, the same for all images.
        eps: Radius of the ball, at least 0; ``"8/255"`` is read exactly. L0: a whole number. Spatial: the
            largest angle in degrees, at most 180; the image may also move by ``eps / 300`` of its side in
            each direction, so that 30 means 30 degrees and a tenth (arXiv:1712.02779). Corruption: the
            severity, 1 to 5.
            Sticker: its area as a share of the sign's surface; patch: as a share of the frame; at most 1. In
            every family 0 leaves the image unchanged.
        targets: Target class indices; empty means untargeted: any wrong class.
        region: ``"image"``, or ``"mask"`` to confine the perturbation to each image's mask.
        transformation: The corruption, such as ``"fog"``, or the sticker's shape, one of ``STICKER_SHAPES``;
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
        """Return the short name with the target classes; ``repr`` has all fields."""
        region = " on the mask" if self.region == "mask" else ""
        targets = f" to {', '.join(map(str, self.targets))}" if self.targets else ""
        return f"{self.name}{region}{targets}"

    @property
    def goal(self) -> Goal:
        """``"targeted"`` if there is a target, else ``"untargeted"``."""
        return "targeted" if self.targets else "untargeted"

    @property
    def is_ball(self) -> bool:
        """True if a norm bounds the perturbation, so that a candidate can be checked by its distance."""
        return self.norm in BALL_NORMS

    @property
    def is_physical(self) -> bool:
        """True for an object in front of the camera, evaluated over many views."""
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
        """Mark the predictions that reach the attacker's goal.

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
    """Refuse options that a family without a ball does not have."""
    if threat.norm not in _TRANSFORMATIONS_BY_NORM and threat.transformation:
        raise ThreatError(f"the norm {threat.norm} has no transformation, got {threat.transformation!r}")
    if not threat.is_ball and threat.region != "image":
        behavior = "chooses its own position" if threat.is_physical else "transforms the whole image"
        raise ThreatError(f"the norm {threat.norm!r} {behavior}", remedy="use region: image")
    if threat.norm == "L0" and not threat.eps.is_integer():
        raise ThreatError(
            f"under L0 eps is a number of pixels, got {threat.eps:g}", remedy="use a whole number"
        )
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
    """Refuse an unknown corruption or shape of a sticker."""
    noun, known = _TRANSFORMATIONS_BY_NORM[threat.norm]
    if threat.transformation in known:
        return
    problem = f"unknown {noun} {threat.transformation!r}" if threat.transformation else f"no {noun} named"
    raise ThreatError(problem, where="transformation", remedy=did_you_mean(threat.transformation, known))


def is_target(classes: Tensor, targets: Collection[int]) -> Tensor:
    """Mark the class indices, (N,), that are among ``targets``; boolean, (N,)."""
    wanted = classes.new_tensor(sorted(targets))
    return (classes[:, None] == wanted[None, :]).any(dim=1)


def parse_norm(norm: str) -> Norm:
    """Parse a norm in any of its usual spellings.

    Raises:
        ThreatError: If the norm is unknown.
    """
    known = _NORM_SPELLINGS.get(str(norm).lower())
    if known is None:
        raise ThreatError(f"unknown norm {norm!r}", remedy=f"use one of {', '.join(NORMS)}")
    return known


def parse_eps(eps: float | str) -> float:
    """Parse a radius: a number, or a fraction such as ``"8/255"``, without intermediate rounding.

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
