"""One call of a model: protection of its input and of the process, and checks of its first answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustbench_local.classifier.abstention_declaration import Abstention
from robustbench_local.classifier.binary_output import LogitRangeCheck
from robustbench_local.classifier.evaluation_mode import EvaluationMode
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.classifier.literals import Access
from robustbench_local.classifier.model_output import read_abstaining_logits, read_labels, read_logits
from robustbench_local.classifier.pass_counter import record_finished_pass
from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.classifier.state_guard import ProcessSettings, RandomStates
from robustbench_local.errors import ModelError, RobustbenchError

SINGLE_ANSWERS_NOTE = (
    "each verdict is one answer, so that robust accuracy may be too high, where an attack fails by bad luck, "
    "or too low, where one answer is wrong by chance"
)
"""Why the figures of a model are doubtful, and in which direction, if its random answers are not declared."""


class ModelCall:
    """Calls a model on images and tolerates careless forward methods.

    Changes that the model makes to the process are undone at once. Its input is a copy until the model has
    shown that it does not modify it. An exception from the model becomes a model error.

    Args:
        num_classes: K.
        access: Kind of the answer: labels, or else scores.
        output: Entry of its answer to read, see `Classifier`.
        name: Name of the model in messages.
        logit_check: Checks its first scores; None where nothing needs checking.
        abstention: How the model rejects images; None if it never does.

    Attributes:
        logit_check: As above; None once it has seen enough.
        abstention: As above.
    """

    def __init__(
        self,
        num_classes: int,
        access: Access,
        output: str | int | None,
        name: str,
        logit_check: LogitRangeCheck | None,
        abstention: Abstention | None = None,
    ) -> None:
        self.logit_check, self.abstention = logit_check, abstention
        self._num_classes, self._access, self._output, self._name = num_classes, access, output, name
        self._should_copy_input, self._is_checked = True, False

    def compute_logits(
        self,
        model: Callable[[Tensor], Any],
        images: Tensor,
        prepare: Preprocessing,
        mode: EvaluationMode | None,
        note: Callable[[str], None],
    ) -> Tensor:
        """Return the model's logits, (N, K), for these images in one batch.

        Args:
            model: The model to call.
            images: (N, C, H, W) in [0, 1], checked, on the device of ``prepare``.
            prepare: Converts them to the model's input.
            mode: The open evaluation mode; None outside of one.
            note: Receives notes for a reader of the results.

        Raises:
            ModelError: If the model raises, or its output is not (N, K) floats.
        """
        model_input = prepare(images)
        if model_input is images and self._should_copy_input:
            model_input = images.clone()
        version = model_input._version  # noqa: SLF001  the only sign of an in-place change
        randomness = None if self._is_checked else RandomStates.from_process()
        try:
            output = _call_model(model, model_input, mode, note)
        except Exception as error:
            if is_out_of_memory(error) or isinstance(error, RobustbenchError):
                raise
            if mode is not None and mode.undo_layout_after(error):
                return self.compute_logits(model, images, prepare, mode, note)
            shape = tuple(model_input.shape)
            message = (
                f"the model raised {type(error).__name__} on images {shape}: {extract_first_line(error)}"
            )
            missing = isinstance(error, ImportError)
            remedy = (
                "import it at the top of the model's file" if missing else "check input_size and channels"
            )
            raise ModelError(message, where=self._name, remedy=remedy) from error
        touched = model_input._version != version  # noqa: SLF001
        if touched and model_input is images:
            what = "changes its input in place, though not at its first call"
            raise ModelError(what, where=self._name, remedy="let its forward begin with a clone of the input")
        if touched:
            note("changes its input in place; it is given a copy")
        logits = self._read_logits(output, len(images)).to(images.device)
        if randomness is not None:
            self._check_first_logits(logits, randomness, note)
            self._should_copy_input = touched or not torch.equal(model_input, prepare(images))
        record_finished_pass()
        return logits

    def _read_logits(self, output: Any, count: int) -> Tensor:
        if self.abstention is not None:
            return read_abstaining_logits(
                output, count, self._num_classes, self.abstention, key=self._output, name=self._name
            )
        read = read_labels if self._access == "labels" else read_logits
        logits = read(output, count, self._num_classes, key=self._output, name=self._name)
        if self.logit_check is not None:
            scores = read_logits(output, count, 2, key=self._output, name=self._name)
            self.logit_check = None if self.logit_check.check_logits(scores) else self.logit_check
        return logits

    def _check_first_logits(self, logits: Tensor, before: RandomStates, note: Callable[[str], None]) -> None:
        """Check the first answer only; checking each one would make every step wait for the device."""
        self._is_checked = True
        if not before.is_same_as(RandomStates.from_process()):
            note(
                "draws random numbers in its forward: its predictions may change from call to call; "
                f"{SINGLE_ANSWERS_NOTE}"
            )
        values = logits.detach()
        in_range = ((values >= 0) & (values <= 1)).all()
        if self._access != "labels" and bool(in_range & ((values.sum(dim=1) - 1).abs() <= 1e-5).all()):
            note("returns probabilities, not logits: remove the softmax, or losses on logits are weakened")


def _call_model(
    model: Callable[[Tensor], Any], inputs: Tensor, mode: EvaluationMode | None, note: Callable[[str], None]
) -> Any:
    """Call the model and restore the state of the process."""
    settings = ProcessSettings.from_process() if mode is None else mode.select_expected_settings()
    try:
        output = model(inputs)
    finally:
        changed = settings.restore_settings()
    if changed:
        note(f"its forward changes the process-wide {', '.join(changed)}; put back at once")
    return output
