"""Views of a sign: ranges of camera position and light, random views, and the approach of a car."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream

_RANGE_FIELDS = ("distance", "gain", "gamma", "jpeg")
_DRAWN_FIELDS = (
    "distance", "yaw", "pitch", "roll", "shift_x", "shift_y", "gain", "offset", "gamma", "blur", "motion",
    "motion_angle", "noise", "jpeg", "border_position",
)  # fmt: skip
"""The order determines every random number: append only."""


@dataclass(frozen=True, kw_only=True)
class ViewRange:
    """The ranges of uniformly drawn views. Blur and motion are in pixels of a frame 32 pixels wide.

    Args:
        distance: Size of the sign in the image, in pixels, the nearest last.
        yaw: Largest rotation about the vertical, in degrees, in either direction.
        pitch: Largest rotation about the horizontal, in degrees.
        roll: Largest rotation about the line of sight, in degrees.
        shift: Largest error of the crop, as a share of the frame, along each axis: by default the crop's
            position varies over a tenth of the frame.
        gain: Factor on the brightness.
        offset: Largest brightness added or subtracted.
        gamma: Exponents of the contrast curve.
        blur: Largest defocus: sigma of a Gaussian, in pixels.
        motion: Longest streak of a moving camera, in pixels, in any direction.
        noise: Largest standard deviation of the sensor's noise.
        jpeg: Qualities of the compression, 1 to 100.

    Raises:
        ConfigError: If a range is reversed, or a number is not finite or impossible.

    Source: Athalye et al. 2018, arXiv:1707.07397; Eykholt et al. 2018, arXiv:1707.08945; Chen et al. 2018,
    arXiv:1804.05810 (their ranges of angle, light and noise).
    """

    distance: tuple[float, float] = (16.0, 64.0)
    yaw: float = 45.0
    pitch: float = 20.0
    roll: float = 15.0
    shift: float = 0.05
    gain: tuple[float, float] = (0.6, 1.4)
    offset: float = 0.15
    gamma: tuple[float, float] = (0.7, 1.5)
    blur: float = 1.5
    motion: float = 5.0
    noise: float = 0.05
    jpeg: tuple[float, float] = (60.0, 95.0)

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_field(field.name)
        for name, most in (("yaw", 80), ("pitch", 80), ("roll", 180), ("shift", 0.5)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is at most {most}, got {getattr(self, name):g}", where="views")
        if not 1 <= self.jpeg[0] <= self.jpeg[1] <= 100:
            raise ConfigError(f"jpeg qualities are 1 to 100, got {list(self.jpeg)}", where="views")

    def _check_field(self, name: str) -> None:
        """Refuse a number that is negative or not finite, and a range that is reversed or contains zero."""
        value = getattr(self, name)
        low, high = value if name in _RANGE_FIELDS else (value, value)
        if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
            raise ConfigError(f"{name} must be finite, at least 0 and in order, got {value}", where="views")
        if name in _RANGE_FIELDS and low == 0:
            raise ConfigError(f"{name} must be above 0, got {value}", where="views")

    def find_bounds(self, name: str) -> tuple[float, float]:
        """Return the lowest and highest value of a field of :class:`Views`."""
        if name == "motion_angle":
            return 0.0, math.pi
        if name == "border_position":
            return 0.0, 1.0
        value = getattr(self, name.removesuffix("_x").removesuffix("_y"))
        if name in _RANGE_FIELDS:
            return value[0], value[1]
        return (0.0, value) if name in {"blur", "motion", "noise"} else (-value, value)


@dataclass(frozen=True, kw_only=True)
class Views:
    """Views of some signs; every tensor is (N, V), float32 except ``noise_key``."""

    distance: Tensor
    """Size of the sign in pixels."""
    yaw: Tensor
    """Degrees; positive: the sign's right side is nearer."""
    pitch: Tensor
    """Degrees; positive: its upper side is nearer."""
    roll: Tensor
    """Degrees, clockwise as the viewer sees it."""
    shift_x: Tensor
    """Share of the frame to the right."""
    shift_y: Tensor
    """Share of the frame down."""
    gain: Tensor
    """Factor on the brightness."""
    offset: Tensor
    """Added to the brightness."""
    gamma: Tensor
    """Exponent of the contrast curve."""
    blur: Tensor
    """Sigma in pixels of a frame 32 pixels wide."""
    motion: Tensor
    """Length of the streak, in the same pixels."""
    motion_angle: Tensor
    """Direction of the streak in radians, from the rows downwards."""
    noise: Tensor
    """Standard deviation of the sensor's noise."""
    jpeg: Tensor
    """JPEG quality, 1 to 100; 0 means no compression."""
    border_position: Tensor
    """Position along the frame's border of an object beside the sign, in [0, 1)."""
    noise_key: Tensor
    """int64: key of the random stream of the view's noise."""

    @property
    def count(self) -> int:
        """V: the number of views of a sign."""
        return self.noise_key.shape[1]

    def select_signs(self, signs: Sequence[int] | Tensor) -> Views:
        """Return the views of some of the signs, in the given order."""
        chosen = torch.as_tensor(signs, dtype=torch.int64, device=self.noise_key.device)
        return self._map_tensors(lambda tensor: tensor[chosen])

    def slice_views(self, start: int, stop: int) -> Views:
        """Return views ``start`` to ``stop`` of every sign."""
        return self._map_tensors(lambda tensor: tensor[:, start:stop])

    def to(self, device: torch.device | str) -> Views:
        """Return the views on another device."""
        return self._map_tensors(lambda tensor: tensor.to(device))

    def _map_tensors(self, change: Callable[[Tensor], Tensor]) -> Views:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


