"""Runs with stickers as an evaluation leaves them, made without a model or a camera.

A sign is misread from near and from the front: where it is, and how often, has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sample_run import SPEED_LIMITS, STOP, Sample, _about, picture

from robustbench_local.store import (
    CellRecord,
    OutcomeRecord,
    RunStore,
    SightingRecord,
    SurfaceRecord,
    ViewRecord,
)

VIEWS, FRAMES = 200, 60
SHOWN = 8
MODELS = ("signs-plain", "signs-pgd-at")
REACH = {"signs-plain": 24.0, "signs-pgd-at": 60.0}
"""Size in pixels from which on each model reads a stickered sign as a target."""


@dataclass(frozen=True, kw_only=True)
class Stickers:
    """What to build."""

    models: tuple[str, ...] = MODELS
    signs: int = 4
    void: int = 1
    """Signs, the last ones, that are misread in every fifth clean view."""
    targets: tuple[int, ...] = SPEED_LIMITS
    norm: str = "sticker"
    eps: float = 0.1
    surface: SurfaceRecord | None = None
    threat: str = "sticker-10"
    controls: bool = True
    pictures: bool = True
    class_names: tuple[str, ...] = Sample().class_names
    gates: tuple[dict, ...] = ()


def build_stickers(directory: Path, sample: Stickers | None = None) -> Path:
    """Write such a run into ``directory`` and return it."""
    sample = sample or Stickers()
    about = Sample(models=sample.models, images=32, class_names=sample.class_names, gates=sample.gates)
    with RunStore.create_or_open(directory, resolved="schema: 1\n", identity={"grid": "stickers"}) as store:
        for key, value in _about(about).items():
            store.set_meta(key, value)
        costs = {str(target): (target + 1) / 10 for target in SPEED_LIMITS}
        entry = {"costs": costs, "sources": [STOP]}
        store.set_meta("severity", {"rule": "made up", "models": dict.fromkeys(sample.models, entry)})
        for position, model in enumerate(sample.models):
            _write_cell(store, sample, position, model)
    return directory


def _write_cell(store: RunStore, sample: Stickers, position: int, model: str) -> None:
    key = f"{position:02d}" + "a" * 62
    store.put_cell(
        CellRecord(
            key=key, position=position, model=model, defense="none", attack=sample.threat, card=sample.threat,
            norm=sample.norm, eps=sample.eps, threat=sample.threat,
            goal="targeted" if sample.targets else "untargeted", targets=sample.targets, sources=(STOP,),
            images=sample.signs, parameters={"method": "sticker", "views": 32}, measure="views",
            surface=sample.surface,
        )
    )  # fmt: skip
    rows, sightings, views = [], [], []
    for place in range(sample.signs):
        void = place >= sample.signs - sample.void
        seen = _looks(sample, key, place, REACH.get(model, 24.0), void)
        sightings += seen[0]
        views += seen[1]
        rows.append(_outcome(key, place, seen[0], void))
    store.add_outcomes(key, rows, sightings, views)
    store.set_status(key, "done")
    if sample.pictures:
        store.save_arrays(key, 0, _arrays(sample.signs))


def _looks(
    sample: Stickers, key: str, place: int, reach: float, void: bool
) -> tuple[list[SightingRecord], list[ViewRecord]]:
    sightings, views = [], []
    for kind, count in (("view", VIEWS), ("approach", FRAMES)):
        rng = np.random.default_rng([place, count])
        ordered = np.linspace(0, 1, count)
        distance = 16 * 4 ** (ordered if kind == "approach" else rng.uniform(size=count))
        yaw, pitch = rng.uniform(-45, 45, count), rng.uniform(-20, 20, count)
        clean = np.where((np.arange(count) % 5 == 0) & void, 13, STOP)
        target = sample.targets[place % 3] if sample.targets else 3
        near = np.where((distance >= reach) & (np.abs(yaw) < 30), target, STOP)
        by_chance = np.where(np.arange(count) % 50 == 0, target, STOP)
        conditions = {"clean": clean, "sticker": near}
        if kind == "view" and sample.controls:
            flat = np.where(distance >= 1.6 * reach, target, STOP)
            conditions |= {"no-size": clean, "random-colours": by_chance, "without-views": flat}
            conditions |= {} if sample.eps == 1 else {"whole-sign": np.full(count, target)}
        views.append(
            ViewRecord(
                cell=key, position=place, kind=kind, distance=tuple(distance.tolist()),
                yaw=tuple(yaw.tolist()), pitch=tuple(pitch.tolist()), roll=(0.0,) * count,
            )
        )  # fmt: skip
        sightings += [
            SightingRecord(
                cell=key, position=place, condition=name, kind=kind,
                predictions=tuple(read.tolist()), confidences=(0.75,) * count,
            )
            for name, read in conditions.items()
        ]  # fmt: skip
    return sightings, views


def _outcome(key: str, place: int, looks: list[SightingRecord], void: bool) -> OutcomeRecord:
    stickered = next(one for one in looks if one.condition == "sticker" and one.kind == "view")
    hits = sum(read != STOP for read in stickered.predictions)
    return OutcomeRecord(
        cell=key, position=place, image=f"signs/test/14/{place:05d}", label=STOP, clean_prediction=STOP,
        adversarial_prediction=2, clean_correct=not void, broken=not void and hits > VIEWS / 2,
        moved_elsewhere=False, margin=-1.0, fragile=False, linf=0.6, l2=5.0, l1=60.0, broken_8bit=None,
        forward_passes=12_000, backward_passes=9_600, seconds=40.0, status="void" if void else "ok",
        error="80.0 % of its clean views are read rightly; 95 % are needed" if void else None,
    )  # fmt: skip


def _arrays(count: int) -> dict[str, np.ndarray]:
    originals = np.stack([picture(place, STOP) for place in range(count)])
    stickered = originals.copy()
    stickered[:, :, 8:11, 8:24] = stickered[:, :, 21:24, 8:24] = 0.9
    photographs = np.round(255 * np.repeat(stickered[:, None], SHOWN, axis=1)).astype(np.uint8)
    return {
        "positions": np.arange(count, dtype=np.int64),
        "original": originals,
        "adversarial": stickered,
        "photographs": photographs,
        "photograph_numbers": np.tile(np.arange(SHOWN), (count, 1)),
        "frames": np.repeat(photographs[:, :1], 12, axis=1),
        "frame_numbers": np.tile(np.linspace(0, FRAMES - 1, 12).round().astype(np.int64), (count, 1)),
        "total_variation": np.full(count, 0.12, dtype=np.float32),
        "non_printability": np.full(count, 0.03, dtype=np.float32),
    }
