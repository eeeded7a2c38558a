"""A run directory as an evaluation leaves it, made without a model: for the tests of reports and gates.

Each image has a radius at which each model gives in; an attack finds it with its own strength. So the
counts hang together as real ones do: stronger attacks and larger radii break supersets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_local.store import CellRecord, EventRecord, OutcomeRecord, RunStore
from robustbench_local.store.arrays import hash_image_array

SIGN_CLASS_NAMES = (
    "Speed limit 20", "Speed limit 30", "Speed limit 50", "Speed limit 60", "Speed limit 70",
    "Speed limit 80", "Speed limit 100", "Speed limit 120", "Priority road", "Yield", "Stop",
    "No vehicles", "No entry", "General caution", "Keep right", "Roundabout",
)  # fmt: skip
HOSTILE_CLASS_NAMES = (
    "限速五十", "تحديد السرعة", "🛑 stop", "<img src=x onerror=alert(1)>", "=1+1", "a|b`c`", "@sum", "-2",
    "+3", "\tTab", "$x^2$", "'\"&", "עצור", "[a](javascript:alert(1))", "Keep right", "Roundabout",
)  # fmt: skip
HOSTILE_MODELS = ("<script>alert(1)</script>", "=cmd()|`$a$`", "نموذج\u202e", "模型🚦")
STOP_CLASS = 10
SPEED_LIMIT_CLASSES = tuple(range(8))
EPS_8_OF_255 = 8 / 255
DISTANCE_SCALES = {"Linf": 255, "L2": 14, "L1": 0.6, "spatial": 0.2, "corruption": 0.8}
"""How far the unit of each threat reaches: images give in at a radius in 255ths."""


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """What to build; the defaults make the run that the tests look at most."""

    models: tuple[str, ...] = ("signs-plain", "signs-pgd-at")
    images: int = 96
    class_names: tuple[str, ...] = SIGN_CLASS_NAMES
    failing_cell: tuple[str, str] | None = ("signs-plain", "autoattack-l2-0.5")
    has_images: bool = True
    question: str | None = None
    gates: tuple[dict[str, Any], ...] = ()
    abstains: bool = False
    """Whether the models may reject images."""
    draws: int = 0
    """Draws of each adversarial example: the models answer at random, and a success is one in most draws."""
    diagnostics: dict[str, Any] | None = None
    """A `DiagnosticsRecord` as JSON values; None: as in older runs."""
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)
    """(model, attack) -> a status to leave that cell in, instead of ``done``."""
    plans: tuple[SamplePlan, ...] | None = None
    """Columns of the grid, instead of ``SAMPLE_PLANS``."""


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """One column of the sample grid."""

    attack: str
    card: str
    norm: str
    eps: float
    threat: str
    strength: float
    passes_per_image: tuple[int, int]
    targets: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    note: str = ""
    knowledge: str = "white-box"
    surrogate: str | None = None
    measure: str = "ball"
    defense: str = "none"


SAMPLE_PLANS = (
    SamplePlan(attack="fgsm-linf-8", card="fgsm-linf-8", norm="Linf", eps=EPS_8_OF_255, threat="linf-8",
         strength=0.7, passes_per_image=(3, 1)),
    SamplePlan(attack="pgd50-linf-2", card="pgd50-linf-8", norm="Linf", eps=2 / 255, threat="linf-2",
         strength=0.97, passes_per_image=(252, 250)),
    SamplePlan(attack="pgd50-linf-4", card="pgd50-linf-8", norm="Linf", eps=4 / 255, threat="linf-4",
         strength=0.97, passes_per_image=(252, 250)),
    SamplePlan(attack="pgd50-linf-8", card="pgd50-linf-8", norm="Linf", eps=EPS_8_OF_255, threat="linf-8",
         strength=0.97, passes_per_image=(252, 250)),
    SamplePlan(attack="autoattack-linf-8", card="autoattack-linf-8", norm="Linf", eps=EPS_8_OF_255,
         threat="linf-8", strength=1.0, passes_per_image=(6702, 1900),
         note="AutoAttack by pyautoattack 0.2.0, groups of 64 images"),
    SamplePlan(attack="autoattack-l2-0.5", card="autoattack-l2-0.5", norm="L2", eps=0.5, threat="l2-0.5",
         strength=0.8, passes_per_image=(6702, 1900)),
    SamplePlan(attack="stop-to-speed-limit", card="stop-to-speed-limit", norm="Linf", eps=EPS_8_OF_255,
         threat="linf-8", strength=0.8, passes_per_image=(402, 400), targets=SPEED_LIMIT_CLASSES,
         sources=(STOP_CLASS,)),
)  # fmt: skip


def build_run(directory: Path, sample: SampleRun | None = None) -> Path:
    """Write a sample run into ``directory`` and return it."""
    sample = sample or SampleRun()
    with RunStore.create_or_open(
        directory, resolved_yaml="schema: 1\n", identity={"grid": "sample"}
    ) as store:
        for key, value in _build_metadata(sample).items():
            store.set_meta(key, value)
        plans = SAMPLE_PLANS if sample.plans is None else sample.plans
        cells = [(model, plan) for model in sample.models for plan in plans]
        for position, (model, plan) in enumerate(cells):
            _write_cell(store, sample, position, model, plan)
        for event in _build_events():
            store.add_event(event)
    return directory


def build_labels(sample: SampleRun) -> np.ndarray:
    """Labels, (N,): every class in turn."""
    return np.arange(sample.images) % len(sample.class_names)


def draw_picture(position: int, label: int, side: int = 32) -> np.ndarray:
    """A small picture of a round sign on a sloping background, (3, side, side), on the 8-bit grid."""
    rng = np.random.default_rng(position)
    y, x = np.mgrid[0:side, 0:side] / (side - 1)
    ground, tilt = rng.uniform(0.2, 0.6, (3, 1, 1)), rng.uniform(-0.3, 0.3, (2, 3, 1, 1))
    image = ground + tilt[0] * (x - 0.5) + tilt[1] * (y - 0.5)
    distance = np.hypot(x - rng.uniform(0.45, 0.55), y - rng.uniform(0.45, 0.55))
    rim = np.array([0.75, 0.1, 0.12]) if label < 11 else np.array([0.1, 0.25, 0.7])
    face = np.array([0.92, 0.92, 0.9]) if label != STOP_CLASS else rim
    image = np.where(distance < 0.36, rim[:, None, None], image)
    image = np.where(distance < 0.27, face[:, None, None], image)
    bar = (np.abs(y - 0.5) < 0.07) & (np.abs(x - 0.5) < 0.04 + 0.012 * label)
    image = np.where(bar, 1 - face[:, None, None] * 0.9, image)
    noisy = image + rng.normal(0, 0.015, image.shape)
    return (np.round(np.clip(noisy, 0, 1) * 255) / 255).astype(np.float32)


def _write_cell(store: RunStore, sample: SampleRun, position: int, model: str, plan: SamplePlan) -> None:
    key = f"{position:02d}" + "c" * 62
    labels = build_labels(sample)
    chosen = np.flatnonzero(np.isin(labels, plan.sources) if plan.sources else np.ones(len(labels), bool))
    status = sample.statuses.get((model, plan.attack), "done")
    failing = sample.failing_cell == (model, plan.attack)
    cell = CellRecord(
        key=key, position=position, model=model, defense=plan.defense, attack=plan.attack, card=plan.card,
        norm=plan.norm, eps=plan.eps, threat=plan.threat,
        goal="targeted" if plan.targets else "untargeted", targets=plan.targets, sources=plan.sources,
        images=len(chosen), excluded=len(labels) - len(chosen),
        parameters={"attack": plan.card.split("-")[0].upper(), "steps": plan.passes_per_image[1]},
        identity={"model": f"digest-of-{model}", "seed": "0"}, note=plan.note,
        knowledge=plan.knowledge, surrogate=plan.surrogate, measure=plan.measure,
    )  # fmt: skip
    store.put_cell(cell)
    if failing:
        remedy = "RuntimeError: the attack raised in /home/somebody/secret-project/attack.py, line 12"
        store.set_status(key, "error", remedy)
        return
    if status == "pending":
        return
    rows = [
        _build_outcome(
            sample, plan, model=model, key=key, place=place, image=int(image), label=int(labels[image])
        )
        for place, image in enumerate(chosen)
    ]
    broken = [row for row in rows if row.broken and row.status == "ok"][:6]
    if sample.has_images and broken:
        arrays = _build_arrays(broken, chosen, plan)
        store.save_arrays(key, broken[0].position, arrays)
        rows = [_add_hashes(row, arrays) for row in rows]
    store.add_outcomes(key, rows[: len(rows) // 2] if status in {"partial", "stopped"} else rows)
    store.set_status(key, status, "stopped by the user" if status != "done" else None)


def _add_hashes(row: OutcomeRecord, arrays: dict[str, np.ndarray]) -> OutcomeRecord:
    """The row with the hashes of its images, if they are kept."""
    place = next((place for place, at in enumerate(arrays["positions"]) if at == row.position), None)
    if place is None:
        return row
    before, after = (hash_image_array(arrays[name][place]) for name in ("original", "adversarial"))
    return replace(row, original_hash=before, adversarial_hash=after)


def _build_outcome(
    sample: SampleRun, plan: SamplePlan, *, model: str, key: str, place: int, image: int, label: int
) -> OutcomeRecord:
    rng = np.random.default_rng([image, sample.models.index(model)])
    hardened = sample.models.index(model) % 2 == 1
    correct = rng.random() < (0.94 if hardened else 0.985)
    radius = rng.lognormal(np.log(8.6 if hardened else 1.6), 0.55)
    wrong, targeted_hit = (label + 1 + int(rng.integers(3))) % len(sample.class_names), rng.random() < 0.8
    reach = plan.strength * plan.eps * DISTANCE_SCALES[plan.norm]
    size = plan.eps * (radius / reach if _is_stopped_early(plan, radius, reach) else 1)
    gives_in = bool(correct and radius < reach)
    if plan.targets:
        wrong = int(rng.choice(plan.targets)) if targeted_hit else (label + 1) % len(sample.class_names)
    broken = gives_in and (not plan.targets or wrong in plan.targets)
    row = OutcomeRecord(
        cell=key, position=place, image=f"test/{image:05d}.png", label=label,
        clean_prediction=label if correct else wrong,
        adversarial_prediction=(wrong if gives_in else label) if correct else wrong,
        clean_correct=correct, broken=broken, moved_elsewhere=gives_in and not broken,
        margin=float(radius - reach) if correct else -1.0, fragile=abs(radius - reach) < 0.01,
        linf=size if plan.norm == "Linf" else 0.06,
        l2=size * 40 if plan.norm == "Linf" else size, l1=size if plan.norm == "L1" else 30.0,
        broken_8bit=(rng.random() > 0.02) if broken else None,
        forward_passes=9 if broken else plan.passes_per_image[0],
        backward_passes=7 if broken else plan.passes_per_image[1],
        seconds=plan.passes_per_image[0] * 2e-4, status="ok" if correct else "clean-wrong",
        original_hash=f"{image:016x}", adversarial_hash=f"{image + 1:016x}",
    )  # fmt: skip
    if sample.abstains and not broken and rng.random() < 0.3:
        rejected = len(sample.class_names)
        row = replace(row, abstained=True, adversarial_prediction=rejected)
        row = row if correct else replace(row, clean_prediction=rejected)
    if sample.draws and correct:
        share = (0.8 if broken else 0.1) * sample.draws
        row = replace(
            row, draws=sample.draws, successful_draws=int(share * rng.random()), broken_fixed_draw=broken
        )
    return _build_error_outcome(row, plan)


def _is_stopped_early(plan: SamplePlan, radius: float, reach: float) -> bool:
    """Whether the attack stops at the image's own radius instead of at eps."""
    return plan.measure == "distance" and radius < reach


