"""Methods and environment: definitions, attacks with their results, models, images and machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from robustbench_local.reports.analysis.cell_result import CellResult
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.method_descriptions import (
    DRAWN_SIGNS_NOTE,
    MethodDescription,
    build_method_descriptions,
    describe_images,
)
from robustbench_local.reports.analysis.trust import format_mark, select_cell_distrust
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    MISSING_TEXT,
    format_duration,
    format_estimate,
    format_interval,
    format_percent,
)
from robustbench_local.reports.sections.section import Section
from robustbench_local.store import RunStore

_FACT_NAMES = {
    "code": "Code",
    "device": "Device",
    "platform": "Platform",
    "python": "Python",
    "started": "Started",
}
_FACT_NAMES |= {"threads": "Threads", "torch": "PyTorch"}


class MethodSection(Section[tuple[MethodDescription, ...]]):
    """Methods of the run; results.json has them among its cells, models, data and environment."""

    anchor = "method"
    title = "Methods and environment"
    link_text = "Methods and environment"
    template = "method.html.j2"
    is_folded = True
    drawn_signs_note = DRAWN_SIGNS_NOTE

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[MethodDescription, ...]:
        """Describe every attack and certificate of the run."""
        return build_method_descriptions(evidence)

    def is_shown(self, content: tuple[MethodDescription, ...]) -> bool:
        """Return True: the section is always shown."""
        return True

    def to_markdown(self, content: tuple[MethodDescription, ...], evidence: Evidence) -> Iterable[str]:
        """Render attacks and certificates, and a table of the cells."""
        yield from _render_methods(evidence, content)
        yield from ("## Results of each attack", "", *_render_cells(evidence, evidence.attack_cells), "")

    def describe_machine(self, evidence: Evidence) -> dict[str, str]:
        """Describe the environment in words."""
        return _describe_machine(evidence)

    def format_sign_counts(self, cell: CellResult) -> tuple[str, str]:
        """Format, for tables of cells, how many signs count and how many of them are misclassified."""
        return _format_sign_counts(cell)


METHOD = MethodSection()


def _render_methods(evidence: Evidence, trials: Sequence[MethodDescription]) -> list[str]:
    """Render the section for report.md."""
    data = describe_images(evidence.data)
    lines = ["## Attacks and certificates", "", *([f"Images: {escape_markdown(data)}.", ""] if data else [])]
    for trial in trials:
        basics = [trial.identifier_text, trial.budget, trial.goal, trial.attacker_knowledge]
        head = f"- **{escape_markdown(trial.name)}** ({escape_markdown('; '.join(filter(None, basics)))})"
        more = [
            trial.card_description,
            trial.settings,
            trial.views and f"Views: {trial.views}",
            trial.note,
            trial.source,
        ]
        lines.append(f"{head}: {escape_markdown(' '.join(_format_sentence(part) for part in more if part))}")
    lines += _render_preprocessing(evidence)
    seed = "not recorded" if evidence.seed is None else str(evidence.seed)
    return [
        *lines,
        "",
        f"Seed {seed}. Hyper-parameters and every default are in results.json and run.yaml.",
        "",
    ]


def _render_preprocessing(evidence: Evidence) -> Iterator[str]:
    """Render what each model does to its images; models with a defense have that of their baseline."""
    texts = {
        str(about["id"]): about["preprocessing"].get("text")
        for about in evidence.models
        if about.get("preprocessing")
    }
    for name, text in texts.items():
        if text:
            yield f"- Preprocessing inside **{escape_markdown(name)}**: {escape_markdown(text)}."


def _format_sentence(text: str) -> str:
    """Capitalize the first letter and end the text with a full stop."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def _render_cells(evidence: Evidence, cells: Iterable[CellResult]) -> Iterator[str]:
    head = ["model", "attack", "status", "n", "clean", "robust", "attack success", "8-bit", "time"]
    rows = (
        [
            escape_markdown(str(cell.subject)),
            escape_markdown(_format_attack(cell)),
            escape_markdown(
                f"{cell.reported_status}: {cell.problem}" if cell.problem else cell.reported_status
            ),
            f"{cell.tally.n:,}",
            *(
                _format_sign_shares(cell)
                if cell.is_sticker and cell.is_done
                else _format_image_shares(evidence, cell)
            ),
            format_duration(cell.tally.seconds),
        ]
        for cell in cells
    )
    return render_table(head, rows)


def _format_image_shares(evidence: Evidence, cell: CellResult) -> list[str]:
    """Format shares of images: clean accuracy, robust accuracy, attack success, success in 8 bits."""
    mark = format_mark(select_cell_distrust(evidence, cell)) if cell.robust_accuracy.is_known else ""
    return [
        format_percent(cell.clean_accuracy.value),
        f"{format_estimate(cell.robust_accuracy)}{f', {mark}' if mark else ''}",
        format_estimate(cell.attack_success),
        format_percent(cell.attack_success_8bit.value),
    ]


def _format_sign_shares(cell: CellResult) -> list[str]:
    """Format these columns for a cell over views, whose shares of views are in their own section."""
    counting, turned = _format_sign_counts(cell)
    return [counting, MISSING_TEXT, turned, MISSING_TEXT]


def _format_attack(cell: CellResult) -> str:
    """Format the attack, and its knowledge unless it is white-box."""
    white = cell.record.knowledge == "white-box" or cell.is_corruption
    return cell.label if white else f"{cell.label} ({cell.attacker_knowledge})"


def _format_sign_counts(cell: CellResult) -> tuple[str, str]:
    """Format, for tables of cells, how many signs count and how many of them are misclassified."""
    tally = cell.tally
    most = f"{tally.broken} of {tally.clean_correct} ({format_interval(cell.attack_success)})"
    return f"signs that count {tally.clean_correct} of {tally.n}", f"success in most views {most}"


def _describe_machine(evidence: Evidence) -> dict[str, str]:
    """Describe the environment in words."""
    facts = {key: value for key, value in evidence.environment.items() if key not in {"versions", "parts"}}
    parts = evidence.environment.get("parts") or []
    versions = evidence.environment.get("versions") or {}
    written = {_FACT_NAMES.get(key, key): str(value) for key, value in facts.items() if value is not None}
    merged = {"Merged from": "; ".join(map(str, parts))} if parts else {}
    return (
        written
        | merged
        | {"Other versions": ", ".join(f"{name} {number}" for name, number in versions.items())}
    )
