"""A last layer that stands in the file under another name: the commonest checkpoint of transfer learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from robustbench_local.errors import ModelError
from robustbench_local.models.stored_tensors import StoredTensors, shorten_names
from robustbench_local.models.unused_tensors import Leftovers
from robustbench_local.models.weight_matching import NetworkNames, WeightMatch, remove_wrapper_parts

CODE_REMEDY = "write the network as python:FILE.py:NAME and give this file as its weights"


@dataclass(frozen=True)
class StoredHead:
    """The last layer as the file has it.

    Args:
        names: Its tensors' names in the network to paths in the file.
        note: What a reader has to know; empty where it stands under the network's own name.
    """

    names: dict[str, str]
    note: str = ""


def find_head(match: WeightMatch, stored: StoredTensors, network: NetworkNames, where: str) -> StoredHead:
    """The tensors of the network's last layer.

    One linear layer among the leftovers whose inputs are the network's features is taken for it: behind a
    dropout in a Sequential, or under a name of its own. A stack of layers is not, for what stands between
    them, such as a ReLU, is not in the file.

    Args:
        match: Where the rest of the network is.
        stored: What the file holds.
        network: What it is for.
        where: The file's name, for messages.

    Raises:
        ModelError: If the file has a head of another structure, or none.
    """
    wanted = [name for name in network.tensors if network.belongs_to_head(name)]
    found = {name: match.names[name] for name in wanted if name in match.names}
    weight, bias = f"{network.head}.weight", f"{network.head}.bias"
    if weight in found or not wanted:
        return StoredHead(found)
    own, left = network.tensors[weight], match.leftovers.unexplained
    weights = [path for path in left if _has_same_inputs(stored.tensors[path], own)]
    layer = weights[0].rpartition(".")[0] if weights else ""
    if len(weights) != 1 or not _is_complete_head(layer, left, stored, len(stored.tensors[weights[0]])):
        raise _build_head_error(left, stored, network, where)
    found = {weight: weights[0]}
    if f"{layer}.bias" in left:
        found[bias] = f"{layer}.bias"
    inputs = own.shape[1]
    return StoredHead(
        found,
        f"the last layer of {where} is {_remove_prefix(layer, match)!r}, here {network.head!r}: what stood before it "
        f"has no weights and is taken for a dropout, which changes nothing in evaluation ({inputs} features)",
    )


def _has_same_inputs(tensor: Tensor, own: Tensor) -> bool:
    """Whether it could be the last layer's: it takes as many features."""
    return tensor.ndim == own.ndim and tensor.shape[1:] == own.shape[1:]


def _is_complete_head(layer: str, left: Sequence[str], stored: StoredTensors, classes: int) -> bool:
    """Whether the layer's weight, and its bias if it has one, are all that is left."""
    bias = f"{layer}.bias"
    fits = bias not in left or tuple(stored.tensors[bias].shape) == (classes,)
    return fits and set(left) <= {f"{layer}.weight", bias}


def _build_head_error(
    left: Sequence[str], stored: StoredTensors, network: NetworkNames, where: str
) -> ModelError:
    own = tuple(network.tensors[f"{network.head}.weight"].shape[1:])
    if not left:
        return ModelError(
            f"has all of the network but its last layer {network.head!r}",
            where=where,
            remedy="give the file with the whole classifier",
        )
    listed = shorten_names([f"{path} {tuple(stored.tensors[path].shape)}" for path in left])
    return ModelError(
        f"has another head than the network's one layer {network.head!r} of {own[0]} features: {listed}; "
        "what stands between these layers is not in the file",
        where=where,
        remedy=CODE_REMEDY,
    )


def _remove_prefix(path: str, match: WeightMatch) -> str:
    """The path without what stands before the network's names."""
    bare = remove_wrapper_parts(path)
    return bare.removeprefix(f"{match.prefix}.") if match.prefix else bare


def select_unexplained(left: Leftovers, head: StoredHead) -> tuple[str, ...]:
    """Leftovers that nothing explains once the head has its tensors."""
    taken = set(head.names.values())
    return tuple(path for path in left.unexplained if path not in taken)
