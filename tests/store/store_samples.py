"""Outcomes, cells and runs that depend on nothing but their position, for this process and those it kills."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_local.store import CellRecord, OutcomeRecord, RunStore, ViewPredictionsRecord, ViewRecord
from robustbench_local.store.arrays import hash_image_array

KEY = "0a1b" * 16
OTHER_KEY = "9f8e" * 16
IDENTITY = {"data.seed": "0", "model": "c0ffee" * 10 + "0000", "code": "1.0"}
CHUNK_IMAGES = 5
RESOLVED = "schema: 1\ndata: {seed: 0}\n"


def make_outcome(position: int, cell: str = KEY, **changes: Any) -> OutcomeRecord:
    label, broken = 3 + position % 40, position % 3 == 0
    moved = position % 5 == 1 and not broken
    original = make_picture(position)
    values: dict[str, Any] = {
        "cell": cell,
        "position": position,
        "image": f"stop/限速 🛑 {position}.png",
        "label": label,
        "clean_prediction": label,
        "adversarial_prediction": 0 if broken else label + moved,
        "clean_correct": True,
        "broken": broken,
        "moved_elsewhere": moved,
        "margin": (position - 7) / 3,
        "fragile": position % 11 == 0,
        "linf": 8 / 255,
        "l2": position / 7,
        "l1": position / 3,
        "broken_8bit": True if broken else None,
        "forward_passes": 100 + position,
        "backward_passes": 50,
        "seconds": 0.125,
        "status": "ok",
        "original_hash": hash_image_array(original),
        "adversarial_hash": hash_image_array(1 - original),
    }
    return OutcomeRecord(**{**values, **changes})


def make_view_predictions(position: int, cell: str = KEY, **changes: Any) -> ViewPredictionsRecord:
    values: dict[str, Any] = {
        "condition": "sticker",
        "kind": "view",
        "predictions": (14, None, position % 8),
        "confidences": (0.9871, None, 0.5),
    }
    return ViewPredictionsRecord(cell=cell, position=position, **{**values, **changes})


def make_view(position: int, cell: str = KEY, **changes: Any) -> ViewRecord:
    values: dict[str, Any] = {
        "kind": "view",
        "distance": (16.0, 40.5, 64.0),
        "yaw": (-45.0, 0.25, 30.0),
        "pitch": (0.0, 20.0, -20.0),
        "roll": (15.0, -15.0, 0.0),
    }
    return ViewRecord(cell=cell, position=position, **{**values, **changes})


def make_cell(key: str = KEY, **changes: Any) -> CellRecord:
    values: dict[str, Any] = {
        "key": key,
        "position": 0,
        "model": "signs-plain",
        "defense": "none",
        "attack": "pgd50-linf-8",
        "card": "pgd50-linf-8",
        "norm": "Linf",
        "eps": 8 / 255,
        "threat": "linf-8",
        "goal": "targeted",
        "targets": (0, 1, 2),
        "sources": (14,),
        "images": 2000,
        "excluded": 3,
        "parameters": {"class": "PGD", "steps": 50, "step_size": None, "seeds": [1, 2]},
        "identity": {"model": "abc", "seed": "0"},
        "note": "targets are ids of GTSRB",
    }
    return CellRecord(**{**values, **changes})


def make_arrays(first: int, count: int) -> dict[str, np.ndarray]:
    positions = np.arange(first, first + count, dtype=np.int64)
    images = [make_picture(position) for position in positions]
    images = np.stack(images) if images else np.zeros((0, 3, 4, 4), dtype=np.float32)
    return {"positions": positions, "original": images, "adversarial": 1 - images}


def make_picture(position: int) -> np.ndarray:
    """The image at a position, (3, 4, 4)."""
    return np.random.default_rng(abs(int(position))).random((3, 4, 4), dtype=np.float32)


def write_run(directory: Path, chunks: int, report: Callable[[str], None] = lambda line: None) -> None:
    """Write two cells of so many chunks, or what is missing of them, as an evaluation does."""
    with RunStore.create_or_open(directory, resolved_yaml=RESOLVED, identity=IDENTITY) as store:
        store.set_meta("seed", 0)
        for place, key in enumerate((KEY, OTHER_KEY)):
            store.put_cell(make_cell(key, position=place))
            store.set_status(key, "running")
            done = store.read_done_positions(key)
            for first in range(0, chunks * CHUNK_IMAGES, CHUNK_IMAGES):
                if first not in done:
                    store.save_arrays(key, first, make_arrays(first, CHUNK_IMAGES))
                    store.add_outcomes(
                        key, [make_outcome(first + offset, key) for offset in range(CHUNK_IMAGES)]
                    )
                    report(f"{key} {first}")
            store.set_status(key, "done")
