"""D4: does the same image get the same answer twice?"""

from __future__ import annotations

from robustbench_local.attacks.adaptive.findings import MAX_ROUNDING_DIFFERENCE
from robustbench_local.classifier.model_call import SINGLE_ANSWERS_NOTE
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import (
    Diagnostic,
    Reading,
    build_unread,
    format_figure,
    format_images,
)

_DECLARED = (
    "The defense declares that it draws random numbers: attacks average over {draws} draws, and each verdict "
    "over {verdict_draws} others."
)


class ChangingAnswers(Diagnostic):
    """Random answers that no defense declares: attacks follow, and verdicts are, single draws."""

    id = "D4"
    name = "same answer to the same image"
    source = "AutoAttack's check for randomized defenses; deterministic networks give exactly 0"

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read the inspection: five passes over the same images."""
        if model.draws_randomly:
            sentence = _DECLARED.format(
                draws=model.classifier.draws,  # type: ignore[attr-defined]
                verdict_draws=model.classifier.verdict_draws,  # type: ignore[attr-defined]
            )
            return Reading(status="info", sentence=sentence)
        if model.findings is None:
            return build_unread(model.missing_findings)
        found, n = model.findings.randomness, model.findings.images
        if not found.is_random:
            return Reading(
                status="ok",
                sentence=f"The same image gets the same answer each time ({format_images(n, n)}).",
                value=found.max_difference,
                limit=MAX_ROUNDING_DIFFERENCE,
                n=n,
            )
        changed = (
            f", and {format_images(found.changed_labels, n)} change their class"
            if found.changed_labels
            else ""
        )
        return Reading(
            status="fail",
            sentence="The model answers at random: the same image gets outputs that differ by "
            f"{format_figure(found.max_difference)} of their length from one call to the next{changed}; "
            f"{SINGLE_ANSWERS_NOTE}.",
            value=found.max_difference,
            limit=MAX_ROUNDING_DIFFERENCE,
            n=n,
            action="Remove the random numbers, or declare them as a random defense (a card like noise-0.1): "
            "attacks then average over draws.",
        )
