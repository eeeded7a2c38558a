"""A second search for successes that 8-bit rounding undoes, or whose margin is floating-point noise.

The verdict ``broken`` never changes here: a candidate of this search either replaces a success that it
improves on, or is discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from robustbench_local.attacks.base import Attack, Measure, limit_access
from robustbench_local.attacks.core.eight_bit_search import FinishingSearch, estimate_finishing_cost
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.stochastic import passes_per_query
from robustbench_local.errors import InvariantError, UnreachableError
from robustbench_local.evaluation.harness.merged_results import replace_rows
from robustbench_local.evaluation.harness.verify import FRAGILE_MARGIN_SHARE, VerificationResult
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.eight_bit import has_8bit_choice
from robustbench_local.threats.threat_model import ThreatModel

CLEAR_MARGIN_SHARE = 2 * FRAGILE_MARGIN_SHARE
"""Share of the logits' range from which the search treats a margin as clear, with room for the rounding of
another pass."""
FINISHING_VERIFICATION_PASSES = 2
"""The harness predicts a new candidate once more, and as an 8-bit image."""


VerifyRows = Callable[[Tensor, Tensor], VerificationResult]
"""Rows of images, (M,), and candidates for them, (M, C, H, W), to verification results."""


@dataclass(frozen=True, kw_only=True)
class AttackedImages:
    """Attacked images and the settings of their attack."""

    attack: Attack
    """The attack."""
    attacked_model: Classifier
    """The model that the attack queried."""
    queries_left: Tensor | None
    """(N,) int64: queries that remain for each image; None: no limit."""
    is_transfer: bool
    """Whether the attacked classifier differs from the one under test."""
    images: Tensor
    """The originals, (N, C, H, W)."""
    labels: Tensor
    """True classes, (N,)."""
    masks: Tensor | None
    """(N, 1, H, W) boolean, or None."""
    threat: ThreatModel
    """Budget and goal."""
    stream: RandomStream
    """The images' random numbers."""
    add_note: Callable[[str], None]
    """Receives notes about the model for a reader of the results."""
    add_pass_counter: Callable[[PassCounter], None]
    """Receives the counter of the search's passes on these images."""


def finish_successes(
    attacked: AttackedImages, verified: VerificationResult, verify_rows: VerifyRows
) -> VerificationResult:
    """Move successes to 8 bits and to a clear margin where possible; no other image changes.

    Args:
        attacked: The attacked images and the settings of their attack.
        verified: Their verification results.
        verify_rows: Verifies further candidates, (M, C, H, W), for the images of these rows, (M,).

    Returns:
        The same verdicts ``broken``. An attack in a ball gets another candidate where that one is a success
        too, is no worse, and succeeds in 8 bits or beyond noise where the old one did not. An attack that
        measures distances keeps its candidate: only the 8-bit verdict is taken from the other one.
    """
    rows = find_unfinished_rows(verified, attacked.threat, attacked.attack.measure).to(attacked.images.device)
    return _finish_by_halves(attacked, verified, verify_rows, rows) if len(rows) else verified


def _finish_by_halves(
    attacked: AttackedImages, verified: VerificationResult, verify_rows: VerifyRows, rows: Tensor
) -> VerificationResult:
    """Refine these rows by halves; if the model raises on an image now, that image keeps its result.

    The image was broken and verified before: a failure of this search is no error of the image.
    """
    try:
        return _finish_rows(attacked, verified, verify_rows, rows)
    except (InvariantError, UnreachableError):
        raise
    except Exception as failure:
        if is_out_of_memory(failure):
            raise
        if len(rows) == 1:
            attacked.add_note(
                f"raised while a success was searched on in 8 bits: {extract_first_line(failure)}"
            )
            return verified
    middle = len(rows) // 2
    for part in (rows[:middle], rows[middle:]):
        verified = _finish_by_halves(attacked, verified, verify_rows, part)
    return verified


