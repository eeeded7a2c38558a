"""Randomness that belongs to the image: a stream each, whatever the batch (trust invariants V8, V9).

Every draw is made on the CPU from a generator of its own, seeded by a hash of the run's seed, the image's
id, the attack and the name of the draw. So an image gets the same numbers in any batch, at any place, on
any device, and no draw touches the global generators.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def seed_from(*parts: str | int) -> int:
    """A seed that depends on every part and on their order.

    Args:
        parts: What the seed belongs to, such as a run's seed, an image's id, an attack, a restart.

    Returns:
        At least 0 and below 2**63. ``1`` and ``"1"`` differ, and so do ``"ab", "c"`` and ``"a", "bc"``.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "big"))
        digest.update(text)
    return int.from_bytes(digest.digest(), "big") >> 1


@dataclass(frozen=True)
class Stream:
    """Random numbers for a batch of images, each row from its own image's stream.

    Args:
        seed: The run's seed.
        ids: The images' ids, in the order of the batch.
        attack: What draws, normally ``repr(attack)``.
    """

    seed: int
    ids: tuple[str, ...]
    attack: str

    def uniform(
        self,
        shape: Sequence[int],
        *,
        draw: str | int,
        device: torch.device | str,
        low: float = 0.0,
        high: float = 1.0,
    ) -> Tensor:
        """Uniform numbers.

        Args:
            shape: Shape for one image, such as (C, H, W); () for one number each.
            draw: Which draw of this attack it is, such as a restart; the same name gives the same numbers.
            device: Where the result goes; it is drawn on the CPU, so that devices agree.
            low: Lower end.
            high: Upper end, exclusive.

        Returns:
            (len(ids), *shape), float32.
        """
        numbers = self._rows(shape, draw, lambda size, generator: torch.rand(size, generator=generator))
        return (numbers * (high - low) + low).to(device)

    def normal(self, shape: Sequence[int], *, draw: str | int, device: torch.device | str) -> Tensor:
        """Standard normal numbers; arguments and result as for :meth:`uniform`."""
        return self._rows(shape, draw, lambda size, generator: torch.randn(size, generator=generator)).to(
            device
        )

    def select(self, index: Tensor | Sequence[int]) -> Stream:
        """The stream of some of the images, in the given order."""
        places = index.tolist() if isinstance(index, Tensor) else index
        return Stream(self.seed, tuple(self.ids[place] for place in places), self.attack)

    def group_seed(self) -> int:
        """One seed for the whole batch, for attacks that cannot draw image by image."""
        return seed_from(self.seed, *self.ids, self.attack)

    def _rows(
        self,
        shape: Sequence[int],
        draw: str | int,
        sample: Callable[[tuple[int, ...], torch.Generator], Tensor],
    ) -> Tensor:
        numbers = torch.empty((len(self.ids), *shape))
        generator = torch.Generator()
        for row, image in enumerate(self.ids):
            generator.manual_seed(seed_from(self.seed, image, self.attack, draw))
            numbers[row] = sample(tuple(shape), generator)
        return numbers
