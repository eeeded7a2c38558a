"""Sizes of the successful perturbations of a cell."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence


class SuccessNorms(Mapping[str, Mapping[str, float]]):
    """Image id -> norm -> size of its successful perturbation.

    Args:
        images: The images.
        sizes: Norm -> size for each of them.
    """

    def __init__(self, images: Sequence[str], sizes: Mapping[str, Sequence[float]]) -> None:
        self._rows = dict(zip(images, range(len(images)), strict=True))
        self._sizes = {norm: array("d", values) for norm, values in sizes.items()}

    def __getitem__(self, image: str) -> Mapping[str, float]:
        row = self._rows[image]
        return {norm: values[row] for norm, values in self._sizes.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def iterate_sizes(self, norm: str) -> Iterator[tuple[str, float]]:
        """Iterate over the images and their sizes in one norm; over none if the norm is unknown."""
        sizes = self._sizes.get(norm)
        return iter(()) if sizes is None else zip(self._rows, sizes, strict=True)


def iterate_sizes(norms: Mapping[str, Mapping[str, float]], norm: str) -> Iterable[tuple[str, float]]:
    """Iterate over the images and the sizes of their successful perturbations in one norm, where known."""
    if isinstance(norms, SuccessNorms):
        return norms.iterate_sizes(norm)
    return ((image, sizes[norm]) for image, sizes in norms.items() if norm in sizes)
