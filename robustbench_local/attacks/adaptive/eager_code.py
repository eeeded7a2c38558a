"""Compiled code is run eagerly where its operations have to be seen."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def run_eagerly() -> AbstractContextManager[Any]:
    """Let functions and modules of ``torch.compile`` run as they were written, while open."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance
