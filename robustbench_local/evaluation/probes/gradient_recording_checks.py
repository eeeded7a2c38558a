"""Checks that answers are the same with and without gradient recording, which attacks turn on."""

from __future__ import annotations

from torch import Tensor

from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.probes.answer_differences import RECORDED_TOLERANCE
from robustbench_local.evaluation.probes.model_queries import ModelQueries
from robustbench_local.evaluation.probes.probe_images import ProbeImages


def check_grad_mode_dependence(questions: ModelQueries, images: ProbeImages, silent: Tensor) -> None:
    """Query the first two images while gradients are recorded, as attacks do.

    Args:
        questions: The queries to the model.
        images: The probe images.
        silent: The answers to them without recording.

    Raises:
        InconsistentError: If the answers differ.
    """
    if questions.classifier.access != "gradients":
        return
    try:
        with questions.open_fresh_copy() as model:
            recorded = questions.query_model(model, images.distinct[:2], recorded=True)
    except (ModelError, RuntimeError) as error:
        if is_out_of_memory(error) or isinstance(error, UnreachableError):
            raise
        return  # gradient errors are checked elsewhere
    tolerance = max(questions.findings.tolerance, RECORDED_TOLERANCE)
    questions.findings.refuse_grad_mode_dependence(silent, recorded, tolerance)
