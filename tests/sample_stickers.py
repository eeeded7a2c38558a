"""Runs with stickers as an evaluation leaves them, made without a model or a camera.

A sign is misread from near and from the front: where it is, and how often, has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sample_run import SPEED_LIMIT_CLASSES, STOP_CLASS, SampleRun, _build_metadata, draw_picture

from robustbench_local.store import (
    CellRecord,
    OutcomeRecord,
    RunStore,
    SurfaceRecord,
    ViewPredictionsRecord,
    ViewRecord,
)

VIEWS_PER_SIGN, FRAMES_PER_DRIVE = 200, 60
SHOWN_VIEWS = 8
MODELS = ("signs-plain", "signs-pgd-at")
MISREAD_SIZE_PIXELS = {"signs-plain": 24.0, "signs-pgd-at": 60.0}
"""Size in pixels from which on each model reads a stickered sign as a target."""


@dataclass(frozen=True, kw_only=True)
class SampleStickers:
    """What to build."""

    models: tuple[str, ...] = MODELS
    sign_count: int = 4
    void_count: int = 1
    """Signs, the last ones, that are misread in every fifth clean view."""
    targets: tuple[int, ...] = SPEED_LIMIT_CLASSES
    norm: str = "sticker"
    eps: float = 0.1
    surface: SurfaceRecord | None = None
    threat: str = "sticker-10"
    has_controls: bool = True
    has_images: bool = True
    class_names: tuple[str, ...] = SampleRun().class_names
    gates: tuple[dict, ...] = ()


def build_sticker_run(directory: Path, sample: SampleStickers | None = None) -> Path:
    """Write such a run into ``directory`` and return it."""
    sample = sample or SampleStickers()
    about = SampleRun(models=sample.models, images=32, class_names=sample.class_names, gates=sample.gates)
    with RunStore.create_or_open(
        directory, resolved_yaml="schema: 1\n", identity={"grid": "stickers"}
    ) as store:
        for key, value in _build_metadata(about).items():
            store.set_meta(key, value)
        costs = {str(target): (target + 1) / 10 for target in SPEED_LIMIT_CLASSES}
        entry = {"costs": costs, "sources": [STOP_CLASS]}
        store.set_meta("severity", {"rule": "made up", "models": dict.fromkeys(sample.models, entry)})
        for position, model in enumerate(sample.models):
            _write_cell(store, sample, position, model)
    return directory


def _write_cell(store: RunStore, sample: SampleStickers, position: int, model: str) -> None:
    key = f"{position:02d}" + "a" * 62
    store.put_cell(
        CellRecord(
            key=key, position=position, model=model, defense="none", attack=sample.threat, card=sample.threat,
            norm=sample.norm, eps=sample.eps, threat=sample.threat,
            goal="targeted" if sample.targets else "untargeted", targets=sample.targets,
            sources=(STOP_CLASS,), images=sample.sign_count,
            parameters={"method": "sticker", "views": 32}, measure="views", surface=sample.surface,
        )
    )  # fmt: skip
    rows, sightings, views = [], [], []
    for place in range(sample.sign_count):
        void = place >= sample.sign_count - sample.void_count
        seen = _build_views(sample, key, place, MISREAD_SIZE_PIXELS.get(model, 24.0), void)
        sightings += seen[0]
        views += seen[1]
        rows.append(_build_outcome(key, place, seen[0], void))
    store.add_outcomes(key, rows, sightings, views)
    store.set_status(key, "done")
    if sample.has_images:
        store.save_arrays(key, 0, _build_arrays(sample.sign_count))


def _build_views(
    sample: SampleStickers, key: str, place: int, reach: float, void: bool
) -> tuple[list[ViewPredictionsRecord], list[ViewRecord]]:
    sightings, views = [], []
    for kind, count in (("view", VIEWS_PER_SIGN), ("approach", FRAMES_PER_DRIVE)):
        rng = np.random.default_rng([place, count])
        ordered = np.linspace(0, 1, count)
        distance = 16 * 4 ** (ordered if kind == "approach" else rng.uniform(size=count))
        yaw, pitch = rng.uniform(-45, 45, count), rng.uniform(-20, 20, count)
        clean = np.where((np.arange(count) % 5 == 0) & void, 13, STOP_CLASS)
        target = sample.targets[place % 3] if sample.targets else 3
        near = np.where((distance >= reach) & (np.abs(yaw) < 30), target, STOP_CLASS)
        by_chance = np.where(np.arange(count) % 50 == 0, target, STOP_CLASS)
        conditions = {"clean": clean, "sticker": near}
        if kind == "view" and sample.has_controls:
            flat = np.where(distance >= 1.6 * reach, target, STOP_CLASS)
            conditions |= {"no-size": clean, "random-colours": by_chance, "without-views": flat}
            conditions |= {} if sample.eps == 1 else {"whole-sign": np.full(count, target)}
        views.append(
            ViewRecord(
                cell=key, position=place, kind=kind, distance=tuple(distance.tolist()),
                yaw=tuple(yaw.tolist()), pitch=tuple(pitch.tolist()), roll=(0.0,) * count,
            )
        )  # fmt: skip
        sightings += [
            ViewPredictionsRecord(
                cell=key, position=place, condition=name, kind=kind,
                predictions=tuple(read.tolist()), confidences=(0.75,) * count,
            )
            for name, read in conditions.items()
        ]  # fmt: skip
    return sightings, views


def _build_outcome(key: str, place: int, looks: list[ViewPredictionsRecord], void: bool) -> OutcomeRecord:
    stickered = next(one for one in looks if one.condition == "sticker" and one.kind == "view")
    hits = sum(read != STOP_CLASS for read in stickered.predictions)
    return OutcomeRecord(
        cell=key, position=place, image=f"signs/test/14/{place:05d}", label=STOP_CLASS,
        clean_prediction=STOP_CLASS, adversarial_prediction=2, clean_correct=not void,
        broken=not void and hits > VIEWS_PER_SIGN / 2,
        moved_elsewhere=False, margin=-1.0, fragile=False, linf=0.6, l2=5.0, l1=60.0, broken_8bit=None,
        forward_passes=12_000, backward_passes=9_600, seconds=40.0, status="void" if void else "ok",
        error="80.0 % of its clean views are read rightly; 95 % are needed" if void else None,
    )  # fmt: skip


def _build_arrays(count: int) -> dict[str, np.ndarray]:
    originals = np.stack([draw_picture(place, STOP_CLASS) for place in range(count)])
    stickered = originals.copy()
    stickered[:, :, 8:11, 8:24] = stickered[:, :, 21:24, 8:24] = 0.9
    photographs = np.round(255 * np.repeat(stickered[:, None], SHOWN_VIEWS, axis=1)).astype(np.uint8)
    return {
        "positions": np.arange(count, dtype=np.int64),
        "original": originals,
        "adversarial": stickered,
        "photographs": photographs,
        "photograph_numbers": np.tile(np.arange(SHOWN_VIEWS), (count, 1)),
        "frames": np.repeat(photographs[:, :1], 12, axis=1),
        "frame_numbers": np.tile(
            np.linspace(0, FRAMES_PER_DRIVE - 1, 12).round().astype(np.int64), (count, 1)
        ),
        "total_variation": np.full(count, 0.12, dtype=np.float32),
        "non_printability": np.full(count, 0.03, dtype=np.float32),
    }
