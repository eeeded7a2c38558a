"""The outputs of a training: weights, and the card beside them."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from robustbench_local.config.cards import Card
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.exclusion import Exclusion
from robustbench_local.defenses.recipes.base import Recipe
from robustbench_local.defenses.training.initial_networks import InitialNetwork
from robustbench_local.defenses.training.training_result import TrainingResult
from robustbench_local.errors import StorageError


def write_weights(
    out: Path,
    start: InitialNetwork,
    *,
    card: Card,
    recipe: Recipe,
    trained: TrainingResult,
    class_names: Sequence[str],
    data: dict[str, Any],
    measured: list[dict[str, Any]],
    seed: int,
    command: str,
    selection: Mapping[str, Any] | None = None,
) -> None:
    """Write the trained weights and, beside them, the card that `models.weights_card` reads.

    Args:
        out: File of the weights, ``.safetensors``; the card has the same name with ``.yaml``.
        start: The network, with the trained weights; they are saved without the normalization.
        card: The card of the defense.
        recipe: Its parameters in this training.
        trained: The result.
        class_names: One per logit.
        data: Source, sizes and digests of the images.
        measured: Metrics on held-out images.
        seed: The training's seed.
        command: The command line that reproduces the weights.
        selection: How the network was chosen among others; None if it was the only one.

    Raises:
        StorageError: If writing fails.
    """
    network = start.module.network
    memory_format = torch.contiguous_format  # copied, because safetensors refuses shared weights
    state = {
        name: value.detach().cpu().clone(memory_format=memory_format)
        for name, value in network.state_dict().items()
    }
    partial = out.with_name(f"{out.name}.partial")
    try:
        save_file(state, partial)
        partial.chmod(0o644)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
        os.replace(partial, out)  # noqa: PTH105 - the atomic one
    except OSError as error:
        raise StorageError(f"cannot write the weights: {error}", where=str(out)) from None
    made = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "torch": torch.__version__.split("+")[0],
        "command": command,
        "training_seconds": round(trained.seconds),
        "best_epoch": trained.best.epoch,
        "validation": {"clean": trained.best.clean, "robust": trained.best.robust},
    }
    provenance = {
        "defense": _describe_defense(card, recipe),
        "seed": seed,
        **({"start": start.origin} if start.origin else {}),
        "data": data,
        "made": made,
        **({"selection": dict(selection)} if selection else {}),
        "measured": measured,
    }
    contract, normalization = start.contract, start.contract.normalization
    content = {
        "schema": 1,
        "name": out.stem,
        "weights": out.name,
        "sha256": digest,
        "architecture": start.architecture,
        "num_classes": start.num_classes,
        "normalize": normalization and [list(part) for part in normalization],
        **({"input_size": list(contract.input_size)} if contract.input_size else {}),
        **({"preprocessing": extras} if (extras := contract.describe_extras()) else {}),
        "provenance": provenance,
        "class_names": list(class_names),
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    out.with_suffix(".yaml").write_text(text, encoding="utf-8")


def summarize_data(source: str, data: Dataset) -> dict[str, Any]:
    """Summarize images for a card: source, number and digests."""
    return {
        "source": source,
        "n": len(data),
        "classes": len(set(data.labels.tolist())),
        **({} if data.groups is None else {"objects": len(set(data.groups))}),
        "digest": data.compute_digest(),
        **({} if data.exclusion is None else {"excluded": _describe_exclusion(data.exclusion)}),
    }


def _describe_exclusion(exclusion: Exclusion) -> dict[str, Any]:
    """Describe what was left out of the images."""
    return {"n": len(exclusion.images), "file": exclusion.file, "sha256": exclusion.sha256}


def _describe_defense(card: Card, recipe: Recipe) -> dict[str, Any]:
    """Describe the defense as trained."""
    threat_model = getattr(recipe, "threat", None)
    threat = {"threat": {"norm": threat_model.norm, "eps": threat_model.eps}} if threat_model else {}
    name = {"card": card.base_name, "version": card.version, "method": card.method}
    return {**name, **threat, "parameters": recipe.parameters}
