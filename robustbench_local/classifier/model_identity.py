"""What a model is, as text: the part of its digest that its tensors do not tell."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn


def describe(model: Any) -> str:
    """The layers of a module, or the source of a callable, without memory addresses.

    Args:
        model: A module or callable. A callable that stands for something elsewhere, such as a file or a
            service, says in its attribute ``identity``, a text, what decides its answers.
    """
    text = f"{type(model).__module__}.{type(model).__qualname__} {model!r}"
    if not isinstance(model, nn.Module):
        code = model if inspect.isroutine(model) else type(model)
        text = f"{code.__module__}.{code.__qualname__}"
        identity = getattr(model, "identity", None)
        if isinstance(identity, str):
            return f"{text} {identity}"
        try:
            text += inspect.getsource(code)
        except (OSError, TypeError):
            text += " (no source)"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
