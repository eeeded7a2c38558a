"""Quantized models: their access is found by trying, and a scale that the batch decides is one image's."""

from __future__ import annotations

import copy
from contextlib import suppress

from torch import nn

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_trial import find_answer, list_trial_shapes, make_trial_images
from robustbench_local.models.program_operators import (
    is_dynamically_quantized,
    is_fake_quantized,
    is_quantized,
)

FAKE_QUANTIZED_NOTE = "imitates rounding in floats: its gradients pass straight through"
DYNAMIC_NOTE = (
    "its dynamic quantization takes one scale from a whole batch: it is asked about one image at a time"
)


def find_quantized_access(loaded: LoadedModel, request: ModelRequest, *, where: str) -> None:
    """Find what a quantized module offers to an attacker, unless its source or the user says so.

    Args:
        loaded: A model from any source; its access and notes are changed.
        request: The user's options.
        where: The model's name in messages.
    """
    model = loaded.model
    if not isinstance(model, nn.Module) or not is_quantized(model):
        return
    if is_fake_quantized(model):
        loaded.notes.append(FAKE_QUANTIZED_NOTE)
    if loaded.access is not None or request.access is not None:
        return
    shapes = list_trial_shapes(model, request)
    answer = None
    with suppress(ModelError):  # its first images show what is wrong
        attempts = ((copy.deepcopy(model).eval(), make_trial_images(shape)) for shape in shapes)
        answer = find_answer(attempts, request, where=where, is_quantized=True)
    if answer is not None:
        _, trial = answer
        loaded.access = trial.access
        loaded.notes += trial.notes


def ask_one_by_one(classifier: Classifier) -> None:
    """Ask a dynamically quantized model about one image at a time, so that an answer is its image's own.

    Args:
        classifier: Any classifier; its settings are changed if its model is one.
    """
    if classifier.module is not None and is_dynamically_quantized(classifier.module):
        classifier.configure(fixed_batch_size=1)
        classifier.add_note(DYNAMIC_NOTE)
