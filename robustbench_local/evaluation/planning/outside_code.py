"""External code in a grid: tried in a child process before it runs here, and part of the run's identity."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from robustbench_local.attacks import ATTACKS
from robustbench_local.certification import CERTIFICATES
from robustbench_local.classifier.model_identity import digest_parts
from robustbench_local.config.cards import Card, find_card, list_shipped_names
from robustbench_local.data.outside_data import DATA_GROUP, is_outside_data, load_data_function
from robustbench_local.defenses.recipes.recipe_registry import RECIPES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS
from robustbench_local.errors import (
    CardError,
    ConfigError,
    ModelError,
    ModelTimeoutError,
    ProcessEndedError,
    RobustbenchError,
)
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit
from robustbench_local.evaluation.isolation.time_limit import limit_time
from robustbench_local.extensions.code_permission import permit_code
from robustbench_local.extensions.open_registry import OpenRegistry, describe_outside_code
from robustbench_local.extensions.python_reference import PYTHON_PREFIX
from robustbench_local.extensions.user_import import import_known_libraries
from robustbench_local.threats.threat_model import ThreatModel

_METHOD_REGISTRIES: tuple[OpenRegistry[Any], ...] = (ATTACKS, CERTIFICATES)
_DEFENSE_REGISTRIES: tuple[OpenRegistry[Any], ...] = (WRAPPERS, RECIPES)


def check_outside_code(
    grid: Grid, folders: Sequence[Path], *, base_folder: Path, allow_code: bool, timeout: float | None
) -> list[str]:
    """Import all external code of a grid in a child process, where it may exit, crash or hang.

    Args:
        grid: The grid.
        folders: Folders with the user's own cards.
        base_folder: The folder that relative paths start from.
        allow_code: Whether the user's own files may run.
        timeout: Time limit in seconds for each import; None for no limit.

    Returns:
        The names, for messages; empty if the grid uses only this package's code.

    Raises:
        ConfigError: If one cannot be imported, ends its process, or takes too long.
        RefusedError: If it is a file that may not run.
    """
    loaders = dict(_iterate_loaders(grid, folders))
    if any(name.startswith(PYTHON_PREFIX) for name in loaders):
        import_known_libraries()  # once, before every copy of this process does so for itself
    for name, load in loaders.items():

        def try_import(load: Callable[[], object] = load) -> None:
            with permit_code(allow_code, base_folder):  # the permission of this thread is not set in the fork
                load()

        with _convert_escapes(name, timeout):
            call_isolated(try_import, timeout=timeout, name=name)
    return list(loaders)


@contextmanager
def guard_outside_code(names: Sequence[str], timeout: float | None) -> Iterator[None]:
    """Keep external code that runs inside from ending this process or hanging forever.

    Args:
        names: The names from `check_outside_code`; empty for no guard.
        timeout: Time limit in seconds for everything inside; None for no limit.

    Raises:
        ConfigError: In place of any exception that is not this package's own.
    """
    if not names:
        yield
        return
    where = ", ".join(names)
    with _convert_escapes(where, timeout), catch_process_exit(where), limit_time(timeout, where):
        try:
            yield
        except RobustbenchError:
            raise
        except Exception as error:
            what = f"raised {type(error).__name__} before any image: {' '.join(str(error).split())[:200]}"
            raise ConfigError(what, where=where) from error


@contextmanager
def _convert_escapes(name: str, timeout: float | None) -> Iterator[None]:
    """Convert an exit or a hang of a model's process to an error of this external code."""
    try:
        yield
    except ModelTimeoutError:
        what = f"its code does not come to an end within {timeout or 0:g} s"
        raise ConfigError(
            what, where=name, remedy="see why it hangs, or allow it more with --timeout"
        ) from None
    except ProcessEndedError as problem:
        what = problem.what.replace("the model's process", "its process").replace("the model", "its code")
        raise ConfigError(what, where=name, remedy="let it raise an ordinary exception, or none") from None
    except ModelError as problem:
        if problem.where != name:
            raise
        raise ConfigError(problem.what, where=name, remedy=problem.remedy) from problem


