"""Random numbers that belong to an image, independent of its batch (trust invariants V8, V9).

A number depends on the run's seed, the image's id, the attack, the name of the draw and its position in the
draw, and on nothing else: a counter passes through a mixing function, for the whole batch at once. So an
image gets the same numbers in any batch, in any row and on any device, and no draw uses the global
generators.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_local.double_precision import to_float64

DrawName = str | int
"""Name of a draw, such as a restart."""

_STRIDE = 0x9E3779B97F4A7C15 - 2**64
_MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_RANDOM_BITS = 24
"""Random bits of a number: as many as float32 resolves over all of [0, 1)."""
_CACHE_COUNTERS = 1 << 15
"""Counters that one core mixes at a time: few enough to stay in its cache."""
_POINT_STEP = 2.0**-10
"""Resolution of `compute_point_keys`: a thousand times the accumulated rounding error over 3,072 pixels, and
a fraction of one attack step."""


def derive_seed(*parts: str | int) -> int:
    """Return a seed that depends on every part and on their order.

    Args:
        parts: The seed's owner, such as a run's seed, an image's id, an attack and a restart.

    Returns:
        At least 0 and below 2**63. ``1`` and ``"1"`` differ, and so do ``"ab", "c"`` and ``"a", "bc"``.
    """
    return _hash_seed(b"".join(map(_encode_part, parts)))


def _encode_part(part: str | int) -> bytes:
    """Encode one part so that different sequences of parts never share an encoding."""
    text = f"{type(part).__name__}:{part}".encode()
    return len(text).to_bytes(8, "big") + text


def _hash_seed(encoded: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "big") >> 1


def sample_uniform_at(keys: Tensor, positions: Tensor) -> Tensor:
    """Return uniform numbers in [0, 1) at the given positions of the keys' streams.

    Args:
        keys: int64, one per stream, broadcast against ``positions``.
        positions: int64, at least 0: index of the number in its stream.

    Returns:
        float32, in the broadcast shape, on the device of ``keys``; the same bits on every device.

    Source: the mixing function of SplitMix64, Steele, Lea & Flood 2014, doi:10.1145/2660193.2660195, fig. 17.
    """
    mixed, buffer = _mix_bits(keys, positions)
    return _shift_right(mixed, 64 - _RANDOM_BITS, buffer).float().mul_(2.0**-_RANDOM_BITS)


def sample_normal_at(keys: Tensor, draws: Tensor, size: int) -> Tensor:
    """Return standard normal numbers of numbered draws, two from each counter, for bulk sampling.

    Args:
        keys: int64, (N,): the key of each row's stream.
        draws: int64, (N,), at least 0: index of each row's draw in its stream.
        size: Numbers in a draw.

    Returns:
        (N, size), float32, on the device of ``keys``; a row depends on its key, draw and the size alone.

    Source: Box & Muller 1958, doi:10.1214/aoms/1177706645.
    """
    half = (size + 1) // 2
    normals = torch.empty(len(keys), 2 * half, device=keys.device)
    columns = torch.arange(half, dtype=torch.int64, device=keys.device)
    rows_per_chunk = max(1, _CACHE_COUNTERS // half) if keys.device.type == "cpu" else max(1, len(keys))
    for start in range(0, len(keys), rows_per_chunk):
        rows = slice(start, start + rows_per_chunk)
        mixed, buffer = _mix_bits(keys[rows, None], draws[rows, None] * half + columns)
        radius = (
            _shift_right(mixed, 64 - _RANDOM_BITS, buffer)
            .float()
            .mul_(-(2.0**-_RANDOM_BITS))
            .log1p_()
            .mul_(-2.0)
            .sqrt_()
        )
        angle = (
            _shift_right(mixed << _RANDOM_BITS, 64 - _RANDOM_BITS, buffer)
            .float()
            .mul_(math.tau * 2.0**-_RANDOM_BITS)
        )
        torch.mul(radius, angle.cos(), out=normals[rows, :half])
        torch.mul(radius, angle.sin_(), out=normals[rows, half:])
    return normals[:, :size]


def _mix_bits(keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return 64 random bits for each position of each stream, int64, and a buffer of the same shape."""
    mixed = keys + (positions + 1) * _STRIDE
    buffer = torch.empty_like(mixed)
    for shift, factor in _MIXERS:
        mixed.bitwise_xor_(_shift_right(mixed, shift, buffer)).mul_(factor)
    return mixed.bitwise_xor_(_shift_right(mixed, 31, buffer)), buffer