def _build_error_outcome(row: OutcomeRecord, plan: SamplePlan) -> OutcomeRecord:
    """One rejected candidate and two answers that are not finite, in fixed places."""
    if plan.attack == "fgsm-linf-8" and row.image.endswith("00005.png") and row.clean_correct:
        reason = "Linf distance 0.0471 exceeds 0.0314"
        return replace(
            row, broken=False, broken_8bit=None, adversarial_prediction=row.clean_prediction,
            linf=0.0, l2=0.0, l1=0.0, status="rejected", error=reason,
        )  # fmt: skip
    if plan.attack == "autoattack-linf-8" and row.image.endswith(("00007.png", "00008.png")):
        return replace(
            row, broken=row.clean_correct, adversarial_prediction=None, margin=None, linf=float("nan"),
            broken_8bit=None, status="non-finite", error="the model's logits are NaN or infinite",
        )  # fmt: skip
    return row


def _build_arrays(broken: list[OutcomeRecord], chosen: np.ndarray, plan: SamplePlan) -> dict[str, np.ndarray]:
    originals = np.stack([draw_picture(int(chosen[row.position]), row.label) for row in broken])
    rng = np.random.default_rng(3)
    change = rng.choice([-1.0, 1.0], originals.shape) * (plan.eps if plan.norm == "Linf" else 0.01)
    adversarial = np.clip(originals + change, 0, 1).astype(np.float32)
    positions = np.array([row.position for row in broken], dtype=np.int64)
    return {"positions": positions, "original": originals, "adversarial": adversarial}


