"""What every arm is given: the same network, images and hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustbench_local.attack_score.peers.peer_job import PeerFunction as AttackFunction
from robustbench_local.attack_score.peers.peer_job import PeerJob

__all__ = ["AttackFunction", "BenchmarkJob"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob(PeerJob):
    """One run of one method.

    Args:
        verdict_network: The same network, for looks that are not part of a method and are not counted.
    """

    verdict_network: nn.Module
