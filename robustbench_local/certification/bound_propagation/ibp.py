"""The certificate by interval bound propagation.

Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation for training verifiably robust
models", arXiv:1810.12715, Sec. 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustbench_local.certification.bound_propagation.certificate import BoundCertificate
from robustbench_local.certification.bound_propagation.graph import Graph
from robustbench_local.certification.bound_propagation.input_set import InputRegion
from robustbench_local.certification.bound_propagation.interval import propagate
from robustbench_local.certification.bound_propagation.linear import compute_linear_bounds
from robustbench_local.certification.bound_propagation.rounding import Rounding
from robustbench_local.threats.threat_model import ThreatModel


@dataclass(frozen=True, kw_only=True)
class IBP(BoundCertificate):
    """Interval bounds of the margins, with the layers after the last activation merged into the margins.

    It costs a few forward passes, and is tight enough only for networks that were trained with it. An L2 ball
    is replaced by its bounding box.
    """

    def compute_margins(self, graph: Graph, ball: InputRegion, rows: Tensor, rounding: Rounding) -> Tensor:
        """See :meth:`BoundCertificate.compute_margins`."""
        bounds = propagate(graph, ball.box, rounding=rounding)
        return compute_linear_bounds(bounds, len(graph.nodes) - 1, rows, ball, through_activations=False)

    def estimate_cost(self, threat: ThreatModel) -> tuple[int, int]:  # noqa: ARG002  the same for every ball
        """Return one forward pass; the bounds pass through a graph of their own."""
        return 1, 0

    def estimate_work(self, threat: ThreatModel) -> int:  # noqa: ARG002 - as above
        """Return the number of passes that take as long as the bounds."""
        return 16
