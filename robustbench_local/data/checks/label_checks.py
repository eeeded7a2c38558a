"""Labels that are likely wrong: confident learning on frozen features, the surest first."""

from __future__ import annotations

from collections import Counter

import numpy as np

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.checks.confident_learning import find_confident_classes
from robustbench_local.data.checks.data_finding import DataFinding
from robustbench_local.data.checks.image_features import compute_image_features
from robustbench_local.data.checks.image_survey import SurveyedImages
from robustbench_local.data.checks.label_probabilities import FOLDS, compute_label_probabilities
from robustbench_local.statistics import Estimate, compute_clopper_pearson

MIN_LABEL_LEAD = 0.6
"""Lead in probability of the likelier class over the given one from which on a label is likely wrong."""
MIN_LABEL_ACCURACY = 0.6
"""Share of labels that the features predict, below which nothing can be said about single labels."""
MAX_LABEL_IMAGES = 50_000
"""Images above which labels are not checked: it would take longer than minutes."""


def check_labels(
    surveyed: SurveyedImages, *, seed: int, features: str = ""
) -> tuple[list[DataFinding], Estimate | None]:
    """Find labels that are likely wrong, over all splits.

    The other photographs of an object count as evidence: an object all of whose photographs have the same
    wrong label is not found.

    Args:
        surveyed: The readable images.
        seed: Seed of the folds.
        features: Name of the network whose features ``surveyed`` has; empty without.

    Returns:
        The findings, the surest first, and the share of labels that the features predict; None if labels
        could not be checked, which a finding explains.
    """
    counts = Counter(surveyed.labels)
    names = sorted(name for name, count in counts.items() if count >= FOLDS)
    rows = [
        row
        for row, label in enumerate(surveyed.labels)
        if counts[label] >= FOLDS and not surveyed.is_blank[row]
    ]
    few = sorted(set(counts) - set(names))
    findings = (
        [_explain_omission(f"labels of {', '.join(few)}: fewer than {FOLDS} images each")] if few else []
    )
    if len(names) < 2:
        return [*findings, _explain_omission(f"labels: fewer than two classes have {FOLDS} images")], None
    if len(rows) > MAX_LABEL_IMAGES:
        what = f"labels: there are {format_count(len(rows), 'image')}, more than {MAX_LABEL_IMAGES:,}"
        return [*findings, _explain_omission(f"{what}; set a limit")], None
    index = {name: position for position, name in enumerate(names)}
    given = np.array([index[surveyed.labels[row]] for row in rows], dtype=np.int64)
    if len(np.unique(given)) < len(names) or min(np.bincount(given, minlength=len(names))) < FOLDS:
        return [*findings, _explain_omission("labels: a class has only images of one color")], None
    vectors = (
        compute_image_features(surveyed.thumbnails[rows])
        if surveyed.features is None
        else surveyed.features[rows]
    )
    probabilities = compute_label_probabilities(vectors, given, len(names), seed=seed)
    share = compute_clopper_pearson(int((probabilities.argmax(axis=1) == given).sum()), len(given))
    if share.value < MIN_LABEL_ACCURACY:
        by = f"the features of {features}" if features else "gradients and colors"
        what = f"labels: {by} predict only {share.value:.1%} of them ({share.low:.1%} to {share.high:.1%}"
        advice = "use another network" if features else "name a pretrained network with --features"
        return [*findings, _explain_omission(f"{what}, n = {share.n:,}): {advice}")], share
    likelier = find_confident_classes(probabilities, given)
    places = np.arange(len(given))
    lead = probabilities[places, likelier] - probabilities[places, given]
    suspects = np.flatnonzero((likelier != given) & (lead >= MIN_LABEL_LEAD))
    for place in sorted(suspects.tolist(), key=lambda suspect: -lead[suspect]):
        row, name = rows[place], names[likelier[place]]
        high, low = (float(probabilities[place, label]) for label in (likelier[place], given[place]))
        findings.append(
            DataFinding(
                check="likely-wrong-label",
                detail=f"given {surveyed.labels[row]!r} ({low:.1%}), likelier {name!r} ({high:.1%})",
                split=surveyed.splits[row],
                image=surveyed.ids[row],
                label=surveyed.labels[row],
                likelier_label=name,
                probability=high,
                given_probability=low,
                is_exclusion_suggested=True,
            )
        )
    return findings, share


def _explain_omission(detail: str) -> DataFinding:
    return DataFinding(check="not-checked", detail=detail)