def build_plain_views(signs: int, count: int = 1, *, device: torch.device | str = "cpu") -> Views:
    """Build views in which the camera only rounds to 8 bits: near, from the front, in even light.

    Args:
        signs: N, the number of signs.
        count: V, the number of views per sign.
        device: Device of the result.
    """
    zeros = torch.zeros(signs, count, device=device)
    values = dict.fromkeys(_DRAWN_FIELDS, zeros)
    values |= {"gain": zeros + 1, "gamma": zeros + 1, "distance": zeros + torch.inf}
    return Views(**values, noise_key=zeros.long())


def sample_views(
    stream: RandomStream, count: int, ranges: ViewRange, *, draw: str, device: torch.device | str
) -> Views:
    """Sample random views of signs, each from the sign's own stream.

    Args:
        stream: The signs' random numbers.
        count: Views per sign; a larger count only adds views.
        ranges: The ranges of the views.
        draw: Name of the draw; other names give other views.
        device: Device of the result; every device gives the same views.

    Returns:
        Views of shape (N, count).
    """
    unit = stream.sample_uniform((count, len(_DRAWN_FIELDS)), draw=f"views {draw}", device=device)
    values = {}
    for index, name in enumerate(_DRAWN_FIELDS):
        low, high = ranges.find_bounds(name)
        values[name] = low + (high - low) * unit[..., index]
    return Views(**values, noise_key=_compute_noise_keys(stream, count, draw, device))


def sample_approach(
    stream: RandomStream, ranges: ViewRange, *, frames: int = 60, device: torch.device | str = "cpu"
) -> Views:
    """Sample the views from a car that drives past the sign at constant speed.

    The sign's size is inversely proportional to the remaining distance. The sign is beside the road, so its
    yaw grows as well. Light, lens, compression and the object beside the sign are constant during the drive;
    crop, roll and pitch vary by a quarter of their range, and motion and noise are new in every frame.

    Args:
        stream: The signs' random numbers; each sign has its own drive.
        ranges: The ranges of the drive.
        frames: Number of frames from the farthest to the nearest view.
        device: Device of the result.

    Returns:
        Views of shape (N, frames).
    """
    drive = sample_views(stream, 1, ranges, draw="drive", device=device)
    views = sample_views(stream, frames, ranges, draw="frames", device=device)
    far, near = ranges.distance
    remaining = torch.linspace(1.0, far / near, frames, device=device).expand(len(stream.ids), frames)
    # the sign's largest yaw is reached at the nearest frame, because tan(yaw) grows as 1 / remaining
    side = torch.deg2rad(drive.yaw).tan() * (far / near)
    constant_fields = ("gain", "offset", "gamma", "blur", "jpeg", "border_position")
    values = {name: getattr(drive, name).expand(-1, frames) for name in constant_fields}
    values |= {name: getattr(views, name) / 4 for name in ("shift_x", "shift_y", "roll", "pitch")}
    return replace(views, **values, distance=far / remaining, yaw=torch.rad2deg((side / remaining).atan()))


def _compute_noise_keys(stream: RandomStream, count: int, draw: str, device: torch.device | str) -> Tensor:
    """Return the key of each view's noise stream: (N, count)."""
    first = stream.compute_keys(f"noise {draw}", device)
    return first[:, None] + torch.arange(count, dtype=torch.int64, device=device)
