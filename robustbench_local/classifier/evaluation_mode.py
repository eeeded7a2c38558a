"""Evaluation mode: sets up a model and its process for an evaluation, and restores both afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from robustbench_local.classifier.device import ChannelsLast
from robustbench_local.classifier.foreign_errors import extract_first_line, is_out_of_memory
from robustbench_local.classifier.state_guard import (
    ModuleState,
    ProcessSettings,
    RandomStates,
    deterministic_arithmetic,
    set_evaluation_mode,
)
from robustbench_local.errors import ModelError


class EvaluationMode:
    """The state while `evaluation_mode` is open.

    Args:
        layout: The memory layout of the weights; None where there is no module.
    """

    def __init__(self, layout: ChannelsLast | None) -> None:
        self._layout = layout
        # read once, so that a forward only compares them afterwards
        self._settings = ProcessSettings.from_process()
        self._callers_choices: dict[tuple[bool, bool, bool], ProcessSettings] = {}

    def select_expected_settings(self) -> ProcessSettings:
        """Return the process-wide settings that a forward must not change.

        The caller chooses gradients, and an attack may compute its steps under autocast.
        """
        grad_enabled = torch.is_grad_enabled()
        autocast = (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
        choice = (grad_enabled, *autocast)
        if choice not in self._callers_choices:
            expected = self._settings._replace(grad_enabled=grad_enabled, autocast=autocast)
            self._callers_choices[choice] = expected
        return self._callers_choices[choice]

    def undo_layout_after(self, error: BaseException) -> bool:
        """Restore the original layout and return True if the layout caused the error; else return False."""
        return self._layout is not None and self._layout.is_cause_of(error) and self._layout.restore_layout()


@contextmanager
def evaluation_mode(
    module: nn.Module | None, name: str, add_note: Callable[[str], None]
) -> Iterator[EvaluationMode]:
    """Enter evaluation mode with frozen parameters and exact arithmetic; restore everything after (V10).

    Args:
        module: The network; None for a callable, which has no mode and no parameters.
        name: Name of the network in messages.
        add_note: Receives notes for a reader of the results.

    Raises:
        ModelError: If the module's state cannot be saved or its evaluation mode cannot be set.
    """
    settings, randomness = ProcessSettings.from_process(), RandomStates.from_process()
    state = None if module is None else _remember_state(module, name)
    layout = None
    try:
        if module is not None:
            _freeze_module(module, name, add_note)
            layout = ChannelsLast(module)
        with deterministic_arithmetic():
            yield EvaluationMode(layout)
    finally:
        if layout is not None:
            layout.restore_layout()
        settings.restore_settings()
        randomness.restore_states()
        if state is not None:
            _restore_module(state, add_note)


def _remember_state(module: nn.Module, name: str) -> ModuleState:
    """Save the state of the module that its use may change."""
    try:
        return ModuleState(module)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        what = f"its parameters and buffers cannot be copied: {extract_first_line(error)}"
        remedy = "give every layer its weights first, lazy ones by a first call"
        raise ModelError(what, where=name, remedy=remedy) from error


def _freeze_module(module: nn.Module, name: str, note: Callable[[str], None]) -> None:
    try:
        warning = set_evaluation_mode(module)
    except Exception as error:
        what = f"cannot be put into evaluation mode: {type(error).__name__}: {extract_first_line(error)}"
        raise ModelError(what, where=name, remedy="let eval() and requires_grad_() work") from error
    if warning is not None:
        note(warning)


def _restore_module(state: ModuleState, note: Callable[[str], None]) -> None:
    try:
        changed = state.restore_module()
    except Exception as error:  # noqa: BLE001 - what was measured is measured
        note(f"cannot be put back as it was before it was attacked: {extract_first_line(error)}")
        return
    if changed:
        note(f"{', '.join(changed[:3])} changed while it was attacked; put back afterwards")
