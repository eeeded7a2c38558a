"""D29: does an answer depend on what was asked before?"""

from __future__ import annotations

from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic import Diagnostic, Reading, build_unread


class KeptState(Diagnostic):
    """Counters, caches, lists of earlier queries: an attack then meets another model than a user."""

    id = "D29"
    name = "no memory of earlier questions"
    source = (
        "stateful detection: Chen et al. 2019, arXiv:1907.05587; Blacklight, Li et al. 2022, arXiv:2006.14042"
    )

    def check_model(self, model: DiagnosedModel) -> Reading:
        """Read what the consistency probe found before the first question of this run; it takes no pass."""
        known = model.classifier.settings.consistency
        if not known.is_probed:
            return build_unread("the model was not asked twice")
        if known.inconsistency_note:
            return Reading(
                status="fail",
                sentence=f"An answer is not that of the image alone: {known.inconsistency_note}.",
                action="Let its forward treat each image by itself and keep nothing.",
            )
        if known.read_files:
            return Reading(
                status="fail",
                sentence="The model reads and writes files while it answers "
                f"({', '.join(known.read_files)}): nobody can put back what it remembers there, so that "
                "later answers may depend on earlier questions, also in another run.",
                action="Let its forward keep nothing, or keep it in the model, where a copy resets it.",
            )
        if known.is_unrepeatable:
            return build_unread("answers vary by chance, so that memory cannot be told from it")
        if find_innermost(model.classifier).settings.uses_fresh_copies:
            return Reading(
                status="info",
                sentence="The model keeps state between calls, and a copy without memory answers each.",
            )
        return Reading(
            status="ok",
            sentence="The same image gets the same answer before and after other images.",
        )
