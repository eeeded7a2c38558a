"""Checks for images and objects that occur more than once: copies, near-duplicates, objects in two splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

from robustbench_local.counted_nouns import format_count
from robustbench_local.data.checks.data_finding import DataFinding
from robustbench_local.data.checks.image_survey import SurveyedImages
from robustbench_local.data.checks.near_duplicates import SURE_LIKENESS, find_near_duplicates
from robustbench_local.data.look_alikes import find_objects_by_name

_REVIEWED_CHECKS = frozenset({"names-across-splits", "possible-duplicate-across-splits"})
"""Checks that call for a look, and suggest no exclusion."""


def check_copies(
    surveyed: SurveyedImages, progress: Callable[[int, int], None] | None = None
) -> list[DataFinding]:
    """Find images that occur twice, exactly or nearly, within a split and across splits.

    Of a pair across splits, the copy in the earlier split, which is trained on, is suggested for exclusion.

    Args:
        surveyed: The readable images.
        progress: Called with (images compared, images in total).
    """
    by_digest: defaultdict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(surveyed.digests):
        by_digest[digest].append(row)
    rows = [copies[0] for copies in by_digest.values() if not surveyed.is_blank[copies[0]]]
    findings = []
    for copies in by_digest.values():
        if not surveyed.is_blank[copies[0]]:
            findings += _describe_copies(surveyed, copies)
    pairs = find_near_duplicates(surveyed.thumbnails[torch.tensor(rows, dtype=torch.int64)], progress)
    reported: set[tuple[int, str]] = set()
    for pair in pairs:
        first, second = rows[pair.first], rows[pair.second]
        # an image that has many near-duplicates in a split is reported with the most alike alone
        dropped = first if surveyed.splits[first] != surveyed.splits[second] else second
        key = (dropped, surveyed.splits[first + second - dropped])
        if key not in reported:
            reported.add(key)
            findings += _describe_pair(surveyed, first, second, pair.likeness)
    return findings


def check_objects(surveyed: SurveyedImages, splits_of_groups: Sequence[str]) -> list[DataFinding]:
    """Find objects with images in two splits: by declared groups, else by the names of files.

    Args:
        surveyed: The readable images.
        splits_of_groups: The splits whose groups, and names, are of one numbering: those of one source.
    """
    rows = [row for row, split in enumerate(surveyed.splits) if split in splits_of_groups]
    groups = {row: surveyed.groups[row] for row in rows if surveyed.groups[row]}
    check, what = "object-across-splits", "the object"
    if not groups:
        objects = find_objects_by_name(
            [surveyed.ids[row] for row in rows], [surveyed.labels[row] for row in rows]
        )
        groups = dict(zip(rows, objects, strict=True)) if objects else {}
        check, what = "names-across-splits", "by the names of files, the object"
    by_group: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    for row, group in groups.items():
        by_group[group].setdefault(surveyed.splits[row], []).append(row)
    findings = []
    for group, members in by_group.items():
        if len(members) < 2:
            continue
        (first, ours), (second, theirs), *_ = members.items()
        counts = f"{format_count(len(ours), 'image')} in {first} and {len(theirs):,} in {second}"
        findings += [
            _build_pair_finding(check, surveyed, row, theirs[0], f"{what} {group!r} has {counts}")
            for row in (ours if check == "object-across-splits" else ours[:1])
        ]
    return findings


def _describe_copies(surveyed: SurveyedImages, copies: Sequence[int]) -> list[DataFinding]:
    """Describe images with the same pixels, each with the copy that is the evidence."""
    findings = []
    for index, row in enumerate(copies):
        others = [other for other in copies if other != row]
        contradicting = [other for other in others if surveyed.labels[other] != surveyed.labels[row]]
        across = [other for other in copies[index + 1 :] if surveyed.splits[other] != surveyed.splits[row]]
        if contradicting:
            what = "the same pixels have two labels"
            findings.append(
                _build_pair_finding(
                    "contradictory-labels", surveyed, row, contradicting[0], what, likeness=1.0
                )
            )
        if across:
            findings.append(
                _build_pair_finding(
                    "same-image-across-splits", surveyed, row, across[0], "the same pixels", likeness=1.0
                )
            )
        elif not contradicting and any(
            surveyed.splits[other] == surveyed.splits[row] for other in copies[:index]
        ):
            findings.append(
                _build_pair_finding("same-image", surveyed, row, copies[0], "the same pixels", likeness=1.0)
            )
    return findings


def _describe_pair(surveyed: SurveyedImages, first: int, second: int, likeness: float) -> list[DataFinding]:
    what = f"likeness {likeness:.3f}"
    if surveyed.labels[first] != surveyed.labels[second]:
        what += f", labels {surveyed.labels[first]!r} and {surveyed.labels[second]!r}"
    if surveyed.splits[first] != surveyed.splits[second]:
        is_sure = likeness >= SURE_LIKENESS
        check = "near-duplicate-across-splits" if is_sure else "possible-duplicate-across-splits"
        return [_build_pair_finding(check, surveyed, first, second, what, likeness=likeness)]
    return [_build_pair_finding("near-duplicate", surveyed, second, first, what, likeness=likeness)]


def _build_pair_finding(
    check: str, surveyed: SurveyedImages, row: int, other: int, detail: str, *, likeness: float | None = None
) -> DataFinding:
    return DataFinding(
        check=check,
        detail=detail,
        split=surveyed.splits[row],
        image=surveyed.ids[row],
        label=surveyed.labels[row],
        other_split=surveyed.splits[other],
        other_image=surveyed.ids[other],
        other_label=surveyed.labels[other],
        likeness=likeness,
        is_exclusion_suggested=check not in _REVIEWED_CHECKS
        and (likeness is None or likeness >= SURE_LIKENESS),
    )
