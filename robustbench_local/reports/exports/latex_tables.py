"""The tables of a run for a paper, in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.certified_accuracy import build_certified_groups
from robustbench_local.reports.analysis.corruption_results import build_corruption_maps
from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.heatmap import format_status
from robustbench_local.reports.analysis.shard_evidence import format_shard_prefix
from robustbench_local.reports.analysis.targeted_goal import format_goal_classes
from robustbench_local.reports.analysis.threat import Threat
from robustbench_local.reports.analysis.transfer_results import build_transfer_matrices
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust, select_distrust
from robustbench_local.reports.exports.latex_table import LatexEntry, LatexTable, render_latex_table
from robustbench_local.reports.exports.latex_text import needs_unicode_engine
from robustbench_local.reports.formatting.text import format_norm, format_radius, join_in_sentence
from robustbench_local.statistics import compute_clopper_pearson

_UNKNOWN = compute_clopper_pearson(0, 0)
_INTERVAL_SENTENCE = "Shares in percent with 95% confidence intervals."
_PHASES_SENTENCE = (
    "Several n: the first attacks ran on all images, later ones on a random part of them; the share is "
    "that of the first times those of the survivors."
)
_DISTRUST_SIGN = "\N{DAGGER}"
_PARTIAL_SIGN = "\N{DOUBLE DAGGER}"


def write_latex_tables(evidence: Evidence) -> dict[str, str]:
    r"""Write one file for each kind of result that the run has.

    Returns:
        File name -> LaTeX that needs the package booktabs and nothing else, to be read with ``\input``.
        Names are escaped.
    """
    kinds = {
        "robust-accuracy.tex": _list_robust_tables(evidence),
        "certified-accuracy.tex": _list_certified_tables(evidence),
        "targeted-attacks.tex": _list_targeted_tables(evidence),
        "transfer-attacks.tex": _list_transfer_tables(evidence),
        "corruptions.tex": _list_corruption_tables(evidence),
    }
    texts = {name: [render_latex_table(table) for table in tables] for name, tables in kinds.items()}
    return {name: _join_tables(evidence, tables) for name, tables in texts.items() if tables}


def _join_tables(evidence: Evidence, tables: Sequence[str]) -> str:
    """Join tables below comments that say where the numbers come from."""
    data = evidence.data
    facts = [
        "Needs \\usepackage{booktabs}.",
        f"data {data.get('name', '?')}, digest {data.get('digest', '?')}, seed {evidence.seed}",
        f"robustbench_local {evidence.environment.get('code', '?')}",
    ]
    if any(map(needs_unicode_engine, tables)):
        facts.append("Some names need LuaLaTeX or XeLaTeX, and a font that has their letters.")
    comments = [f"% {' '.join(fact.split())}" for fact in facts]
    return "\n".join([*comments, "", *tables])


def _list_robust_tables(evidence: Evidence) -> Iterator[LatexTable]:
    """List a table for each untargeted threat model: models by attacks, with the worst case."""
    for threat in evidence.threats:
        cells = [cell for cell in evidence.cells if cell.threat == threat and cell.is_in_worst_case]
        attacks = list(dict.fromkeys(cell.label for cell in cells))
        by_place = {(cell.subject, cell.label): cell for cell in cells}
        best, ties = _find_best_model(evidence, threat)
        rows = [
            (
                str(subject),
                (
                    LatexEntry(estimate=evidence.compute_clean_accuracy(subject)),
                    *(_make_entry(evidence, by_place.get((subject, attack))) for attack in attacks),
                    _make_worst_entry(evidence, subject, threat, is_bold=subject == best),
                ),
            )
            for subject in dict.fromkeys(cell.subject for cell in cells)
        ]
        yield LatexTable(
            label=f"robust-{_make_label(threat.name)}",
            caption=_join_sentences(
                format_shard_prefix(evidence),
                f"Robust accuracy under {threat}.",
                _INTERVAL_SENTENCE,
                "In the worst case an image counts as robust only if no attack succeeds on it.",
                _PHASES_SENTENCE if _has_phases(evidence, threat) else "",
                _describe_best_model(best, ties),
                _explain_marks(evidence, cells, threat),
            ),
            row_title="Model",
            columns=("Clean", *attacks, "Worst case"),
            rows=tuple(rows),
        )


def _make_entry(evidence: Evidence, cell: CellResult | None) -> LatexEntry:
    if cell is None:
        return LatexEntry(estimate=_UNKNOWN)
    is_distrusted = bool(select_cell_distrust(evidence, cell))
    return LatexEntry(
        estimate=cell.robust_accuracy,
        status_text=format_status(cell),
        mark=_DISTRUST_SIGN if is_distrusted else "",
    )


def _make_worst_entry(
    evidence: Evidence, subject: EvaluatedModel, threat: Threat, *, is_bold: bool
) -> LatexEntry:
    worst = evidence.get_worst_case(subject, threat)
    if worst is None:
        return LatexEntry(estimate=_UNKNOWN)
    distrust = select_distrust(evidence, subject, threat)
    if any(result.status == "block" for result in distrust):
        return LatexEntry(estimate=_UNKNOWN, status_text="void")
    mark = (_DISTRUST_SIGN if distrust else "") + ("" if worst.is_complete else _PARTIAL_SIGN)
    return LatexEntry(
        estimate=worst.robust_accuracy, status_text="not known", mark=mark, is_bold=is_bold and not distrust
    )


def _has_phases(evidence: Evidence, threat: Threat) -> bool:
    return any(worst.phases for worst in evidence.worst_cases if worst.threat == threat)


def _find_best_model(
    evidence: Evidence, threat: Threat
) -> tuple[EvaluatedModel | None, tuple[EvaluatedModel, ...]]:
    """Find the model of the highest worst case, and those that do not differ significantly from it."""
    pairs = evidence.compare_models(threat)
    ties = tuple(pair.second for pair in pairs if not pair.comparison.is_significant())
    return (pairs[0].first if pairs else None), ties


def _describe_best_model(best: EvaluatedModel | None, ties: Sequence[EvaluatedModel]) -> str:
    if best is None:
        return ""
    if not ties:
        return "Bold: the highest worst case; all others are significantly lower (paired tests, Holm)."
    names = join_in_sentence(list(map(str, ties)))
    return f"Bold: the highest worst case; not significantly lower (paired tests, Holm): {names}."


def _explain_marks(evidence: Evidence, cells: Iterable[CellResult], threat: Threat) -> str:
    """Explain the signs behind numbers, model by model."""
    subjects = dict.fromkeys(cell.subject for cell in cells)
    marks = {subject: format_mark(select_distrust(evidence, subject, threat)) for subject in subjects}
    sentences = [f"{_DISTRUST_SIGN}{subject}: {mark}." for subject, mark in marks.items() if mark]
    missing = {
        subject: worst.missing_attack_labels
        for subject in subjects
        if (worst := evidence.get_worst_case(subject, threat)) and worst.missing_attack_labels
    }
    sentences += [
        f"{_PARTIAL_SIGN}{subject}: without {', '.join(labels)}, so it may be too high."
        for subject, labels in missing.items()
    ]
    return " ".join(sentences)


def _list_certified_tables(evidence: Evidence) -> Iterator[LatexTable]:
    """List a table for each norm: certified accuracy at each radius of its certificates."""
    for group in build_certified_groups(evidence):
        radii = sorted({row.cell.record.eps for row in group.rows})
        rows = [
            (
                f"{row.cell.subject}, {row.cell.label}",
                tuple(
                    LatexEntry(
                        estimate=row.cell.certified_accuracy if row.cell.record.eps == radius else _UNKNOWN,
                        status_text=format_status(row.cell) if row.cell.record.eps == radius else "",
                    )
                    for radius in radii
                ),
            )
            for row in group.rows
        ]
        yield LatexTable(
            label=f"certified-{_make_label(group.norm)}",
            caption=_join_sentences(
                format_shard_prefix(evidence),
                f"Certified accuracy by {format_norm(group.norm)} radius: a lower bound on robust accuracy "
                f"under any attack.",
                _INTERVAL_SENTENCE,
                *group.notes,
            ),
            row_title="Model, certificate",
            columns=tuple(format_radius(radius) for radius in radii),
            rows=tuple(rows),
        )


def _list_targeted_tables(evidence: Evidence) -> Iterator[LatexTable]:
    """List a table of success for each targeted goal, of attacks on images and of stickers."""
    cells = [cell for cell in evidence.attack_cells if cell.targeted and not cell.has_external_candidates]
    keys = dict.fromkeys(
        (cell.threat, cell.record.sources, cell.record.targets, cell.is_sticker) for cell in cells
    )
    for number, (threat, sources, targets, is_sticker) in enumerate(keys, start=1):
        own = [
            cell
            for cell in cells
            if (cell.threat, cell.record.sources, cell.record.targets, cell.is_sticker)
            == (threat, sources, targets, is_sticker)
        ]
        attacks = list(dict.fromkeys(cell.label for cell in own))
        by_place = {(cell.subject, cell.label): cell for cell in own}
        source_names, target_names = format_goal_classes(evidence, own[0])
        kind = "views of signs, with intervals over signs" if is_sticker else "correctly classified images"
        yield LatexTable(
            label=f"targeted-{number}",
            caption=_join_sentences(
                format_shard_prefix(evidence),
                f"Attack success under {threat}: share of {kind} of {source_names} that are misclassified as "
                f"{target_names}.",
                _INTERVAL_SENTENCE,
                _explain_cell_marks(evidence, own),
            ),
            row_title="Model",
            columns=tuple(attacks),
            rows=tuple(
                (
                    str(subject),
                    tuple(
                        _make_success_entry(evidence, by_place.get((subject, attack))) for attack in attacks
                    ),
                )
                for subject in dict.fromkeys(cell.subject for cell in own)
            ),
        )


def _make_success_entry(evidence: Evidence, cell: CellResult | None) -> LatexEntry:
    if cell is None:
        return LatexEntry(estimate=_UNKNOWN)
    is_distrusted = bool(select_cell_distrust(evidence, cell))
    return LatexEntry(
        estimate=cell.sticker_success_over_signs if cell.is_sticker else cell.attack_success,
        status_text=format_status(cell),
        mark=_DISTRUST_SIGN if is_distrusted else "",
    )


def _explain_cell_marks(evidence: Evidence, cells: Iterable[CellResult]) -> str:
    marks = {
        f"{_DISTRUST_SIGN}{cell.subject}: {mark}."
        for cell in cells
        if (mark := format_mark(select_cell_distrust(evidence, cell)))
    }
    return " ".join(sorted(marks))


def _list_transfer_tables(evidence: Evidence) -> Iterator[LatexTable]:
    """List a table for each transferred attack: surrogates by attacked models."""
    for number, matrix in enumerate(build_transfer_matrices(evidence), start=1):
        yield LatexTable(
            label=f"transfer-{number}",
            caption=_join_sentences(
                format_shard_prefix(evidence),
                f"Attack success of {matrix.label} under {matrix.threat}, crafted on the model of the row "
                f"and evaluated on the model of the column.",
                _INTERVAL_SENTENCE,
            ),
            row_title="Surrogate",
            columns=tuple(map(str, matrix.attacked_models)),
            rows=tuple(
                (
                    row.label,
                    tuple(
                        LatexEntry(estimate=entry.estimate, status_text=entry.status_text)
                        for entry in row.entries
                    ),
                )
                for row in matrix.rows
            ),
        )


def _list_corruption_tables(evidence: Evidence) -> Iterator[LatexTable]:
    """List one table of accuracy on corrupted images: models by severities, each a mean over corruptions."""
    maps = build_corruption_maps(evidence)
    if not maps:
        return
    names = ", ".join(row.label for row in maps[0].rows)
    incomplete = [str(one.subject) for one in maps if one.mean_row.mean_entry.reason]
    yield LatexTable(
        label="corruptions",
        caption=_join_sentences(
            format_shard_prefix(evidence),
            f"Accuracy on corrupted images, a mean over {names}: an average case without an adversary.",
            _INTERVAL_SENTENCE,
            f"Some corruptions are missing for {', '.join(incomplete)}." if incomplete else "",
        ),
        row_title="Model",
        columns=("Clean", *(f"Severity {severity}" for severity in maps[0].severities), "Mean"),
        rows=tuple(
            (
                str(one.subject),
                (
                    LatexEntry(estimate=one.clean_accuracy),
                    *(
                        LatexEntry(estimate=entry.estimate, status_text=entry.status_text)
                        for entry in (*one.mean_row.entries, one.mean_row.mean_entry)
                    ),
                ),
            )
            for one in maps
        ),
    )


def _join_sentences(*sentences: str) -> str:
    return " ".join(sentence.strip() for sentence in sentences if sentence)


def _make_label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")