def _shift_right(numbers: Tensor, bits: int, buffer: Tensor) -> Tensor:
    """Shift logically to the right, into ``buffer``: zeros come in, also where the sign bit is set."""
    torch.bitwise_right_shift(numbers, bits, out=buffer)
    return buffer.bitwise_and_((1 << (64 - bits)) - 1)


def compute_point_keys(points: Tensor, seed: int) -> Tensor:
    """Return the key of each point's stream; it changes whenever the point moves by more than rounding.

    This serves models that draw on every query, as a randomized classifier does: a new point gets new
    numbers, and yet they depend on nothing but the point. The key is the position of the point along one
    random direction, in steps so large that the last digits of its pixels, which vary with the batch, hardly
    ever matter.

    Args:
        points: (N, C, H, W) in [0, 1].
        seed: Other seeds give other streams.

    Returns:
        int64, (N,), for :class:`RandomNumbers`.
    """
    flat = to_float64(points.detach().flatten(1))
    positions = torch.arange(flat.shape[1], dtype=torch.int64, device=flat.device)
    seed_key = torch.tensor(derive_seed("points", seed), dtype=torch.int64, device=flat.device)
    direction = sample_uniform_at(seed_key, positions).double() * 2 - 1
    keys = ((flat * direction).sum(dim=1) / _POINT_STEP).floor().long() * _STRIDE ^ seed_key
    return keys.to(points.device)


@dataclass(frozen=True)
class RandomNumbers:
    """Random numbers for some images, each row from its key's stream.

    Args:
        keys: int64, (N,), on the device where the numbers are wanted.
    """

    keys: Tensor

    def sample_uniform(self, shape: Sequence[int], *, first: int = 0) -> Tensor:
        """Return uniform numbers in [0, 1), (N, *shape), float32.

        Args:
            shape: Shape for one image; () for one number per image.
            first: Position in the stream of the first number.
        """
        size = math.prod(shape)
        positions = torch.arange(first, first + size, dtype=torch.int64, device=self.keys.device)
        return sample_uniform_at(self.keys[:, None], positions[None, :]).view(len(self.keys), *shape)

    def sample_normal(self, shape: Sequence[int]) -> Tensor:
        """Return standard normal numbers, (N, *shape), float32.

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
        attack: Identifier of the attack that draws, normally ``repr(attack)``.
    """

    seed: int
    ids: tuple[str, ...]
    attack: str

    def compute_keys(self, draw: DrawName | Sequence[DrawName], device: torch.device | str) -> Tensor:
        """Return the keys of a draw, one per image, for :func:`sample_uniform_at`; int64, (len(ids),).

        Args:
            draw: Name of the draw, or one name per image.
            device: Device of the result.
        """
        draws = [draw] * len(self.ids) if isinstance(draw, str | int) else draw
        # derive_seed(seed, image, attack, draw) for each image, with the shared parts encoded only once
        seed, attack, names = (
            _encode_part(self.seed),
            _encode_part(self.attack),
            {name: _encode_part(name) for name in draws},
        )
        rows = zip(self.ids, draws, strict=True)
        seeds = [_hash_seed(seed + _encode_part(image) + attack + names[name]) for image, name in rows]
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
        """Return uniform numbers.

        Args:
            shape: Shape for one image, such as (C, H, W); () for one number per image.
            draw: Name of the draw, such as a restart; the same name gives the same numbers. One name for all
                images, or one per image.
            device: Device of the result; every device gives the same numbers.
            low: Lower end.
            high: Upper end, exclusive.

        Returns:
            (len(ids), *shape), float32.
        """
        return RandomNumbers(self.compute_keys(draw, device)).sample_uniform(shape) * (high - low) + low

    def sample_normal(
        self, shape: Sequence[int], *, draw: DrawName | Sequence[DrawName], device: torch.device | str
    ) -> Tensor:
        """Return standard normal numbers; arguments and result as for :meth:`sample_uniform`."""
        return RandomNumbers(self.compute_keys(draw, device)).sample_normal(shape)

    def select_images(self, index: Tensor | Sequence[int]) -> RandomStream:
        """Return the stream of some of the images, in the given order."""
        positions = index.tolist() if isinstance(index, Tensor) else index
        return RandomStream(self.seed, tuple(self.ids[position] for position in positions), self.attack)

    def compute_batch_seed(self) -> int:
        """Return one seed for the whole batch, for attacks that cannot draw per image."""
        return derive_seed(self.seed, *self.ids, self.attack)