def _finish_rows(
    attacked: AttackedImages, verified: VerificationResult, verify_rows: VerifyRows, rows: Tensor
) -> VerificationResult:
    """Search on from the successes of these rows, and verify the new candidates."""
    threat, measure = attacked.threat, attacked.attack.measure
    choice = has_8bit_choice(
        attacked.images[rows], threat, None if attacked.masks is None else attacked.masks[rows]
    )
    fragile = verified.predictions.fragile.to(rows.device)[rows] & (measure == "ball")
    rows, choice, fragile = (values[choice | fragile] for values in (rows, choice, fragile))
    candidates = verified.candidates.to(rows.device)[rows]
    improved = _search_candidates(attacked, rows, candidates, choice)
    same = (improved == candidates).flatten(1).all(dim=1)
    again = (same & choice & fragile).nonzero().flatten()
    if len(again):  # no 8-bit image succeeds: at least the margin may become clear
        improved[again] = _search_candidates(
            attacked, rows[again], candidates[again], torch.zeros_like(choice[again])
        )
        same = (improved == candidates).flatten(1).all(dim=1)
    if bool(same.all()):
        return verified
    rows = rows[~same]
    return _merge_results(verified, verify_rows(rows, improved[~same]), rows.cpu(), measure)


def find_unfinished_rows(verified: VerificationResult, threat: ThreatModel, measure: Measure) -> Tensor:
    """Return the rows of successes that 8 bits undo or whose margin is noise, int64.

    Noise counts only where the attack measures no distance.

    Args:
        verified: The verification results.
        threat: The threat model; only balls allow a further search.
        measure: The measurement of the attack. The nearest success lies at the decision boundary by design.
    """
    if not threat.is_ball:
        return torch.empty(0, dtype=torch.int64)
    undone = torch.tensor([is_broken is False for is_broken in verified.broken_8bit], dtype=torch.bool)
    noise = verified.predictions.fragile & (measure == "ball")
    return (verified.broken & (undone | noise)).nonzero().flatten()


def count_finishing_passes(attack: Attack, threat: ThreatModel) -> tuple[int, int]:
    """Return the maximum extra passes per image of both searches, (forward, backward)."""
    if not threat.is_ball or not threat.eps or attack.queries is not None:
        return 0, 0  # an attack's remaining queries are part of its cost
    forward, backward = estimate_finishing_cost(attack.access)
    searches = 2 if attack.measure == "ball" else 1  # once in 8 bits, and once for the margin
    return searches * forward * attack.eot_samples, searches * backward * attack.eot_samples


def _search_candidates(attacked: AttackedImages, rows: Tensor, candidates: Tensor, in_8bit: Tensor) -> Tensor:
    """Return candidates that may be better, (M, C, H, W), for the images of these rows."""
    own_mean = passes_per_query(attacked.attacked_model)[0] > 1
    search = FinishingSearch(
        classifier=attacked.attacked_model,
        threat=attacked.threat,
        access=limit_access(attacked.attack.access, attacked.attacked_model.access),
        clear_margin_share=CLEAR_MARGIN_SHARE,
        eot_samples=1 if own_mean else attacked.attack.eot_samples,
        is_blind=attacked.is_transfer,
    )
    with attacked.attacked_model.count_passes(len(attacked.images)) as counter:
        attacked.add_pass_counter(counter)
        return search.finish_candidates(
            attacked.images[rows],
            attacked.labels[rows],
            candidates,
            attacked.stream.select_images(rows),
            rows=rows,
            in_8bit=in_8bit,
            queries_left=None if attacked.queries_left is None else attacked.queries_left[rows],
            masks=None if attacked.masks is None else attacked.masks[rows],
        )


def _merge_results(
    first: VerificationResult, second: VerificationResult, rows: Tensor, measure: Measure
) -> VerificationResult:
    """Merge results: the first, replaced by the second where better in one respect and worse in none.

    Args:
        first: Results of all images.
        second: Results of other candidates for some of them.
        rows: The rows of those images, on the CPU.
        measure: The measurement of the attack.
    """
    eight = list(first.broken_8bit)
    if measure == "distance":
        for row, broken, holds in zip(rows.tolist(), second.broken.tolist(), second.broken_8bit, strict=True):
            eight[row] = True if broken and holds else eight[row]
        return replace(first, broken_8bit=tuple(eight))
    places = [
        index
        for index, row in enumerate(rows.tolist())
        if bool(second.broken[index])
        and _is_improvement(_rate_success(first, row), _rate_success(second, index))
    ]
    return replace_rows(first, second, rows, places)


def _rate_success(verified: VerificationResult, row: int) -> tuple[bool, bool]:
    """Return whether a success holds in 8 bits, and whether its margin is clear."""
    return bool(verified.broken_8bit[row]), not bool(verified.predictions.fragile[row])


def _is_improvement(old: tuple[bool, bool], new: tuple[bool, bool]) -> bool:
    return new != old and all(better >= worse for better, worse in zip(new, old, strict=True))
