"""The consistency of a model: the degree to which its answer depends on the image alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The consistency of a model, as a summary of the findings of `probe_consistency`."""

    inconsistency_note: str = ""
    """Why it is not, although the user allowed that, in one line; empty if it is. With a mark, no number of
    the model is relied on."""
    is_unrepeatable: bool = False
    """Whether the same image gets another answer each time, by random numbers that no seed repeats."""
    is_random: bool = True
    """Whether it may draw random numbers: then answers can only be compared after equal seeds."""
    tolerance: float = 1e-4
    """Share of the logits' range by which answers differ by rounding."""
    has_misleading_gradients: bool = False
    """Whether its gradients do not say how its answers change, so that attacks are led astray."""