def _build_metadata(sample: SampleRun) -> dict[str, Any]:
    names = list(sample.class_names)
    return {
        "environment": {
            "robustbench_local": "0.1.0", "code": "5f2c" * 16, "python": "3.11.9", "torch": "2.14.1",
            "torchvision": "0.29.1", "platform": "Linux x86_64", "device": "cpu", "threads": 2,
            "started": "2026-11-22T10:00:00+00:00", "versions": {"numpy": "2.4.6", "pyautoattack": "0.2.0"},
            "variables": {"AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI"},
        },
        "grid": {
            "schema": 1, "seed": 0,
            "data": {"source": "signs", "split": "test", "limit": sample.images},
            "models": [{"id": model, "source": f"zoo:{model}"} for model in sample.models],
            "attacks": ["fgsm-linf-8", {"card": "pgd50-linf-8", "eps": ["2/255", "4/255", "8/255"]},
                        "autoattack-linf-8", "autoattack-l2-0.5", "stop-to-speed-limit"],
            "notes": "weights from /home/somebody/weights and https://user:hunter2@example.org/w.pt",
        },
        "seed": 0,
        "question": sample.question,
        "data": {
            "name": "signs", "split": "test", "n": sample.images, "image_shape": [3, 32, 32],
            "class_names": names, "label_map": {name: index for index, name in enumerate(names)},
            "labels_per_class": {str(i): int(c) for i, c in enumerate(np.bincount(build_labels(sample)))},
            "quarantined": [["broken/0001.jpg", "truncated JPEG"]],
            "notes": ["rendered, not photographed"], "digest": "ab12" * 16,
        },
        "models": [
            {"id": model, "name": model, "defense": "none", "source": f"zoo:{model}", "digest": "c0de" * 16,
             "abstain": "last" if sample.abstains else None,
             "num_classes": len(names), "parameters": 174_330, "access": "gradients", "notes": [],
             "provenance": {"recipe": "PGD adversarial training, 40 epochs", "data": "signs, train split"}}
            for model in sample.models
        ],
        "gates": list(sample.gates),
        **({"diagnostics": sample.diagnostics} if sample.diagnostics else {}),
    }  # fmt: skip


def _build_events() -> list[EventRecord]:
    return [
        EventRecord(time="2026-11-22T10:04:00+00:00", level="warning",
                    message="out of memory with 128 images: going on with 64 at a time"),
        EventRecord(time="2026-11-22T10:09:00+00:00", level="info",
                    message="resumed in /home/somebody/runs/today"),
    ]  # fmt: skip
