"""Randomness that belongs to the image: a stream each, whatever the batch (trust invariants V8, V9).

A number is a function of the run's seed, the image's id, the attack, the name of the draw and its place in
it, and of nothing else: a counter run through a mixing function, computed for the whole batch at once. So
an image gets the same numbers in any batch, at any place, on any device, and no draw touches the global
generators.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DrawName = str | int
"""Name of a draw, such as a restart."""

_STRIDE = 0x9E3779B97F4A7C15 - 2**64
_MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_RANDOM_BITS = 24
"""Random bits of a number: as many as float32 has for all numbers of [0, 1)."""
_CACHE_COUNTERS = 1 << 15
"""Counters that a core mixes at a time: few enough to stay in its cache."""
_POINT_STEP = 2.0**-10
"""Steps in which `keys_at` measures: a thousand times what rounding adds up to over 3,072 pixels, and a
fraction of what one step of an attack does."""


def derive_seed(*parts: str | int) -> int:
    """A seed that depends on every part and on their order.

    Args:
        parts: What the seed belongs to, such as a run's seed, an image's id, an attack, a restart.

    Returns:
        At least 0 and below 2**63. ``1`` and ``"1"`` differ, and so do ``"ab", "c"`` and ``"a", "bc"``.
    """
    return _hash_seed(b"".join(map(_encode_part, parts)))


def _encode_part(part: str | int) -> bytes:
    """A part of a seed, so that no two rows of parts are spelt alike."""
    text = f"{type(part).__name__}:{part}".encode()
    return len(text).to_bytes(8, "big") + text


def _hash_seed(spelt: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(spelt, digest_size=8).digest(), "big") >> 1


def sample_uniform_at(keys: Tensor, places: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) at the given places of the streams that the keys open.

    Args:
        keys: int64, one a stream, broadcast against ``places``.
        places: int64, at least 0: which number of the stream.

    Returns:
        float32, in the broadcast shape, on the device of ``keys``; the same bits on every device.

    Source: the mixing function of SplitMix64, Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, fig. 17.
    """
    mixed, room = _mix_bits(keys, places)
    return _shift_right(mixed, 64 - _RANDOM_BITS, room).float().mul_(2.0**-_RANDOM_BITS)


