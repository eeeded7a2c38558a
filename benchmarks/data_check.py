"""How many planted faults ``rbl check-data`` finds: ``python -m benchmarks.data_check --data DIR``.

DIR holds ``gtsrb_train_8pertrack.npz``: photographs of German traffic signs (32 pixels), 8 frames of each. A
share of the signs is used. Copies of training images, changed in one way each, are planted in a test split of
other signs; then 3% of the labels are replaced by others.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance

from robustbench_local.data.checks.check_dataset import check_dataset
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.data.split import hold_out
from robustbench_local.statistics import compute_clopper_pearson

COPIES_OF_EACH_KIND = 50
FLIPPED_SHARE = 0.03
ACROSS = ("same-image-across-splits", "near-duplicate-across-splits", "possible-duplicate-across-splits")


def change_images(generator: np.random.Generator) -> Mapping[str, Callable[[Image.Image], Image.Image]]:
    """Return the ways in which copies are changed."""

    def compress(image: Image.Image, quality: int) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content).convert("RGB")

    def crop(image: Image.Image, share: float) -> Image.Image:
        side = round(share * image.width)
        left, top = (int(generator.integers(0, image.width - side + 1)) for _ in range(2))
        return image.crop((left, top, left + side, top + side))

    return {
        "unchanged": lambda image: image,
        "twice the size": lambda image: image.resize((64, 64), Image.Resampling.BICUBIC),
        "0.75 of the size": lambda image: image.resize((24, 24), Image.Resampling.BICUBIC),
        "JPEG, quality 75": lambda image: compress(image, 75),
        "JPEG, quality 50": lambda image: compress(image, 50),
        "brightness 1.3": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
        "brightness 0.6": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
        "cropped to 0.9": lambda image: crop(image, 0.9),
        "cropped to 0.8": lambda image: crop(image, 0.8),
    }


def format_share(count: int, total: int) -> str:
    """Format a share with its 95% Clopper-Pearson interval."""
    share = compute_clopper_pearson(count, total)
    return f"{count} of {total}: {share.value:.1%} ({share.low:.1%}-{share.high:.1%})"


def measure_copies(training: Dataset, test: Dataset, generator: np.random.Generator) -> None:
    """Print how many planted copies are found, and false findings without any."""
    base = check_dataset({"train": training, "test": test}, are_labels_checked=False)
    for check in ACROSS:
        wrong = {finding.other_image for finding in base.findings if finding.check == check}
        print(f"clean, {check}: test images {format_share(len(wrong), len(test))}")
    kinds = change_images(generator)
    rows = generator.choice(len(training), (len(kinds), COPIES_OF_EACH_KIND), replace=False)
    images, ids = [], []
    for (kind, change), chosen in zip(kinds.items(), rows, strict=True):
        for row in chosen:
            pixels = (training.images[row].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            changed = change(Image.fromarray(pixels)).resize((32, 32), Image.Resampling.BILINEAR)
            images.append(torch.from_numpy(np.array(changed)).permute(2, 0, 1).float() / 255)
            ids.append(f"{kind}/{row}")
    planted = replace(
        test,
        images=torch.cat([test.images, torch.stack(images)]),
        labels=torch.cat([test.labels, training.labels[rows.flatten()]]),
        ids=(*test.ids, *ids),
        groups=None,
    )
    check = check_dataset(
        {"train": replace(training, groups=None), "test": planted}, are_labels_checked=False
    )
    across = [finding for finding in check.findings if finding.check in ACROSS]
    found = {finding.other_image for finding in across}
    sure = {finding.other_image for finding in across if finding.severity == "error"}
    for kind in kinds:
        named, certain = (sum(image.startswith(f"{kind}/") for image in part) for part in (found, sure))
        print(f"{kind}: found {format_share(named, COPIES_OF_EACH_KIND)}, as an error {certain}", flush=True)


def measure_labels(data: Dataset, generator: np.random.Generator) -> None:
    """Print precision and recall on flipped labels, and false findings without any."""
    clean = check_dataset({"train": data})
    wrong = sum(finding.check == "likely-wrong-label" for finding in clean.findings)
    print(f"labels, clean: findings {format_share(wrong, len(data))}; predicted {clean.label_accuracy}")
    rows = generator.choice(len(data), round(FLIPPED_SHARE * len(data)), replace=False)
    labels = data.labels.clone()
    shifts = torch.from_numpy(generator.integers(1, data.num_classes, len(rows)))
    labels[rows] = (labels[rows] + shifts) % data.num_classes
    check = check_dataset({"train": replace(data, labels=labels)})
    named = {finding.image for finding in check.findings if finding.check == "likely-wrong-label"}
    flipped = {data.ids[row] for row in rows}
    print(f"labels, {len(flipped)} flipped: recall {format_share(len(named & flipped), len(flipped))}")
    print(f"labels, precision: {format_share(len(named & flipped), len(named))}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of gtsrb_train_8pertrack.npz")
    parser.add_argument("--share", type=float, default=0.3, help="share of the signs")
    chosen = parser.parse_args(arguments)
    generator = np.random.default_rng(0)
    whole = load_dataset(f"npz:{chosen.data / 'gtsrb_train_8pertrack.npz'}", split="train")
    _, some = hold_out(whole, chosen.share, seed=0)
    training, test = hold_out(some, 0.25, seed=0)
    print(f"{len(some)} images: {len(training)} for training, {len(test)} of other signs for the test")
    measure_copies(training, test, generator)
    measure_labels(replace(some, groups=None), generator)


if __name__ == "__main__":
    main()
