"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from torch import Tensor

from benchmarks.ladder import mark_robust_at_radii
from benchmarks.measure import BenchmarkResult, Implementation

_COLUMNS = (
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
_ABSOLUTE_COLUMNS = ("ms an image",)
_MEMORY_COLUMNS = ("Peak MiB",)


def render_tables(results: list[BenchmarkResult], *, has_times: bool) -> str:
    """One table for each subject.

    Args:
        results: In the order of the rows.
        has_times: Whether to write times down, which makes sense on a GPU only.
    """
    names = list(dict.fromkeys(result.subject.name for result in results))
    return "\n\n".join(
        f"### {name}\n\n" + _render_table([r for r in results if r.subject.name == name], has_times)
        for name in names
    )


def _render_table(results: list[BenchmarkResult], absolute: bool) -> str:
    remembered = any(result.row.measures_memory for result in results)
    heads = _COLUMNS + _ABSOLUTE_COLUMNS * absolute + _MEMORY_COLUMNS * remembered
    lines = [_format_line(heads), _format_line("---" if place < 4 else "---:" for place in range(len(heads)))]
    for result in results:
        for arm in result.implementations:
            cells = _format_cells(result, arm, absolute)
            lines.append(_format_line(cells[: len(heads)] + ([_format_memory(arm)] if remembered else [])))
    return "\n".join(lines)


def _format_cells(result: BenchmarkResult, arm: Implementation, absolute: bool) -> list[str]:
    first = arm is result.implementations[0]
    eps = "" if result.eps is None else f"{result.eps * 255:.3g}/255"
    cells = [result.row.name, eps, str(result.image_count)] if first else ["", "", ""]
    cells.append(arm.name)
    if arm.failure or not arm.seconds:
        return [*cells, f"no result: {arm.failure}".replace("|", "/"), *[""] * (5 + absolute)]
    forward, backward = (median(part) for part in zip(*arm.passes, strict=True))
    cells += [
        f"{forward:.1f} / {backward:.1f}",
        f"{result.compute_overhead(arm):.2f}",
        "1" if first else f"{result.compute_time_ratio(arm):.2f}",
        _format_robust(result, arm),
        _format_agreement(result, arm),
        _format_operations(arm),
    ]
    return cells + ([f"{1000 * median(arm.seconds) / result.image_count:.3g}"] if absolute else [])


def _format_robust(result: BenchmarkResult, arm: Implementation) -> str:
    if result.eps is not None and result.row.is_radius_curve:
        shares = mark_robust_at_radii(arm.distances[0], result.eps).float().mean(dim=1)
        return " ".join(f"{100 * share:.0f}" for share in shares.tolist())
    if not result.row.is_minimum_norm:
        return f"{100 * arm.robust[0].float().mean().item():.1f}"
    found = arm.distances[0]
    return f"median {result.row.norm} {found[found > 0].median().item():.4g}"


def _format_agreement(result: BenchmarkResult, arm: Implementation) -> str:
    """Images that ours missed and the arm broke, and the other way round; ours: against its second seed."""
    ours = result.implementations[0]
    if result.row.is_minimum_norm:
        return _format_nearer(ours, arm)
    if arm is ours:
        seeds = [_select_verdicts(result, ours, seed) for seed in range(min(2, len(ours.robust)))]
        return f"(seed: {_format_differences(*seeds)})" if len(seeds) > 1 else ""
    outside = f", {arm.outside_count} outside" if arm.outside_count else ""
    return _format_differences(_select_verdicts(result, ours, 0), _select_verdicts(result, arm, 0)) + outside


def _select_verdicts(result: BenchmarkResult, arm: Implementation, seed: int) -> Tensor:
    """Whether images are robust, (N,), or at each of eight radii, (8, N)."""
    if result.eps is not None and result.row.is_radius_curve:
        return mark_robust_at_radii(arm.distances[seed], result.eps)
    return arm.robust[seed]


def _format_differences(ours: Tensor, theirs: Tensor) -> str:
    return f"{int((ours & ~theirs).sum())} / {int((~ours & theirs).sum())}"


def _format_nearer(ours: Implementation, arm: Implementation) -> str:
    """Of a method without a radius: how often the arm is nearer by a hundredth, and how often ours is."""
    if arm is ours:
        return ""
    a, b = ours.distances[0], arm.distances[0]
    return f"{int((b < 0.99 * a).sum())} / {int((a < 0.99 * b).sum())}"


def _format_operations(arm: Implementation) -> str:
    if arm.operation_counts is None or not arm.operation_counts.forward_calls:
        return ""
    counts, calls = arm.operation_counts, arm.operation_counts.forward_calls
    return f"{counts.operations / calls:.0f} / {counts.synchronizations / calls:.1f}"


def _format_memory(arm: Implementation) -> str:
    return "" if arm.peak_memory_mib is None else f"{arm.peak_memory_mib:.0f}"


def _format_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
