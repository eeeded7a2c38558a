"""The wrapper defenses by name, and how one is made from a card's parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustbench_local.defenses.base import Wrapper
from robustbench_local.parameters import build
from robustbench_local.registry import Registry

WRAPPERS: Registry[Wrapper] = Registry(
    "wrapper defense",
    Wrapper,  # type: ignore[type-abstract]  # compared with, never built
    {
        "jpeg": "robustbench_local.defenses.jpeg:JPEG",
    },
)
"""Methods of defense cards that need no training."""


def make_wrapper(name: str, given: Mapping[str, Any] | None = None) -> Wrapper:
    """Build a wrapper from its name and parameters, as a card or a grid file gives them.

    Args:
        name: A name in ``WRAPPERS``.
        given: Parameters; the rest keep their defaults.

    Raises:
        ConfigError: If the name, a parameter or a value is wrong.
    """
    return build(WRAPPERS[name], given or {}, where=f"defense {name!r}")
