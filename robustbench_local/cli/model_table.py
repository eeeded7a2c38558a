"""The table of the models, before anything runs: clean accuracy, input and preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from robustbench_local.classifier.input_contract import format_size
from robustbench_local.cli.terminal_output import escape_text
from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.planning.plan import EvaluationSubject, Plan
from robustbench_local.evaluation.probes.input_variants import format_normalization
from robustbench_local.reports.formatting.text import format_interval
from robustbench_local.store.preprocessing_record import PREPROCESSING_CHECK_KEY, PreprocessingCheck


def build_model_table(plan: Plan) -> Table | None:
    """Build the table of the models that were looked at; None if none was.

    Args:
        plan: The plan, after `check_plan_models`.
    """
    table = Table(title="models, before any attack", title_justify="left")
    for column in ("model", "clean accuracy", "input", "preprocessing", "from"):
        table.add_column(column, overflow="fold")
    for subject, check in list_checked_subjects(plan):
        table.add_row(
            escape_text(plan.labels.get_model_label(subject.id, subject.defense)),
            escape_text(_format_accuracy(check)),
            escape_text(_format_input(subject)),
            escape_text(_format_preprocessing(subject)),
            escape_text(subject.classifier.contract.origin_words),
        )
    return table if table.row_count else None


def list_model_objects(plan: Plan) -> list[dict[str, Any]]:
    """List the same as JSON values, with the whole record of the look at each model."""
    return [
        {
            "model": subject.id,
            "defense": subject.defense,
            "input": list(subject.data.images.shape[1:]),
            "preprocessing": subject.classifier.contract.describe_fields(),
            "preprocessing_from": subject.classifier.contract.origin_words,
            PREPROCESSING_CHECK_KEY: check.to_json(),
        }
        for subject, check in list_checked_subjects(plan)
    ]


def list_checked_subjects(plan: Plan) -> Iterator[tuple[EvaluationSubject, PreprocessingCheck]]:
    """Yield each model of a plan without its wrapper once, with the record of the look at it."""
    seen = set()
    for subject in plan.subjects:
        base, content = subject.undefended or subject, subject.description.get(PREPROCESSING_CHECK_KEY)
        if content is not None and id(base.classifier) not in seen:
            seen.add(id(base.classifier))
            yield base, PreprocessingCheck.from_json(content)


def _format_accuracy(check: PreprocessingCheck) -> str:
    if not check.n:
        return f"not asked: {check.unchecked}"
    accuracy = check.accuracy
    return f"{check.correct} of {format_count(check.n, 'image')} ({format_interval(accuracy)})"


def _format_input(subject: EvaluationSubject) -> str:
    """Format the network's input, and how images of the data come to its size."""
    channels, height, width = subject.data.images.shape[1:]
    contract = subject.classifier.contract
    size = contract.input_size or (height, width)
    shown = f"{channels}x{format_size(size)}"
    if size == (height, width):
        return shown
    return f"{shown}; {format_size((height, width))} resized: {contract.format_geometry()}"


def _format_preprocessing(subject: EvaluationSubject) -> str:
    """Format what happens to the values of the pixels."""
    contract = subject.classifier.contract
    known = format_normalization(contract.normalization)
    if known == "none" or known.startswith("{"):
        return contract.format_values() or "none"
    return ", ".join(
        [
            *(["BGR"] if contract.channel_order == "bgr" else []),
            *([f"0..{contract.value_scale:g}"] if contract.value_scale != 1 else []),
            f"normalize {known}",
        ]
    )
