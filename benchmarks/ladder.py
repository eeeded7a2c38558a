"""A curve over eight radii as other libraries draw it: one attack after another, from scratch."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.job import AttackFunction, BenchmarkJob
from robustbench_local.attacks.minimum_norm.curve import RADIUS_SHARES

RADIUS_SHARES = (*RADIUS_SHARES, 1.0)
"""Shares of the job's radius, ascending: those of our own curve."""


def attack_each_radius(run: AttackFunction) -> AttackFunction:
    """The method at every radius.

    Args:
        run: A library's method with a radius.

    Returns:
        A method that gives each image's candidate from the smallest radius where it is a success.
    """

    def climb(job: BenchmarkJob) -> Tensor:
        found = job.images.clone()
        open_ = torch.ones_like(job.labels, dtype=torch.bool)
        for share in RADIUS_SHARES:
            radius = share * job.eps
            candidates = run(replace(job, eps=radius)).detach()
            inside = (candidates - job.images).abs().flatten(1).amax(dim=1) <= radius + 1e-6
            with torch.no_grad():
                wrong = job.verdict_network(candidates).argmax(dim=1) != job.labels
            fresh = open_ & wrong & inside
            found[fresh] = candidates[fresh]
            open_ &= ~fresh
        return found

    return climb


def mark_robust_at_radii(distances: Tensor, eps: float) -> Tensor:
    """Whether each image survives each radius, (8, N) boolean, from the distances of its nearest success."""
    return torch.stack([distances > share * eps + 1e-6 for share in RADIUS_SHARES])
