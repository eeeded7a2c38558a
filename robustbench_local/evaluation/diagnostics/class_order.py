"""D31: does each output stand for the class that the data mean by its number?"""

from __future__ import annotations

from robustbench_local.counted_nouns import format_count
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    capitalize_first,
)
from robustbench_local.evaluation.probes.class_orders import find_better_order
from robustbench_local.evaluation.probes.form_comparison import MAX_FAMILY_CHANCE, find_predicted_classes
from robustbench_local.store.preprocessing_record import BetterForm


class ClassOrderCheck(Diagnostic):
    """Accuracy with the classes in another order: shifted by one, sorted as text, or the order that fits."""

    id = "D31"
    name = "order of the classes"
    source = "measured: no other order of a sound network's classes fits images held out"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read what the first look at the model found; without one, look at its answers. It takes no pass."""
        check, n = model.preprocessing_check, len(model.logits)
        if check is not None and check.n:
            found = check.better if check.better is not None and check.better.kind == "classes" else None
            return self.judge_order(found, check.n)
        if not n:
            return build_unread("there are no answers")
        classes = model.classifier.num_classes
        predictions = find_predicted_classes(model.logits, classes)
        found = find_better_order(predictions, model.labels[:n], classes, model.class_names)
        return self.judge_order(found, n)

    def judge_order(self, better: BetterForm | None, n: int) -> Reading:
        """Judge the order of the classes that fits best.

        Args:
            better: It, if it fits clearly better than the one of the data.
            n: Images in all.
        """
        if better is None:
            sentence = f"No other order of the classes fits the answers to {format_count(n, 'image')} better."
            return Reading(status="ok", sentence=sentence, value=1.0, limit=MAX_FAMILY_CHANCE, n=n)
        return Reading(
            status="fail",
            sentence=f"The order of the classes looks wrong: {better.correct_before:,} of "
            f"{format_count(better.n, 'image')} are classified correctly, and {better.correct:,} with "
            f"{better.form}.",
            value=better.chance,
            limit=MAX_FAMILY_CHANCE,
            n=better.n,
            action=f"{capitalize_first(better.format_advice())}, and measure again.",
        )
