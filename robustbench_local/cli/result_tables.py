"""The tables printed on the terminal at the end of a run: results and gates."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from robustbench_local.cli.shard_lines import format_shard_prefix
from robustbench_local.cli.terminal_output import escape_text, join_text, print_line
from robustbench_local.counted_nouns import format_count
from robustbench_local.reports.analysis.gates import GateReport
from robustbench_local.reports.analysis.trust import UNTRUSTED_PHRASE
from robustbench_local.reports.formatting.text import format_interval, format_percent
from robustbench_local.statistics import Estimate
from robustbench_local.store.diagnostic_records import STATUS_ORDER

_STATUS_COLOURS = {"stopped": "green"}
"""Colours of unfinished cells that are no failure."""
_ISOLATES = dict.fromkeys(map(ord, "\N{FIRST STRONG ISOLATE}\N{POP DIRECTIONAL ISOLATE}"))
_STATUS_COLOURS = {
    "pass": "green",
    "fail": "red",
    "warn": "yellow",
    "inconclusive": "yellow",
    "waived": "magenta",
    "skipped": "dim",
}


def build_results_table(results: dict[str, Any]) -> Table:
    """Build a table with one row per cell, and the worst case over attacks where several share a threat.

    Args:
        results: The content of results.json.
    """
    table = Table(
        title=f"{format_shard_prefix(results)}Robust accuracy with its 95% interval, and attack success over "
        "the correctly classified images",
        title_justify="left",
    )
    for column in ("model", "attack"):
        table.add_column(column, overflow="fold")
    for column in ("clean", "robust", "95% interval", "n", "success"):
        table.add_column(column, justify="right")
    for cell in results["cells"]:
        if cell["surrogate"] == cell["model"]:
            continue  # nothing transfers from a model to itself
        if cell["measure"] == "certificate":
            continue  # below, after the attacks
        if cell["reported_status"] != "done":
            table.add_row(
                _format_model(cell),
                _format_attack(cell),
                "",
                escape_text(cell["reported_status"], _STATUS_COLOURS.get(cell["reported_status"], "red")),
                "",
                "",
                "",
            )
        elif cell["measure"] != "views" and cell["norm"] != "corruption":
            shares = [
                parse_estimate(cell[key]) for key in ("clean_accuracy", "robust_accuracy", "attack_success")
            ]
            table.add_row(_format_model(cell), _format_attack(cell, cell), *_format_estimates(*shares))
    for corruptions in _add_labels(results, "corruptions"):
        _add_corruptions(table, corruptions)
    table.add_section()
    stopped = {_identify_worst_case(row) for row in (results["stop"] or {"worst_case": ()})["worst_case"]}
    for worst in _add_labels(results, "worst_case"):
        if _identify_worst_case(worst) in stopped:
            continue  # below, from the images that the run needed
        if len(worst["attacks"]) == 1 and worst["complete"]:
            continue  # the row of that attack says it already
        shares = [
            parse_estimate(worst[key]) for key in ("clean_accuracy", "robust_accuracy", "attack_success")
        ]
        name = join_text(f"worst case, {worst['threat']}", _format_incomplete(worst), _format_mark(worst))
        table.add_row(_format_model(worst), name, *_format_estimates(*shares), style="bold")
    _add_stopped(table, results)
    _add_stickers(table, _add_labels(results, "stickers"))
    _add_certificates(table, [cell for cell in results["cells"] if cell["measure"] == "certificate"])
    return table


def _add_labels(
    section: dict[str, Any], key: str, results: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Add the labels of models, and of attacks where present, to the entries of a section of the results."""
    results = section if results is None else results
    models = {(cell["model"], cell["defense"]): cell["model_label"] for cell in results["cells"]}
    attacks = {cell["attack"]: cell["label"] for cell in results["cells"]}
    marks = {
        (cell["model"], cell["defense"], cell["attack"]): {key: cell[key] for key in ("trustworthy", "mark")}
        for cell in results["cells"]
    }
    return [
        {
            **marks.get((entry["model"], entry["defense"], entry.get("attack")), {}),
            **entry,
            "model_label": models[entry["model"], entry["defense"]],
            "label": attacks.get(entry.get("attack")),
        }
        for entry in section[key]
    ]


def _identify_worst_case(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["model"], row["defense"], row["threat"]


def _add_stopped(table: Table, results: dict[str, Any]) -> None:
    """Add the worst cases of a run that stopped early, with their anytime-valid intervals."""
    stop = results["stop"]
    for row in _add_labels(stop, "worst_case", results) if stop else ():
        share = parse_estimate(row["stated"])
        about = f", of these {stop['images']:,}" if stop["precision"] else ""
        name = join_text(f"worst case, {row['threat']}{about} (anytime-valid)", _format_mark(row))
        figures = (format_percent(share.value), format_interval(share), str(share.n))
        table.add_row(_format_model(row), name, "", *figures, "", style="bold")


def _add_stickers(table: Table, rows: list[dict[str, Any]]) -> None:
    """Add success over views; the number of signs stands beside the attack."""
    table.add_section()
    for row in rows:
        success = parse_estimate(row["sticker_success"])
        views = f"{row['label']}: views of {row['signs_counted']} of {format_count(row['signs'], 'sign')}"
        name = join_text(views, _format_mark(row))
        turned = f"{format_percent(success.value)} ({format_interval(success)})"
        table.add_row(_format_model(row), name, "", "", "", str(success.n), turned)


def _add_certificates(table: Table, cells: list[dict[str, Any]]) -> None:
    """Add certified accuracies with their certificate, in the column of robust accuracy."""
    table.add_section()
    for cell in cells:
        what = "certified" if cell["concerns"] == "model" else "certified (majority vote under noise)"
        name = escape_text(f"{what}: {cell['label']}")
        if cell["reported_status"] != "done":
            table.add_row(
                _format_model(cell), name, "", escape_text(cell["reported_status"], "red"), "", "", ""
            )
            continue
        clean, proven = parse_estimate(cell["clean_accuracy"]), parse_estimate(cell["certified_accuracy"])
        shares = (
            format_percent(clean.value),
            format_percent(proven.value),
            format_interval(proven),
            str(proven.n),
            "",
        )
        table.add_row(_format_model(cell), name, *shares)


def _add_corruptions(table: Table, row: dict[str, Any]) -> None:
    """Add up to 75 cells in one row: the report lists each of them."""
    clean, mean = parse_estimate(row["clean_accuracy"]), parse_estimate(row["mean"])
    kinds = len(row["corruptions"])
    name = join_text(f"mean over {format_count(kinds, 'corruption')}", _format_incomplete(row))
    table.add_row(
        _format_model(row), name, format_percent(clean.value), format_percent(mean.value),
        format_interval(mean), str(mean.n), "",
    )  # fmt: skip


def _format_incomplete(row: dict[str, Any]) -> Text:
    """Return a suffix for names where cells are missing."""
    return escape_text("" if row["complete"] else " (incomplete)", "red")


def _format_attack(cell: dict[str, Any], marked: dict[str, Any] | None = None) -> Text:
    """Format the attack, and its access to the defense where it is limited and the name does not say so.

    Args:
        cell: The cell.
        marked: The same where its numbers stand in the row, which are marked if they are not trustworthy.
    """
    mark = _format_mark(marked) if marked else Text()
    if cell["knowledge"] in {"white-box", "naive", "transfer"} or cell["norm"] == "corruption":
        return join_text(escape_text(cell["label"]), mark)
    return join_text(escape_text(f"{cell['label']} ({cell['knowledge']})"), mark)


def _format_mark(row: dict[str, Any]) -> Text:
    """Return a suffix for names where diagnostics find the numbers void or not trustworthy."""
    return escape_text("" if row["trustworthy"] else f", {row['mark']}", "red")


def print_gates(report: GateReport, console: Console) -> None:
    """Print one line per violated certificate and gate, what explains each, and how many came to what."""
    for line in report.lines:
        style = "dim" if line.status is None else _STATUS_COLOURS[line.status]
        print_line(console, line.text, style=style)


def print_trust(results: dict[str, Any], console: Console) -> None:
    """Print the findings with which a number is void or not trustworthy, and how many diagnostics ran.

    Args:
        results: The content of results.json.
        console: The console to print on.
    """
    for level, words in (("void", "invalid"), ("untrusted", UNTRUSTED_PHRASE)):
        for finding in results["findings"]:
            if finding["level"] == level:
                text = finding["text"].translate(_ISOLATES)  # a terminal orders text by itself
                print_line(console, f"{words}: {text}", style="red", wrap=True)
    diagnostics = results["diagnostics"]
    statuses = [result["status"] for result in diagnostics["results"]]
    counts = ", ".join(f"{statuses.count(one)} {one}" for one in STATUS_ORDER if one in statuses)
    if counts:
        share = format_percent(diagnostics["passes_share"])
        cost = (
            f"; questions to the models took {share} of the planned passes" if diagnostics["passes"] else ""
        )
        print_line(console, f"diagnostics: {counts}{cost} (see Trust in the report)", style="dim", wrap=True)


def parse_estimate(share: dict[str, Any]) -> Estimate:
    """Parse an estimate from its form in results.json."""
    if share["value"] is None:
        return Estimate(value=float("nan"), low=0.0, high=1.0, n=0)
    return Estimate(
        value=share["value"],
        low=share["low"],
        high=share["high"],
        n=share["n"],
        groups=share.get("groups", 0),
        phases=tuple(share.get("phases", ())),
    )


def _format_estimates(clean: Estimate, robust: Estimate, success: Estimate) -> tuple[str, ...]:
    return (
        format_percent(clean.value),
        format_percent(robust.value),
        format_interval(robust),
        f"{robust.n}, all on {robust.phases[-1]}" if robust.phases else str(robust.n),
        format_percent(success.value),
    )


def _format_model(row: dict[str, Any]) -> Text:
    return escape_text(row["model_label"])
