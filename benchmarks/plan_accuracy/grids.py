"""Small grids of every kind of cell, on which plans are compared with runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_SIGNS = {
    "signs": """
        data: {source: signs, limit: 40}
        models:
          - {id: plain, source: "zoo:signs-plain"}
          - {id: pgd-at, source: "zoo:signs-pgd-at"}
        attacks:
          - fgsm-linf-8
          - {card: pgd50-linf-8, limit: 24}
          - {card: autoattack-linf-8, limit: 4}
        """,
    "adaptive": """
        data: {source: signs, limit: 5}
        models: [{id: distilled, source: "zoo:signs-distilled-t100"}]
        attacks: [adaptive-linf-4]
        """,
    "certificates": """
        data: {source: signs, limit: 60}
        models: [{id: ibp, source: "zoo:signs-ibp"}]
        attacks:
          - {card: certify-ibp-linf-1, eps: ["1/255", "2/255"]}
          - {card: certify-crown-linf-1, limit: 5}
          - {card: pgd50-linf-4, eps: 2/255}
        """,
    "smoothing": """
        data: {source: signs, limit: 4}
        models: [{id: gaussian, source: "zoo:signs-gaussian-0.25", defenses: [smoothing-0.25]}]
        attacks:
          - {card: certify-smoothing-sequential-l2-0.5, limit: 2}
          - {card: pgd20-linf-8, eps: 4/255}
        """,
    "stickers": """
        data: {source: signs, classes: [Stop], limit: 2}
        models: [{id: trades, source: "zoo:signs-trades"}]
        attacks: [{card: sticker-10, test_views: 60}]
        """,
    "corruptions": """
        data: {source: signs, limit: 80}
        models: [{id: gaussian, source: "zoo:signs-gaussian-0.25"}]
        attacks:
          - {card: fog-3, eps: [1, 3, 5]}
          - {card: glass_blur-3, eps: [1, 3]}
          - {card: spatial-30, limit: 8}
          - random10-spatial-30
        """,
    "black-box": """
        data: {source: signs, limit: 40}
        models: [{id: pgd-at, source: "zoo:signs-pgd-at"}]
        attacks:
          - {card: square-linf-8, limit: 8}
          - {card: hopskipjump-l2-0.5, limit: 2}
          - di-fgsm-linf-16
        """,
}
_PUBLISHED = {
    "mnist": """
        data: {source: "npz:FOLDER/mnist_test_first1000.npz", limit: 40}
        models:
          - id: fast
            source: "checkpoint:FOLDER/checkpoints/mnist_fast_fgsm_wong2020.safetensors"
            architecture: mnist_fast
        attacks:
          - pgd50-linf-76.5
          - {card: autoattack-linf-76.5, limit: 4}
          - {card: fmn-l2-3, limit: 20}
        """,
    "cifar": """
        data: {source: "npz:FOLDER/cifar10_test_strat1000.npz", limit: 50}
        models:
          - id: resnet
            source: "checkpoint:FOLDER/checkpoints/cifar10_resnet2b_vnncomp21.safetensors"
            architecture: cifar10_resnet2b
        attacks:
          - {card: pgd50-linf-4, eps: ["1/255", "4/255"]}
          - {card: autoattack-linf-4, eps: "2/255", limit: 5}
          - {card: ddn-l2-3, limit: 20}
        """,
    "gtsrb": """
        data: {source: "npz:FOLDER/gtsrb_test_strat1000.npz", limit: 40}
        models:
          - id: stn
            source: "checkpoint:FOLDER/checkpoints/gtsrb_stn_poojahira.safetensors"
            architecture: gtsrb_stn
        attacks:
          - fgsm-linf-4
          - {card: pgd50-linf-8, eps: "2/255", limit: 10}
        """,
}
GRID_NAMES = (*_SIGNS, *_PUBLISHED)
"""Names of all grids; those of published checkpoints come last."""


def write_grids(folder: Path, shared: Path | None, names: str = "") -> Mapping[str, Path]:
    """Write the grids into a folder.

    Args:
        folder: The folder.
        shared: Folder with images and published checkpoints; None: without the grids that need them.
        names: Names with commas between them; empty for all.
    """
    texts = _SIGNS if shared is None else _SIGNS | _PUBLISHED
    wanted = [name for name in texts if name in names.split(",") or not names]
    for name in wanted:
        lines = [line[8:] for line in texts[name].strip("\n").splitlines()]
        text = "\n".join(["schema: 1", "seed: 0", f"name: {name}", *lines]).replace("FOLDER", str(shared))
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    return {name: folder / f"{name}.yaml" for name in wanted}
