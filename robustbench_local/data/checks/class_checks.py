"""Checks of the classes: empty ones, too few images, imbalance, names that are nearly the same."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping

from robustbench_local.config.class_lookup import normalize_class_name
from robustbench_local.counted_nouns import format_count
from robustbench_local.data.checks.data_finding import DataFinding
from robustbench_local.data.checks.image_survey import SurveyedImages

ADVISED_IMAGES_PER_CLASS = 100
"""Images of a class from which on fine-tuning a pretrained network is known to work well."""
MAX_IMBALANCE = 10.0
"""Images of the largest class for each image of the smallest, above which classes are unbalanced."""


def check_classes(surveyed: SurveyedImages, names: Mapping[str, tuple[str, ...]]) -> list[DataFinding]:
    """Check the classes of every split.

    Args:
        surveyed: The readable images.
        names: Split -> names of its classes, with those without an image. The first split is trained on.
    """
    counts = {split: Counter[str]() for split in names}
    for split, label in zip(surveyed.splits, surveyed.labels, strict=True):
        counts[split][label] += 1
    findings = _find_similar_names(names)
    for split, known in names.items():
        findings += [
            DataFinding(check="empty-class", split=split, label=label, detail="no image can be read")
            for label in known
            if not counts[split][label]
        ]
    training, *others = counts
    findings += _find_missing_classes(counts, training, others)
    findings += _check_balance(training, counts[training])
    return findings


def _find_missing_classes(
    counts: Mapping[str, Counter[str]], training: str, others: list[str]
) -> list[DataFinding]:
    findings = []
    for split in others:
        for label in sorted(set(counts[split]) - set(counts[training])):
            what = f"{format_count(counts[split][label], 'image')} in {split}, none in {training}"
            findings.append(
                DataFinding(check="class-missing-in-training", split=split, label=label, detail=what)
            )
        for label in sorted(set(counts[training]) - set(counts[split])):
            what = f"{format_count(counts[training][label], 'image')} in {training}, none in {split}"
            findings.append(DataFinding(check="class-missing-in-test", split=split, label=label, detail=what))
    return findings


def _check_balance(split: str, counts: Counter[str]) -> list[DataFinding]:
    findings = [
        DataFinding(
            check="few-images",
            split=split,
            label=label,
            detail=f"{format_count(count, 'image')}; about {ADVISED_IMAGES_PER_CLASS} are advised",
        )
        for label, count in sorted(counts.items())
        if count < ADVISED_IMAGES_PER_CLASS
    ]
    if len(counts) == 1:
        only = next(iter(counts))
        what = f"all images are of the class {only}: nothing can be told apart"
        findings.append(DataFinding(check="imbalance", split=split, label=only, detail=what))
    elif counts:
        (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
        if largest > MAX_IMBALANCE * smallest:
            counted = f"{format_count(smallest, 'image')} of {least}, {largest:,} of {most}"
            what = f"{counted}: compare classes one by one"
            findings.append(DataFinding(check="imbalance", split=split, label=least, detail=what))
    return findings


def _find_similar_names(names: Mapping[str, tuple[str, ...]]) -> list[DataFinding]:
    """Find names that differ only in case, spaces, underscores or the form of their Unicode."""
    spellings: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for split, known in names.items():
        for name in known:
            key = normalize_class_name(unicodedata.normalize("NFKC", name).replace("-", " "))
            spellings[key].setdefault(name, split)
    findings = []
    for variants in spellings.values():
        first, *others = variants
        findings += [
            DataFinding(
                check="similar-class-names",
                split=variants[name],
                label=name,
                other_split=variants[first],
                other_label=first,
                detail=f"{name!r} and {first!r} are two classes",
            )
            for name in others
        ]
    return findings
