"""The consistency of a model: the degree to which its answer depends on the image alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """The consistency of a model, as a summary of the findings of `probe_consistency`."""

    inconsistency_note: str = ""
    """One line on why the model is inconsistent although the user allowed it; empty if it is consistent. With
    it, no number of the model is reliable."""
    is_unrepeatable: bool = False
    """Whether answers to the same image vary by random numbers that no seed repeats."""
    is_random: bool = True
    """Whether it may draw random numbers: then answers can only be compared after equal seeds."""
    is_probed: bool = False
    """Whether it was asked more than once before the attacks."""
    read_files: tuple[str, ...] = ()
    """Names of files that it both reads and writes while it answers: no copy resets what is there."""
    draws_numbers: bool = False
    """Whether it was seen to draw random numbers, or to answer by chance."""
    tolerance: float = 1e-4
    """Share of the logits' range by which answers may differ by rounding."""
    has_misleading_gradients: bool = False
    """Whether its gradients do not predict how its answers change, so that they mislead attacks."""
