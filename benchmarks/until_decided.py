"""``python -m benchmarks.until_decided``: passes until a gate is decided, beside those of all images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated

# before torch starts its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch
import typer

import robustbench_local as rbl
from benchmarks.decision_replay import OutcomeTable, build_lower_bound_test, replay_run
from benchmarks.subjects import load_model
from robustbench_local.attacks.apgd.apgd import APGD
from robustbench_local.attacks.apgd.targeted import APGDT
from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.data.image_order import order_images
from robustbench_local.threats.threat_model import ThreatModel

Marks = npt.NDArray[np.float64] | npt.NDArray[np.bool_]
"""One value for each image."""
EPS = {
    "mnist-fast": 0.3,
    "mnist-trades": 0.3,
    "cifar10-resnet2b": 2 / 255,
    "signs-pgd-at": 8 / 255,
    "signs-trades": 8 / 255,
    "signs-plain": 2 / 255,
}
"""Models and the radius of each, in pixel units."""
CHEAP_ATTACKS: dict[str, Attack] = {"apgd": APGD(), "pgd20": rbl.PGD(steps=20)}
"""The attacks that go first."""
LIMIT_SHIFT = 0.1
"""How far the limits lie from the robust accuracy, to both sides."""


@dataclass(frozen=True, kw_only=True)
class KnownRun:
    """The outcomes of a run over all images that the replays read."""

    name: str
    table: OutcomeTable
    known_survivors: int
    """Images on which the expensive attack ran; what it finds on the others is drawn at its rate."""


def main(
    shared: Annotated[Path, typer.Option(help="Folder with images and checkpoints.")],
    work: Annotated[Path, typer.Option(help="Folder that keeps outcomes: the same command goes on there.")],
    images: Annotated[int, typer.Option(help="Images of each run.", min=1)] = 1000,
    survivors: Annotated[int, typer.Option(help="Most images for the expensive attack; 0: all.", min=0)] = 0,
    cheap: Annotated[str, typer.Option(help="The cheap attack: apgd or pgd20.")] = "apgd",
    models: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(EPS)}.")] = "",
) -> None:
    """Measure outcomes once for each model, then replay the decision against limits on both sides."""
    torch.set_num_threads(1)
    work.mkdir(parents=True, exist_ok=True)
    names = [name for name in EPS if not models or name in models.split(",")]
    runs = [measure_outcomes(name, cheap, images, survivors or images, shared, work) for name in names]
    print(f"| model | eps | robust | limit | verdict | {cheap} on | AutoAttack on | passes, of all |")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |")
    shares: dict[str, list[float]] = {"pass": [], "fail": []}
    for run in runs:
        count = len(run.table.robust)
        robust = run.table.robust_count / count
        for limit in (robust - LIMIT_SHIFT, robust + LIMIT_SHIFT):
            if not 0 < limit < 1:
                continue
            replay = replay_run(run.table, build_lower_bound_test(limit, count))
            verdict = {"below": "fail", "above": "pass"}.get(str(replay.zone), "undecided")
            share = replay.passes / count_all_passes(run.table)
            shares.setdefault(verdict, []).append(share)
            eps = f"{EPS[run.name] * 255:.4g}/255"
            sizes = " | ".join(f"{given:,}" for given in replay.given)
            print(f"| {run.name} | {eps} | {robust:.1%} | {limit:.1%} | {verdict} | {sizes} | {share:.1%} |")
    for verdict, found in shares.items():
        if found:
            print(
                f"\nmedian over {len(found)} limits that end in {verdict}: {median(found):.1%} of the passes"
            )
    both = [share for found in shares.values() for share in found]
    print(f"\nmedian over all {len(both)}: {median(both):.1%}")


def count_all_passes(table: OutcomeTable) -> float:
    """Count the passes of a run over all images: every attack on every image."""
    return float(table.passes.sum())


def measure_outcomes(
    name: str, cheap_attack: str, images: int, survivors: int, shared: Path, work: Path
) -> KnownRun:
    """Measure what the cheap attack and AutoAttack find, in random order; kept in a file.

    In place of AutoAttack runs its APGD-T, with 9 targets. An image that survives takes as many passes as the
    stages have steps, whatever FAB and Square find; so these need not run.
    """
    path = work / f"{name}-{cheap_attack}-{images}-{survivors}.npz"
    if not path.is_file():
        np.savez(path, **_attack_images(name, CHEAP_ATTACKS[cheap_attack], images, survivors, shared))
    with np.load(path) as stored:
        cheap, cheap_passes, costly, costly_passes = (
            stored[key] for key in ("cheap", "cheap_passes", "costly", "costly_passes")
        )
    known = np.isfinite(costly)
    rate = float(costly[known].mean()) if known.any() else 1.0
    drawn = np.random.default_rng(0).random(len(costly)) < rate
    robust = cheap & np.where(known, costly == 1, drawn)
    whole = sum(AutoAttack().estimate_cost(ThreatModel(norm="Linf", eps=EPS[name]))) + 6
    passes = np.where(robust, float(whole), np.where(known, costly_passes, cheap_passes))
    table = OutcomeTable(
        robust=np.stack([cheap, robust], axis=1),
        passes=np.stack([cheap_passes, passes], axis=1),
        costs=(float(cheap_passes.max()), float(whole)),
    )
    return KnownRun(name=name, table=table, known_survivors=int(known.sum()))


def _attack_images(name: str, attack: Attack, images: int, survivors: int, shared: Path) -> dict[str, Marks]:
    """Run the cheap attack on all images and the expensive one on the first survivors, in random order."""
    classifier, pixels, labels = _load_images(name, images, shared)
    ids = [str(index) for index in range(len(pixels))]
    order = order_images(ids, labels.tolist(), seed=0)
    pixels, labels = pixels[order], labels[order]
    cheap, cheap_passes = _attack(classifier, pixels, labels, attack, EPS[name])
    left = np.flatnonzero(cheap)[:survivors]
    costly, costly_passes = np.full(len(pixels), np.nan), np.zeros(len(pixels))
    costly[left], costly_passes[left] = _attack(classifier, pixels[left], labels[left], APGDT(), EPS[name])
    return {
        "cheap": cheap,
        "cheap_passes": cheap_passes,
        "costly": costly,
        "costly_passes": costly_passes,
    }


def _load_images(name: str, images: int, shared: Path) -> tuple[rbl.Classifier, torch.Tensor, torch.Tensor]:
    """Load a model and its images: a shipped one with rendered signs, or a published one from the folder."""
    if name.startswith("signs"):
        data = rbl.load_dataset("signs", limit=images)
        return rbl.load_classifier(f"zoo:{name}"), data.images, data.labels
    subject = load_model(name, images, shared)
    if subject is None:
        raise SystemExit(f"{name}: no checkpoint in {shared}")
    return subject.classifier, subject.images, subject.labels


def _attack(
    classifier: rbl.Classifier, images: torch.Tensor, labels: torch.Tensor, attack: Attack, eps: float
) -> tuple[Marks, Marks]:
    """Return whether each image is robust, and the passes it took."""
    result = rbl.evaluate(
        classifier, (images, labels), attack=attack, norm="Linf", eps=eps, diagnostics=False
    )
    rows = result.outcomes.sort_values("position")
    robust = (rows["clean_correct"] & ~rows["broken"]).to_numpy(dtype=bool)
    return robust, (rows["forward_passes"] + rows["backward_passes"]).to_numpy(dtype=float)


if __name__ == "__main__":
    typer.run(main)
