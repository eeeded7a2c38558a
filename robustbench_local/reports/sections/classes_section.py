"""Robust accuracy by class, the worst class, and the confusion matrix under attack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.reports.analysis.class_results import (
    MAX_MAP_CLASSES,
    MAX_MATRIX_CLASSES,
    MAX_SHOWN_CONFUSIONS,
    MIN_CLASS_IMAGES,
    ClassTable,
    Confusion,
    build_class_tables,
)
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.reports.analysis.trust import UNTRUSTED_PHRASE, select_blocks, select_distrust
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table
from robustbench_local.reports.formatting.text import (
    EN_DASH,
    format_estimate,
    format_interval,
    format_percent,
    format_sample,
    isolate_direction,
    join_in_sentence,
)
from robustbench_local.reports.sections.section import JsonDict, Section
from robustbench_local.statistics import Estimate
from robustbench_local.store import RunStore

MAX_NAMED_CLASSES = 5
"""Classes without an image that are named; of more, their number is given."""
MAX_MARKDOWN_CLASSES = 10
"""Classes of each table in report.md, the lowest first; classes.csv has all of them."""


@dataclass(frozen=True, kw_only=True)
class ShownClassTable:
    """A table of classes with what the report says about it."""

    table: ClassTable
    """The numbers."""
    caveat: str
    """What limits their meaning, in a few words; empty without any."""
    is_void: bool
    """Whether a diagnostic forbids any robustness number of the model."""

    @property
    def confusions(self) -> tuple[Confusion, ...]:
        """The most frequent confusions."""
        return self.table.matrix.confusions[:MAX_SHOWN_CONFUSIONS]

    @property
    def has_matrix(self) -> bool:
        """Whether there are few enough classes to show the whole matrix."""
        return len(self.table.matrix_classes) <= MAX_MATRIX_CLASSES

    @property
    def has_map(self) -> bool:
        """Whether the matrix is drawn as a map instead."""
        return MAX_MATRIX_CLASSES < len(self.table.matrix_classes) <= MAX_MAP_CLASSES

    @property
    def few_images_text(self) -> str:
        """The number of classes with few images, in a sentence; empty without any."""
        count = self.table.few_image_count
        if not count:
            return ""
        verb = choose_form(count, "has", "have")
        classes = format_count(len(self.table.rows), "class")
        return (
            f"{count:,} of {classes} {verb} fewer than {MIN_CLASS_IMAGES} images: such shares say little, "
            "and the order of these classes is mostly chance."
        )

    @property
    def images_text(self) -> str:
        """Number of images of a class, as a range."""
        fewest, most = self.table.image_counts
        return f"{fewest:,}" if fewest == most else f"{fewest:,}{EN_DASH}{most:,}"

    @property
    def missing_text(self) -> str:
        """The classes without an image, in a sentence; empty without any."""
        names = [isolate_direction(name) for name in self.table.missing_classes]
        if not names:
            return ""
        listed = (
            join_in_sentence(names) if len(names) <= MAX_NAMED_CLASSES else format_count(len(names), "class")
        )
        return f"Without an image, so that nothing is known of them: {listed}."


class ClassesSection(Section[tuple[ShownClassTable, ...]]):
    """One summary of worst classes; below it the classes of each model under each threat model."""

    anchor = "classes"
    title = "Robust accuracy by class"
    link_text = "Classes"
    template = "classes.html.j2"
    is_folded = True
    explanation = (
        "The lowest of several shares is too low on average, because it is chosen for being low. The "
        "interval of the worst class accounts for that choice: with a confidence of 95% it covers the robust "
        "accuracy of the class that is truly the worst. The intervals of single classes do not: each holds "
        "for a class that was named in advance."
    )

    def build_content(self, evidence: Evidence, store: RunStore) -> tuple[ShownClassTable, ...]:
        """Collect the tables, with what diagnostics found about their models."""
        return tuple(_build_shown_table(evidence, table) for table in build_class_tables(evidence))

    def to_markdown(self, content: tuple[ShownClassTable, ...], evidence: Evidence) -> Iterable[str]:
        """Render the worst classes, and the lowest classes of each model."""
        yield from ("## Robust accuracy by class", "", self.explanation, "")
        head = ["model", "threat model", "classes", "images a class", "worst class", "its robust accuracy"]
        yield from (*render_table(head, map(_render_worst_class, content)), "")
        for shown in content:
            if not shown.is_void:
                yield from _render_classes(shown)

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode ``classes``: the classes and the confusion matrix of each model and threat model."""
        return {
            "classes": [
                _encode_table(_build_shown_table(evidence, table)) for table in build_class_tables(evidence)
            ]
        }


