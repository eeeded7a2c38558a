"""How shipped weights were made and what they are worth: the card that lies beside them."""

from __future__ import annotations

import datetime as dt
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from pyautoattack import AutoAttack
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_local.catalogue import Card
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.defenses.adversary import frozen, linf_examples
from robustbench_local.defenses.recipe import Recipe
from robustbench_local.defenses.trained import Trained
from robustbench_local.models import signs_network
from robustbench_local.statistics import clopper_pearson

_EPS = 8 / 255
_BATCH = 250


def measure(
    module: nn.Module, test: Dataset, *, autoattack_images: int, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Accuracy on clean images and under FGSM, PGD-20 and AutoAttack, Linf 8/255.

    Args:
        module: Images in [0, 1] to logits.
        test: Images that neither trained the model nor chose the epoch.
        autoattack_images: The first so many of them, for AutoAttack alone; 0 leaves it out.
        report: Receives a line a figure.

    Returns:
        One entry an attack: its name, budget, n, how many stayed right, the share and its 95 %
        Clopper-Pearson interval.

    Source: Croce and Hein 2020, arXiv:2003.01690, version "standard", through pyautoattack.
    """
    attacks: list[tuple[dict[str, Any], int, Callable[[Tensor, Tensor], Tensor]]] = [
        ({"attack": "none"}, len(test), lambda images, _labels: images),
        (
            {"attack": "fgsm", **_budget()},
            len(test),
            lambda x, y: _pgd(module, x, y, steps=1),
        ),
        ({"attack": "pgd", "steps": 20, **_budget()}, len(test), lambda x, y: _pgd(module, x, y, steps=20)),
        ({"attack": "autoattack", **_budget()}, autoattack_images, lambda x, y: _autoattack(module, x, y)),
    ]
    figures = []
    for description, count, attack in attacks:
        if count:
            right = _accuracy(module, test.select(range(min(count, len(test)))), attack)
            figures.append({**description, **right})
            report("measured " + "  ".join(f"{key} {value}" for key, value in figures[-1].items()))
    return figures


def _budget() -> dict[str, str]:
    return {"norm": "Linf", "eps": "8/255"}


def _accuracy(
    module: nn.Module, test: Dataset, attack: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, float | int]:
    """Share of images still right after the attack, which sees them in batches."""
    right = 0
    with frozen(module):
        for images, labels in zip(
            torch.split(test.images, _BATCH), torch.split(test.labels, _BATCH), strict=True
        ):
            examples = attack(images, labels)
            with torch.no_grad():
                right += int((module(examples).argmax(dim=1) == labels).sum())
    share = clopper_pearson(right, len(test))
    return {
        "n": len(test),
        "right": right,
        "accuracy": round(share.value, 4),
        "low": round(share.low, 4),
        "high": round(share.high, 4),
    }


def _pgd(module: nn.Module, images: Tensor, labels: Tensor, *, steps: int) -> Tensor:
    """PGD from a random start; with one step it is FGSM, from the images themselves."""
    generator, step_size = (torch.Generator().manual_seed(0), _EPS / 4) if steps > 1 else (None, _EPS)
    return linf_examples(
        module, images, labels, eps=_EPS, steps=steps, step_size=step_size, generator=generator
    )


def _autoattack(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    # pyautoattack seeds torch's global generator and takes away the tracer of debuggers and coverage.
    tracer = sys.gettrace()
    with torch.random.fork_rng(devices=[]):
        attack = AutoAttack(module, norm="Linf", eps=_EPS, seed=0, device="cpu")
        examples: Tensor = attack.run_standard_evaluation(images, labels, batch_size=_BATCH)[0]
    sys.settrace(tracer)
    return examples


def write_weights(
    out: Path,
    network: nn.Module,
    *,
    card: Card,
    recipe: Recipe,
    trained: Trained,
    data: dict[str, Any],
    measured: list[dict[str, Any]],
    seed: int,
    command: str,
) -> None:
    """Write the network's weights and, beside them, the provenance card.

    Args:
        out: Where the weights go, ``.safetensors``; the card gets the same name with ``.yaml``.
        network: With the trained weights, without the normalisation.
        card: The defense that was trained.
        recipe: Its parameters as they were used.
        trained: What came of it.
        data: Source, sizes and digests of the images.
        measured: From `measure`.
        seed: The training's seed.
        command: The command line that makes the same weights.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, out)
    out.chmod(0o644)
    content = {
        "schema": 1,
        "name": out.stem,
        "weights": out.name,
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
        "architecture": "signs_resnet",
        "num_classes": signs_network.NUM_CLASSES,
        "normalize": [list(signs_network.MEAN), list(signs_network.STD)],
        "provenance": {
            "defense": _described(card, recipe),
            "seed": seed,
            "data": data,
            "made": {
                "date": dt.datetime.now(dt.UTC).date().isoformat(),
                "torch": torch.__version__.split("+")[0],
                "command": command,
                "training_seconds": round(trained.seconds),
                "best_epoch": trained.best.epoch,
                "validation": {"clean": trained.best.clean, "pgd": trained.best.robust},
            },
            "measured": measured,
        },
        "class_names": list(CLASS_NAMES),
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    out.with_suffix(".yaml").write_text(text, encoding="utf-8")


def _described(card: Card, recipe: Recipe) -> dict[str, Any]:
    """The defense as it was carried out."""
    found = getattr(recipe, "threat", None)
    threat = {"threat": {"norm": found.norm, "eps": found.eps}} if found else {}
    name = {"card": card.name, "version": card.version, "method": card.method}
    return {**name, **threat, "parameters": recipe.parameters}