def sample_normal_at(keys: Tensor, draws: Tensor, size: int) -> Tensor:
    """Standard normal numbers of numbered draws: two of them from one counter, for whoever needs millions.

    Args:
        keys: int64, (N,): what opens each row's stream.
        draws: int64, (N,), at least 0: which draw of its stream each row is.
        size: How many numbers a draw has.

    Returns:
        (N, size), float32, on the device of ``keys``; a row depends on its key, draw and the size alone.

    Source: Box & Muller 1958, doi:10.1214/aoms/1177706645.
    """
    half = (size + 1) // 2
    found = torch.empty(len(keys), 2 * half, device=keys.device)
    columns = torch.arange(half, dtype=torch.int64, device=keys.device)
    at_once = max(1, _CACHE_COUNTERS // half) if keys.device.type == "cpu" else max(1, len(keys))
    for start in range(0, len(keys), at_once):
        rows = slice(start, start + at_once)
        mixed, room = _mix_bits(keys[rows, None], draws[rows, None] * half + columns)
        radius = (
            _shift_right(mixed, 64 - _RANDOM_BITS, room)
            .float()
            .mul_(-(2.0**-_RANDOM_BITS))
            .log1p_()
            .mul_(-2.0)
            .sqrt_()
        )
        angle = (
            _shift_right(mixed << _RANDOM_BITS, 64 - _RANDOM_BITS, room)
            .float()
            .mul_(math.tau * 2.0**-_RANDOM_BITS)
        )
        torch.mul(radius, angle.cos(), out=found[rows, :half])
        torch.mul(radius, angle.sin_(), out=found[rows, half:])
    return found[:, :size]


def _mix_bits(keys: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """64 random bits for each place of each stream, int64, and room for as many."""
    mixed = keys + (places + 1) * _STRIDE
    room = torch.empty_like(mixed)
    for shift, factor in _MIXERS:
        mixed.bitwise_xor_(_shift_right(mixed, shift, room)).mul_(factor)
    return mixed.bitwise_xor_(_shift_right(mixed, 31, room)), room


def _shift_right(numbers: Tensor, places: int, room: Tensor) -> Tensor:
    """A logical shift to the right, written to ``room``: zeros come in, also where the sign bit is set."""
    torch.bitwise_right_shift(numbers, places, out=room)
    return room.bitwise_and_((1 << (64 - places)) - 1)


def compute_point_keys(points: Tensor, seed: int) -> Tensor:
    """What opens a stream for each point: another one wherever the point has moved by more than rounding.

    For whoever draws at every look, as a randomized classifier does: a new point has new numbers, and yet
    they depend on nothing but the point. The key is where the point lies along one random direction, in
    steps so large that the last digits of its pixels, which vary with the batch, hardly ever matter.

    Args:
        points: (N, C, H, W) in [0, 1].
        seed: Other seeds give other streams.

    Returns:
        int64, (N,), for :class:`Numbers`.
    """
    flat = points.detach().flatten(1).double()
    places = torch.arange(flat.shape[1], dtype=torch.int64, device=flat.device)
    own = torch.tensor(derive_seed("points", seed), dtype=torch.int64, device=flat.device)
    direction = sample_uniform_at(own, places).double() * 2 - 1
    return ((flat * direction).sum(dim=1) / _POINT_STEP).floor().long() * _STRIDE ^ own


@dataclass(frozen=True)
class RandomNumbers:
    """Random numbers for some images, each row from the stream that its key opens.

    Args:
        keys: int64, (N,), on the device where the numbers are wanted.
    """

    keys: Tensor

    def sample_uniform(self, shape: Sequence[int], *, first: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), (N, *shape), float32.

        Args:
            shape: Shape for one image; () for one number each.
            first: Place in the stream to begin at.
        """
        size = math.prod(shape)
        places = torch.arange(first, first + size, dtype=torch.int64, device=self.keys.device)
        return sample_uniform_at(self.keys[:, None], places[None, :]).view(len(self.keys), *shape)

    def sample_normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (N, *shape), float32.

        Source: Box & Muller 1958, doi:10.1214/aoms/1177706645.
        """
        radius = (-2.0 * torch.log1p(-self.sample_uniform(shape))).sqrt()
        angle = 2.0 * math.pi * self.sample_uniform(shape, first=math.prod(shape))
        return radius * angle.cos()


@dataclass(frozen=True)
class RandomStream:
    """Random numbers for a batch of images, each row from its own image's stream.

    Args:
        seed: The run's seed.
        ids: The images' ids, in the order of the batch.
        attack: What draws, normally ``repr(attack)``.
    """

    seed: int
    ids: tuple[str, ...]
    attack: str

    def compute_keys(self, draw: DrawName | Sequence[DrawName], device: torch.device | str) -> Tensor:
        """What opens each image's stream of a draw, for :func:`sample_uniform_at`; int64, (len(ids),).

        Args:
            draw: Name of the draw, or one name for each image.
            device: Where the result goes.
        """
        draws = [draw] * len(self.ids) if isinstance(draw, str | int) else draw
        # seed_from(seed, image, attack, draw) for each, of which most parts are spelt once
        seed, attack, names = (
            _encode_part(self.seed),
            _encode_part(self.attack),
            {each: _encode_part(each) for each in draws},
        )
        rows = zip(self.ids, draws, strict=True)
        seeds = [_hash_seed(seed + _encode_part(image) + attack + names[each]) for image, each in rows]
        return torch.tensor(seeds, dtype=torch.int64).to(device)

    def sample_uniform(
        self,
        shape: Sequence[int],
        *,
        draw: DrawName | Sequence[DrawName],
        device: torch.device | str,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Tensor:
        """Uniform numbers.

        Args:
            shape: Shape for one image, such as (C, H, W); () for one number each.
            draw: Which draw of this attack it is, such as a restart; the same name gives the same numbers.
                One name for all images, or one for each.
            device: Where the result goes; every device gives the same numbers.
            low: Lower end.
            high: Upper end, exclusive.

        Returns:
            (len(ids), *shape), float32.
        """
        return RandomNumbers(self.compute_keys(draw, device)).sample_uniform(shape) * (high - low) + low

    def sample_normal(
        self, shape: Sequence[int], *, draw: DrawName | Sequence[DrawName], device: torch.device | str
    ) -> Tensor:
        """Standard normal numbers; arguments and result as for :meth:`sample_uniform`."""
        return RandomNumbers(self.compute_keys(draw, device)).sample_normal(shape)

    def select_images(self, index: Tensor | Sequence[int]) -> RandomStream:
        """The stream of some of the images, in the given order."""
        places = index.tolist() if isinstance(index, Tensor) else index
        return RandomStream(self.seed, tuple(self.ids[place] for place in places), self.attack)

    def compute_batch_seed(self) -> int:
        """One seed for the whole batch, for attacks that cannot draw image by image."""
        return derive_seed(self.seed, *self.ids, self.attack)
