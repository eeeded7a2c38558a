"""The end of a search through a twin: queries of the artefact alone, from the best candidate of the twin."""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.black_box.base import MIN_QUERIES, DecisionOracle
from robustbench_local.attacks.black_box.hopskipjump import HopSkipJump
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.square.square import Square, SquareSearch
from robustbench_local.classifier import Classifier
from robustbench_local.threats.lp_ball import project_to_box
from robustbench_local.threats.threat_model import ThreatModel

FINISH_QUERIES = 500
"""Queries of the artefact for each image that the search through the twin leaves."""
FIRST_WINDOW_SHARE = 0.1
"""Share of an image in Square's first windows: those of its own start would undo the candidate."""
MAX_LENGTHENINGS = 6
"""Doublings of a candidate's change after which no misclassified image is expected along it."""


def can_finish(threat: ThreatModel, classifier: Classifier, queries: int) -> bool:
    """Check whether a finish is possible: in a ball over whole images, with enough queries.

    Args:
        threat: Budget, goal and region.
        classifier: The artefact.
        queries: Queries for each image.
    """
    by_labels = classifier.access == "labels"
    norms = HopSkipJump.norms if by_labels else Square.norms
    fewest = MIN_QUERIES if by_labels else 2
    return threat.is_ball and threat.region == "image" and threat.norm in norms and queries >= fewest


def finish_on_artefact(inputs: AttackInputs, starts: Tensor, queries: int) -> Tensor:
    """Search on from candidates by queries of the artefact: Square on its scores, HopSkipJump on labels.

    Args:
        inputs: Arguments of an attack; its classifier is the artefact.
        starts: (N, C, H, W): the best candidate of each image so far, in the ball.
        queries: Maximum queries per image.

    Returns:
        Candidates, (N, C, H, W).
    """
    if inputs.classifier.access == "labels":
        return _finish_by_labels(inputs, starts, queries)
    engine = Engine.from_inputs(inputs)
    inside = project_to_box(starts, inputs.images, inputs.threat)
    search = SquareSearch(
        threat=inputs.threat, steps=queries - 1, p=FIRST_WINDOW_SHARE, name="finish", starts=inside
    )
    engine.run(search, engine.build_items())
    return engine.points


def move_to_boundary(inputs: AttackInputs, successes: Tensor) -> Tensor:
    """Move successes along the segment to their original as near as the artefact is misclassified.

    Args:
        inputs: Arguments of an attack; its classifier is the artefact.
        successes: (N, C, H, W): verified successes.

    Returns:
        Candidates, (N, C, H, W), at no larger distance.
    """
    oracle = DecisionOracle(inputs, MIN_QUERIES)
    rows = torch.arange(len(successes), device=successes.device)
    oracle.update_nearest(rows, successes)
    oracle.bisect_to_boundary(rows, successes)
    return oracle.build_candidates()


def _finish_by_labels(inputs: AttackInputs, starts: Tensor, queries: int) -> Tensor:
    """Lengthen each candidate until the label changes, and return to the ball along the boundary."""
    oracle = DecisionOracle(inputs, queries)
    waiting = torch.arange(len(starts), device=starts.device)
    change = starts - inputs.images
    found = [waiting[:0]]
    for doubling in range(1, MAX_LENGTHENINGS + 1):
        points = (inputs.images[waiting] + 2.0**doubling * change[waiting]).clamp(0.0, 1.0)
        reached = oracle.query_success(waiting, points)
        oracle.bisect_to_boundary(waiting[reached], points[reached])
        found.append(waiting[reached])
        waiting = waiting[~reached]
    rows = torch.cat(found).sort().values
    HopSkipJump(queries=queries).search_from(oracle, rows, inputs)
    return oracle.build_candidates()
