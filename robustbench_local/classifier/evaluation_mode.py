"""A model and its process as an evaluation needs them, and afterwards as they were before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from robustbench_local.classifier.device import ChannelsLast
from robustbench_local.classifier.foreign_errors import first_line, out_of_memory
from robustbench_local.classifier.state_guard import (
    ModuleState,
    RandomStates,
    Settings,
    set_evaluation_mode,
    sound_arithmetic,
)
from robustbench_local.errors import ModelError


class EvaluationMode:
    """What holds while `evaluation_mode` is open.

    Args:
        layout: How the weights lie; None where there is no module.
    """

    def __init__(self, layout: ChannelsLast | None) -> None:
        self._layout = layout
        # read once, with gradients on and off, so that a forward only has to look at them afterwards
        settings = Settings.current()
        self._settings = {on: settings._replace(gradients=on) for on in (True, False)}

    def expected_settings(self) -> Settings:
        """The process-wide settings that a forward has to leave as they are."""
        return self._settings[torch.is_grad_enabled()]

    def undo_layout_behind(self, error: BaseException) -> bool:
        """Let the weights lie as their maker has them if that is what a network stumbled over; else False."""
        return self._layout is not None and self._layout.explains(error) and self._layout.put_back()


@contextmanager
def evaluation_mode(
    module: nn.Module | None, name: str, note: Callable[[str], None]
) -> Iterator[EvaluationMode]:
    """Evaluation mode, frozen parameters, exact arithmetic; afterwards everything is as before (V10).

    Args:
        module: The network; None for a callable, which has no mode and no parameters.
        name: What to call it in messages.
        note: Told what a reader of the results should know.

    Raises:
        ModelError: If the module cannot be remembered or put into evaluation mode.
    """
    settings, randomness = Settings.current(), RandomStates.current()
    state = None if module is None else _remember_state(module, name)
    layout = None
    try:
        if module is not None:
            _freeze(module, name, note)
            layout = ChannelsLast(module)
        with sound_arithmetic():
            yield EvaluationMode(layout)
    finally:
        if layout is not None:
            layout.put_back()
        settings.restore()
        randomness.restore()
        if state is not None:
            _put_back(state, note)


def _remember_state(module: nn.Module, name: str) -> ModuleState:
    """What using the module may change in it."""
    try:
        return ModuleState(module)
    except Exception as error:
        if out_of_memory(error):
            raise
        what = f"its parameters and buffers cannot be copied: {first_line(error)}"
        remedy = "give every layer its weights first, lazy ones by a first call"
        raise ModelError(what, where=name, remedy=remedy) from error


def _freeze(module: nn.Module, name: str, note: Callable[[str], None]) -> None:
    try:
        told = set_evaluation_mode(module)
    except Exception as error:
        what = f"cannot be put into evaluation mode: {type(error).__name__}: {first_line(error)}"
        raise ModelError(what, where=name, remedy="let eval() and requires_grad_() work") from error
    if told is not None:
        note(told)


def _put_back(state: ModuleState, note: Callable[[str], None]) -> None:
    try:
        changed = state.restore()
    except Exception as error:  # noqa: BLE001 - what was measured is measured
        note(f"cannot be put back as it was before it was attacked: {first_line(error)}")
        return
    if changed:
        note(f"{', '.join(changed[:3])} changed while it was attacked; put back afterwards")
