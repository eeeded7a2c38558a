"""Interval bound propagation: boxes in, boxes out, layer by layer.

Source: Gowal et al. 2018, "On the effectiveness of interval bound propagation", arXiv:1810.12715, Eq. 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from robustbench_local.certification.bound_propagation.graph import Graph, Node
from robustbench_local.certification.bound_propagation.operations import (
    Activation,
    Affine,
    InputNode,
    Reshape,
    Sum,
)
from robustbench_local.certification.bound_propagation.rounding import Rounding


@dataclass(frozen=True)
class Interval:
    """A box for each image, as the centers and half widths that linear layers need.

    Args:
        centre: (N, ...).
        radius: (N, ...), at least 0.
    """

    centre: Tensor
    radius: Tensor

    @classmethod
    def from_bounds(cls, lower: Tensor, upper: Tensor) -> Interval:
        """Build an interval from lower and upper bounds."""
        return cls((lower + upper) / 2, (upper - lower) / 2)

    @cached_property
    def lower(self) -> Tensor:
        """Lower bounds."""
        return self.centre - self.radius

    @cached_property
    def upper(self) -> Tensor:
        """Upper bounds."""
        return self.centre + self.radius

    @property
    def magnitude(self) -> Tensor:
        """Largest absolute values."""
        return self.centre.abs() + self.radius

    def select_images(self, index: Tensor) -> Interval:
        """Return the boxes of some of the images."""
        return Interval(self.centre[index], self.radius[index])


@dataclass(frozen=True)
class Bounds:
    """The bounds of the values at every node of a graph.

    Args:
        graph: The network.
        rounding: Rounding of its arithmetic; None assumes exact arithmetic.
        intervals: One per node, or None if not yet known.
        noise: Largest rounding error of each node's values; None where there is none.
    """

    graph: Graph
    rounding: Rounding | None
    intervals: list[Interval] = field(default_factory=list)
    noise: list[Tensor | None] = field(default_factory=list)

    def select_images(self, index: Tensor) -> Bounds:
        """Return the bounds for some of the images."""
        noise = [None if bound is None else bound[index] for bound in self.noise]
        return Bounds(
            self.graph, self.rounding, [interval.select_images(index) for interval in self.intervals], noise
        )


TightenInterval = Callable[[Bounds, int, Interval], Interval]
"""A function that improves the interval of an activation's input, given the bounds before it."""


def propagate(
    graph: Graph,
    input_interval: Interval,
    *,
    rounding: Rounding | None = None,
    tighten: TightenInterval | None = None,
) -> Bounds:
    """Bound every node of a network.

    Args:
        graph: The network.
        input_interval: The images' box, (N, C, H, W), in the dtype to compute in; differentiable.
        rounding: Rounding of the network's arithmetic, to be covered; None to ignore it (training).
        tighten: Improves the intervals of the activations' inputs; None to use them unchanged.

    Returns:
        Bounds of every node; the last ones are those of the logits.
    """
    bounds = Bounds(graph, rounding)
    read = {node.inputs[0] for node in graph.nodes if isinstance(node.operation, Activation)}
    for index, node in enumerate(graph.nodes):
        inputs = [bounds.intervals[source] for source in node.inputs]
        noise = (
            None
            if rounding is None
            else rounding.compute_noise(node, [interval.magnitude for interval in inputs])
        )
        interval = input_interval if isinstance(node.operation, InputNode) else _propagate_node(node, inputs)
        if noise is not None:
            interval = Interval(interval.centre, interval.radius + noise)
        bounds.noise.append(noise)
        if tighten is not None and index in read:
            interval = tighten(bounds, index, interval)
        bounds.intervals.append(interval)
    return bounds


def _propagate_node(node: Node, inputs: list[Interval]) -> Interval:
    """Return the interval of a node's values in exact arithmetic."""
    operation, first = node.operation, inputs[0]
    if isinstance(operation, Affine):
        centre = operation.apply_linear(first.centre)
        offset = operation.compute_offset(centre)
        centre = centre if offset is None else centre + offset
        return Interval(centre, operation.apply_linear(first.radius, absolute=True))
    if isinstance(operation, Activation):
        return Interval.from_bounds(operation(first.lower), operation(first.upper))
    if isinstance(operation, Sum):
        centre = first.centre + operation.sign * inputs[1].centre
        return Interval(centre, first.radius + inputs[1].radius)
    assert isinstance(operation, Reshape)  # noqa: S101  the only kind that is left
    shape = (len(first.centre), *node.shape)
    return Interval(first.centre.reshape(shape), first.radius.reshape(shape))
