"""Operators with a gradient of zero in code that torch runs without Python, as in scripted modules.

No mode sees them. Their nodes in the recorded graph do, and a hook behind a node replaces what it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from robustbench_local.attacks.adaptive.straight_through import carries_gradient
from robustbench_local.classifier.autograd_graph import walk_graph

STAIR_NODES = {
    "RoundBackward0": "round",
    "RoundBackward1": "round",
    "FloorBackward0": "floor",
    "CeilBackward0": "ceil",
    "TruncBackward0": "trunc",
    "SignBackward0": "sign",
}
"""Names of the nodes, with the operators."""


def replace_stair_gradients(answer: Any, note: Callable[[str, Tensor], None]) -> int:
    """Give operators with a gradient of zero that of the identity.

    Args:
        answer: A model's answer: a tensor, or a collection of them.
        note: Receives operator and incoming gradient in the backward pass.

    Returns:
        Number of such operators in the graph.
    """
    outputs = [value for value in tree_leaves(answer) if carries_gradient(value)]
    nodes = {node for output in outputs for node in walk_graph(output) if node.name() in STAIR_NODES}
    for node in nodes:
        node.register_hook(_make_identity_hook(STAIR_NODES[node.name()], note))
    return len(nodes)


def _make_identity_hook(operator: str, note: Callable[[str, Tensor], None]) -> Callable[[Any, Any], Any]:
    def pass_gradient(given: tuple[Any, ...], slopes: tuple[Any, ...]) -> Any:
        if not given or given[0] is None or slopes[0] is None:
            return None
        note(operator, slopes[0])
        return (slopes[0].reshape(given[0].shape), *given[1:])

    return pass_gradient
