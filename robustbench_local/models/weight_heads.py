"""A last layer with another name in the file: the most common checkpoint of transfer learning."""

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
    """The last layer in the file.

    Args:
        names: Name of a tensor in the network -> path in the file.
        note: Remark for the reader of the results; empty if the layer has the network's own name.
    """

    names: dict[str, str]
    note: str = ""


def find_head(match: WeightMatch, stored: StoredTensors, network: NetworkNames, where: str) -> StoredHead:
    """Find the tensors of the network's last layer.

    A single linear layer among the leftovers whose inputs are the network's features is accepted: behind a
    dropout in a Sequential, or under another name. A stack of layers is refused, because operations between
    them, such as a ReLU, are not in the file.

    Args:
        match: The location of the rest of the network.
        stored: The content of the file.
        network: The network.
        where: The file's name, for messages.

    Raises:
        ModelError: If the file has a head of another structure, or none.
    """
    head_names = [name for name in network.tensors if network.belongs_to_head(name)]
    names = {name: match.names[name] for name in head_names if name in match.names}
    weight, bias = f"{network.head}.weight", f"{network.head}.bias"
    if weight in names or not head_names:
        return StoredHead(names)
    network_weight, leftovers = network.tensors[weight], match.leftovers.unexplained
    weights = [path for path in leftovers if _has_same_inputs(stored.tensors[path], network_weight)]
    layer = weights[0].rpartition(".")[0] if weights else ""
    if len(weights) != 1 or not _is_complete_head(layer, leftovers, stored, len(stored.tensors[weights[0]])):
        raise _build_head_error(leftovers, stored, network, where)
    names = {weight: weights[0]}
    if f"{layer}.bias" in leftovers:
        names[bias] = f"{layer}.bias"
    inputs = network_weight.shape[1]
    return StoredHead(
        names,
        f"the last layer of {where} is {_remove_prefix(layer, match)!r}, "
        f"here {network.head!r}: what precedes it has no weights and is assumed to be a dropout, "
        f"without effect in evaluation ({inputs} features)",
    )


def _has_same_inputs(tensor: Tensor, own: Tensor) -> bool:
    """Return True if the tensor could be the last layer's, because it takes as many features."""
    return tensor.ndim == own.ndim and tensor.shape[1:] == own.shape[1:]


def _is_complete_head(layer: str, leftovers: Sequence[str], stored: StoredTensors, classes: int) -> bool:
    """Return True if the layer's weight, and its bias if it has one, are the only leftovers."""
    bias = f"{layer}.bias"
    fits = bias not in leftovers or tuple(stored.tensors[bias].shape) == (classes,)
    return fits and set(leftovers) <= {f"{layer}.weight", bias}


def _build_head_error(
    leftovers: Sequence[str], stored: StoredTensors, network: NetworkNames, where: str
) -> ModelError:
    shape = tuple(network.tensors[f"{network.head}.weight"].shape[1:])
    if not leftovers:
        return ModelError(
            f"has all of the network but its last layer {network.head!r}",
            where=where,
            remedy="give the file with the whole classifier",
        )
    listed = shorten_names([f"{path} {tuple(stored.tensors[path].shape)}" for path in leftovers])
    return ModelError(
        f"has another head than the network's one layer {network.head!r} of {shape[0]} features: {listed}; "
        "the operations between these layers are not in the file",
        where=where,
        remedy=CODE_REMEDY,
    )


def _remove_prefix(path: str, match: WeightMatch) -> str:
    """Remove the prefix of the network's names from a path."""
    bare = remove_wrapper_parts(path)
    return bare.removeprefix(f"{match.prefix}.") if match.prefix else bare


def select_unexplained(leftovers: Leftovers, head: StoredHead) -> tuple[str, ...]:
    """Select the leftovers that remain unexplained once the head has its tensors."""
    taken = set(head.names.values())
    return tuple(path for path in leftovers.unexplained if path not in taken)