def _iterate_loaders(grid: Grid, folders: Sequence[Path]) -> Iterator[tuple[str, Callable[[], object]]]:
    for entry in grid.attacks:
        yield from _iterate_method_loaders(entry.card, folders, _METHOD_REGISTRIES)
    defenses = [*grid.defenses, *(defense for model in grid.models for defense in model.defenses or ())]
    for defense in defenses:
        yield from _iterate_method_loaders(defense.card, folders, _DEFENSE_REGISTRIES)
    for data in (grid.data, grid.training):
        if data is not None and is_outside_data(data.source):
            yield data.source, partial(load_data_function, data.source)


def _iterate_method_loaders(
    card: str, folders: Sequence[Path], registries: Sequence[OpenRegistry[Any]]
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Iterate over the loaders of an entry's class, directly or through a card of the user's."""
    if card in list_shipped_names():
        return
    name = card
    if not any(registry.is_outside(card) for registry in registries):
        try:
            name = find_card(card, extra=folders).method
        except CardError:
            return  # the lookup reports it
    if any(registry.is_outside(name) for registry in registries):
        yield name, partial(_load_class, name, registries)


def _load_class(name: str, registries: Sequence[OpenRegistry[Any]]) -> object:
    """Load the class of that name from the first registry that accepts it, or raise the reason."""
    fitting = next((registry for registry in registries if name in registry), None)
    if fitting is None:
        fitting = next(registry for registry in registries if registry.is_outside(name))
    return fitting[name]


def describe_code(method: Any) -> dict[str, str]:
    """Describe the code of an external attack, certificate or defense for a cell's identity.

    Args:
        method: An instance; this package's own has an empty description, because its code has a version.
    """
    parts = describe_outside_code(type(method))
    return {"code of the method": digest_parts(parts)} if parts else {}


def check_outside_method(method: Any, threat: ThreatModel) -> None:
    """Check that an external attack or certificate can be planned and stored.

    Args:
        method: An instance; this package's own needs no check.
        threat: Its threat model.

    Raises:
        ConfigError: If its parameters are not plain values, or its cost is no pair of numbers.
    """
    if not describe_outside_code(type(method)):
        return
    name = type(method).__name__
    try:
        json.dumps(asdict(method))
    except (TypeError, ValueError) as error:
        remedy = "use numbers, texts, lists and None as fields"
        raise ConfigError(
            f"its parameters are not plain values: {error}", where=name, remedy=remedy
        ) from None
    cost = method.estimate_cost(threat)
    is_pair = isinstance(cost, tuple) and len(cost) == 2
    if not (is_pair and all(isinstance(passes, int) and passes >= 0 for passes in cost)):
        remedy = "return (forward, backward), whole numbers of passes an image"
        raise ConfigError(f"estimate_cost returned {cost!r:.60}", where=name, remedy=remedy)


def describe_run_code(grid: Grid, cards: Sequence[Card], defenses: Sequence[Card]) -> dict[str, str]:
    """Describe external code for a run's identity by file, so that a refusal names the changed file.

    Args:
        grid: The grid.
        cards: The cards of its attacks and certificates.
        defenses: Its defenses.
    """
    parts: dict[str, str] = {}
    for card in cards:
        registry: OpenRegistry[Any] = CERTIFICATES if card.kind == "certificate" else ATTACKS
        if registry.is_outside(card.method):
            parts |= _name_parts(describe_outside_code(registry[card.method]), f"{card.kind} {card.method}")
    for card in defenses:
        for registry in _DEFENSE_REGISTRIES:
            if registry.is_outside(card.method) and card.method in registry:
                code_parts = describe_outside_code(registry[card.method])
                parts |= _name_parts(code_parts, f"defense {card.method}")
    for data in (grid.data, grid.training):
        if data is not None and is_outside_data(data.source):
            code_parts = describe_outside_code(load_data_function(data.source))
            parts |= _name_parts(code_parts, f"{DATA_GROUP} {data.source}")
    return parts


def list_refused_names() -> list[str]:
    """Return a line for each entry point that has a built-in name or cannot be used."""
    records = {
        (registry.group, record.name): record
        for registry in (*_METHOD_REGISTRIES, *_DEFENSE_REGISTRIES)
        for record in registry.list_refused()
    }
    return [
        f"the entry point {record.name!r} of {record.distribution} ({group}) is refused: {record.problem}"
        for (group, _), record in records.items()
    ]


def _name_parts(parts: Mapping[str, str], owner: str) -> dict[str, str]:
    return {f"{part} of {owner}": value for part, value in parts.items()}
