"""Shell completion; it runs at every press of the tab key and so does not import torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

LIST_NAMES = ("attacks", "certificates", "defenses", "models", "data", "examples")
"""The lists of ``rbl list``."""
_GRID_SUFFIXES = (".yaml", ".yml")


def complete_list_names(incomplete: str) -> list[str]:
    """Complete the names of lists for ``rbl list``."""
    return _select_matching(LIST_NAMES, incomplete)


def complete_names(context: typer.Context, incomplete: str) -> list[str]:
    """Complete names for ``rbl show``: cards, those of the user's folders too, and all listed names."""
    from robustbench_local.cli.listing import list_other_names  # noqa: PLC0415 - help should not wait for it
    from robustbench_local.config.cards import list_card_names  # noqa: PLC0415

    folders = [folder for folder in context.params.get("cards") or () if Path(folder).is_dir()]
    return _select_matching([*list_card_names(extra=folders), *list_other_names()], incomplete)


def complete_defenses(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the cards of defenses."""
    from robustbench_local.config.cards import list_card_names  # noqa: PLC0415

    folders = [folder for folder in context.params.get("cards") or () if Path(folder).is_dir()]
    return _select_matching(list_card_names("defense", folders), incomplete)


def complete_examples(incomplete: str) -> list[str]:
    """Complete the example grids."""
    from robustbench_local.evaluation.grid.example_grids import list_examples  # noqa: PLC0415

    return _select_matching(list_examples(), incomplete)


def complete_policies(incomplete: str) -> list[str]:
    """Complete the ready-made policies."""
    from robustbench_local.config.gate_policy import list_policies  # noqa: PLC0415

    return _select_matching(list_policies(), incomplete)


def complete_threats(incomplete: str) -> list[str]:
    """Complete the families of threat models."""
    from robustbench_local.threats.threat_model import NORMS  # noqa: PLC0415

    return _select_matching([norm.casefold() for norm in NORMS], incomplete)


def complete_kinds(incomplete: str) -> list[str]:
    """Complete the kinds of methods."""
    from robustbench_local.config.methods import METHODS_BY_KIND  # noqa: PLC0415

    methods = [method for table in METHODS_BY_KIND.values() for method in table.values()]
    return _select_matching({kind for method in methods for kind in method.kinds}, incomplete)


def complete_grid_files(incomplete: str) -> list[str]:
    """Complete grid files, and the folders on their paths; nothing where there are only folders.

    Without candidates, a shell completes paths by itself, and puts no space behind a folder.
    """
    written, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted(Path(written + slash or ".").expanduser().iterdir())
    except OSError:
        return []
    shown = [path for path in entries if path.name.startswith(start) and (start or path.name[0] != ".")]
    if not any(path.suffix in _GRID_SUFFIXES for path in shown):
        return []
    wanted = [path for path in shown if path.is_dir() or path.suffix in _GRID_SUFFIXES]
    return [f"{written}{slash}{path.name}{'/' if path.is_dir() else ''}" for path in wanted]


def complete_paths(_incomplete: str) -> list[str]:
    """Return nothing: the shell completes paths by itself."""
    return []


def _select_matching(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
