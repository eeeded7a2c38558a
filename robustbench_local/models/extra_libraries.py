"""Libraries that only an extra installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.errors import ConfigError, format_install_command


def import_extra(module: str, *, extra: str, distribution: str | None = None) -> Any:
    """Import a library that an extra installs.

    Args:
        module: Its dotted name.
        extra: The extra.
        distribution: What an index calls it; by default the first part of the module's name.

    Returns:
        The module.

    Raises:
        ConfigError: If it is not installed, or is there and cannot be imported.
    """
    package = module.partition(".")[0]
    name, remedy = distribution or package, f"run {format_install_command(extra)}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == package:
            raise ConfigError(f"{name} is not installed", remedy=remedy) from error
        raise _explain_failure(name, error, remedy) from error
    except ImportError as error:
        raise _explain_failure(name, error, remedy) from error


def _explain_failure(name: str, error: ImportError, remedy: str) -> ConfigError:
    """Name the reason why an installed library cannot be imported."""
    reason = extract_first_line(error)
    return ConfigError(f"{name} is installed and cannot be imported: {reason}", remedy=f"{remedy} again")
