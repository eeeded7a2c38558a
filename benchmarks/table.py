"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from torch import Tensor

from benchmarks.ladder import survives
from benchmarks.measure import Arm, Result

_HEADS = (
    "Method",
    "Eps",
    "n",
    "Who",
    "Forward / backward",
    "Overhead",
    "Time / ours",
    "Robust %",
    "Missed / extra",
    "Operations / questions",
)
_ABSOLUTE = ("ms an image",)
_MEMORY = ("Peak MiB",)


def table(results: list[Result], *, absolute: bool) -> str:
    """One table for each subject.

    Args:
        results: In the order of the rows.
        absolute: Whether to write times down, which makes sense on a GPU only.
    """
    names = list(dict.fromkeys(result.subject.name for result in results))
    return "\n\n".join(
        f"### {name}\n\n" + _one([r for r in results if r.subject.name == name], absolute) for name in names
    )


def _one(results: list[Result], absolute: bool) -> str:
    remembered = any(result.row.memory for result in results)
    heads = _HEADS + _ABSOLUTE * absolute + _MEMORY * remembered
    lines = [_line(heads), _line("---" if place < 4 else "---:" for place in range(len(heads)))]
    for result in results:
        for arm in result.arms:
            cells = _cells(result, arm, absolute)
            lines.append(_line(cells[: len(heads)] + ([_memory(arm)] if remembered else [])))
    return "\n".join(lines)


def _cells(result: Result, arm: Arm, absolute: bool) -> list[str]:
    first = arm is result.arms[0]
    eps = "" if result.eps is None else f"{result.eps * 255:.3g}/255"
    cells = [result.row.name, eps, str(result.n)] if first else ["", "", ""]
    cells.append(arm.name)
    if arm.failure or not arm.seconds:
        return [*cells, f"no result: {arm.failure}".replace("|", "/"), *[""] * (5 + absolute)]
    forward, backward = (median(part) for part in zip(*arm.passes, strict=True))
    cells += [
        f"{forward:.1f} / {backward:.1f}",
        f"{result.overhead(arm):.2f}",
        "1" if first else f"{result.ratio(arm):.2f}",
        _robust(result, arm),
        _agreement(result, arm),
        _operations(arm),
    ]
    return cells + ([f"{1000 * median(arm.seconds) / result.n:.3g}"] if absolute else [])


def _robust(result: Result, arm: Arm) -> str:
    if result.eps is not None and result.row.ladder:
        shares = survives(arm.distances[0], result.eps).float().mean(dim=1)
        return " ".join(f"{100 * share:.0f}" for share in shares.tolist())
    if not result.row.nearest:
        return f"{100 * arm.robust[0].float().mean().item():.1f}"
    found = arm.distances[0]
    return f"median {result.row.norm} {found[found > 0].median().item():.4g}"


def _agreement(result: Result, arm: Arm) -> str:
    """Images that ours missed and the arm broke, and the other way round; ours: against its second seed."""
    ours = result.arms[0]
    if result.row.nearest:
        return _nearer(ours, arm)
    if arm is ours:
        seeds = [_verdicts(result, ours, seed) for seed in range(min(2, len(ours.robust)))]
        return f"(seed: {_differing(*seeds)})" if len(seeds) > 1 else ""
    outside = f", {arm.outside} outside" if arm.outside else ""
    return _differing(_verdicts(result, ours, 0), _verdicts(result, arm, 0)) + outside


def _verdicts(result: Result, arm: Arm, seed: int) -> Tensor:
    """Whether images are robust, (N,), or at each of eight radii, (8, N)."""
    if result.eps is not None and result.row.ladder:
        return survives(arm.distances[seed], result.eps)
    return arm.robust[seed]


def _differing(ours: Tensor, theirs: Tensor) -> str:
    return f"{int((ours & ~theirs).sum())} / {int((~ours & theirs).sum())}"


def _nearer(ours: Arm, arm: Arm) -> str:
    """Of a method without a radius: how often the arm is nearer by a hundredth, and how often ours is."""
    if arm is ours:
        return ""
    a, b = ours.distances[0], arm.distances[0]
    return f"{int((b < 0.99 * a).sum())} / {int((a < 0.99 * b).sum())}"


def _operations(arm: Arm) -> str:
    if arm.tally is None or not arm.tally.forwards:
        return ""
    return f"{arm.tally.operations / arm.tally.forwards:.0f} / {arm.tally.questions / arm.tally.forwards:.1f}"


def _memory(arm: Arm) -> str:
    return "" if arm.memory is None else f"{arm.memory:.0f}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
