"""What counts as a photograph, which is shrunk to the size that a network takes before anything else."""

from __future__ import annotations

from robustbench_local.classifier.input_contract import InputContract

MIN_PHOTOGRAPH_SIDE = 128
"""Shorter side of images that may be photographs, in pixels; smaller ones of one size stay as they are."""


def is_photograph_size(size: tuple[int, int]) -> bool:
    """Return True if images of this size, (H, W) in pixels, may be photographs."""
    return min(size) >= MIN_PHOTOGRAPH_SIDE


def shrinks_photographs(contract: InputContract, size: tuple[int, int]) -> bool:
    """Return True if a contract says how images of this size, (H, W), are shrunk to that of the model."""
    target = contract.input_size
    return (
        contract.resize is not None
        and target is not None
        and size != target
        and all(before >= after for before, after in zip(size, target, strict=True))
    )