CLASSES = ClassesSection()


def format_corrected(estimate: Estimate) -> str:
    """Format the share of the worst class; its interval is of another kind than that of a single class."""
    return (
        f"{format_percent(estimate.value)} (corrected {format_interval(estimate)}, {format_sample(estimate)})"
    )


def _build_shown_table(evidence: Evidence, table: ClassTable) -> ShownClassTable:
    blocks = select_blocks(evidence, table.subject)
    distrust = select_distrust(evidence, table.subject, table.threat)
    ids = join_in_sentence(list(dict.fromkeys(result.id for result in blocks or distrust)))
    caveats = [
        f"void ({ids})" if blocks else f"{UNTRUSTED_PHRASE} ({ids})" if distrust else "",
        "" if table.is_complete else "incomplete",
    ]
    return ShownClassTable(table=table, caveat=", ".join(filter(None, caveats)), is_void=bool(blocks))


def _render_worst_class(shown: ShownClassTable) -> list[str]:
    table = shown.table
    share = format_corrected(table.worst_class_robust_accuracy)
    return [
        escape_markdown(str(table.subject)),
        escape_markdown(str(table.threat)),
        f"{len(table.rows):,}",
        shown.images_text,
        "" if shown.is_void else escape_markdown(table.worst_class.name),
        shown.caveat if shown.is_void else "; ".join(filter(None, [share, shown.caveat])),
    ]


def _render_classes(shown: ShownClassTable) -> Iterator[str]:
    table = shown.table
    yield from (f"### {escape_markdown(f'{table.subject} under {table.threat}')}", "")
    rows = table.rows[:MAX_MARKDOWN_CLASSES]
    if len(rows) < len(table.rows):
        yield from (
            f"The {len(rows)} lowest of {format_count(len(table.rows), 'class')}; all are in classes.csv.",
            "",
        )
    yield from render_table(
        ["class", "clean accuracy", "robust accuracy, worst case"],
        (
            [
                escape_markdown(row.name) + (", few images" if row.has_few_images else ""),
                format_estimate(row.clean_accuracy),
                format_estimate(row.robust_accuracy),
            ]
            for row in rows
        ),
    )
    yield ""
    for text in filter(None, (shown.few_images_text, shown.missing_text)):
        yield from (escape_markdown(text), "")
    if shown.confusions:
        attack = escape_markdown(table.matrix.attack_label)
        yield from (f"Most frequent misclassifications under {attack}, as shares of the true class:", "")
        yield from render_table(
            ["true class", "predicted as", "images"],
            (
                [
                    escape_markdown(confusion.label_name),
                    escape_markdown(confusion.prediction_name),
                    f"{confusion.share.count:,}: {format_estimate(confusion.share)}",
                ]
                for confusion in shown.confusions
            ),
        )
        yield ""


def _encode_table(shown: ShownClassTable) -> JsonDict:
    table, matrix = shown.table, shown.table.matrix
    return {
        "model": table.subject.model,
        "defense": table.subject.defense,
        "threat": table.threat.name,
        "complete": table.is_complete,
        "caveat": shown.caveat,
        "worst_class": table.worst_class.name,
        "worst_class_robust_accuracy": table.worst_class_robust_accuracy.to_json(),
        "classes": [
            {
                "label": row.label,
                "name": row.name,
                "clean_accuracy": row.clean_accuracy.to_json(),
                "robust_accuracy": row.robust_accuracy.to_json(),
                "attacks": _encode_attacks(table, row.attack_accuracies),
            }
            for row in table.rows
        ],
        "few_images": table.few_image_count,
        "missing_classes": list(table.missing_classes),
        "confusion": {
            "attack": matrix.attack,
            "n": matrix.n,
            "counts": [[label, final, count] for (label, final), count in matrix.counts.items()],
        },
        "clean_confusion": [
            [label, final, count] for (label, final), count in table.clean_matrix.counts.items()
        ],
    }


def _encode_attacks(table: ClassTable, estimates: Iterable[Estimate]) -> list[dict[str, Any]]:
    return [
        {"attack": cell.record.attack, "robust_accuracy": estimate.to_json("no image of the class")}
        for cell, estimate in zip(table.attacks, estimates, strict=True)
    ]
