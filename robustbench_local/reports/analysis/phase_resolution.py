"""What attacks on different numbers of images can tell together, before any of them is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from robustbench_local.counted_nouns import format_count
from robustbench_local.phased_estimates import Phase, estimate_phased_share
from robustbench_local.reports.analysis.attack_phases import (
    MAX_CLASS_SHIFT,
    compute_class_shift,
    format_phases,
)
from robustbench_local.reports.analysis.resolution import format_width

ASSUMED_SHARE, ASSUMED_LATER_SHARE = 0.5, 0.9
"""Shares that are assumed to be robust to the first phase, and of those to each later one."""


@dataclass(frozen=True, kw_only=True)
class PhaseResolution:
    """The interval of a worst case over attacks of which the later ones have a part of the images."""

    attack_labels: tuple[tuple[str, ...], ...]
    """Labels of the attacks of each phase."""
    images: tuple[int, ...]
    """Number of images of each phase, the largest first."""
    half_width: float
    """Half the width of the 95% interval at the assumed shares."""
    half_width_of_part: float
    """The same over the images of the last phase alone."""

    def __str__(self) -> str:
        phases = format_phases(list(zip(self.attack_labels, self.images, strict=True)))
        alone = f"{format_width(self.half_width_of_part)} with {format_count(self.images[-1], 'image')} alone"
        return (
            f"{phases}; if half of the images are robust to phase 1, and 9 in 10 of those to each later one, "
            f"the 95% interval of the worst case reaches up to {format_width(self.half_width)} to each "
            f"side ({alone})"
        )


def compute_phase_resolution(
    images_by_attack: Mapping[str, int], class_sizes: Sequence[int]
) -> PhaseResolution | None:
    """Compute what the attacks of one threat model can tell together.

    Args:
        images_by_attack: Label of each attack -> number of its images; fewer are drawn at random from more.
        class_sizes: Number of images of each class, of the attack with most images.

    Returns:
        None if all attacks have the same number of images, or if the smaller ones are no random part.
    """
    sizes = sorted({*images_by_attack.values()}, reverse=True)
    shifts = [compute_class_shift(dict(enumerate(class_sizes)), size) for size in sizes[1:]]
    if len(sizes) < 2 or max(shifts) > MAX_CLASS_SHIFT:
        return None
    first = Phase(sizes[0], sizes[0], round(ASSUMED_SHARE * sizes[0]))
    share, phases = ASSUMED_SHARE, [first]
    for size in sizes[1:]:
        attacked = min(round(share * size), phases[-1].robust)
        phases.append(Phase(size, attacked, round(ASSUMED_LATER_SHARE * attacked)))
        share *= ASSUMED_LATER_SHARE
    together = estimate_phased_share(phases)
    alone = estimate_phased_share([Phase(sizes[-1], sizes[-1], round(share * sizes[-1]))])
    return PhaseResolution(
        attack_labels=tuple(
            tuple(label for label, count in images_by_attack.items() if count == size) for size in sizes
        ),
        images=tuple(sizes),
        half_width=max(together.high - together.value, together.value - together.low),
        half_width_of_part=max(alone.high - alone.value, alone.value - alone.low),
    )
