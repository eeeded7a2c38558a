"""YAML files that somebody else wrote: read as plain data, and what is wrong with them in words."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from robustbench_local.errors import RobustbenchError, UsageError
from robustbench_local.suggestion import did_you_mean

_SIZE_LIMIT = 1 << 20


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path, error: type[UsageError]) -> Any:
    """Read a YAML file without running or unfolding anything in it.

    Args:
        path: The file: UTF-8, at most 1 MiB, no tags that build objects, no aliases, no key given twice.
        error: What to raise.

    Returns:
        Dictionaries, lists, strings, numbers, booleans, dates and None.

    Raises:
        UsageError: As ``error``, if it cannot be read as plain data.
    """
    where = shown(path)
    try:
        if path.stat().st_size > _SIZE_LIMIT:
            raise error(
                "the file is larger than 1 MiB", where=where, remedy="check that it is the right file"
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise error(f"cannot read the file: {reason}", where=where) from None
    try:
        # aliases of aliases unfold exponentially in whoever walks the data; the events are linear in the file
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise error(
                "YAML aliases are not allowed", where=where, remedy="write the value out where it is used"
            )
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as problem:
        raise error(f"this is not plain YAML: {_reason(problem)}", where=where) from None


def first_problem(error: ValidationError, model: type[BaseModel]) -> tuple[str, str | None]:
    """The first problem that pydantic found, in words for the person who wrote the file.

    Args:
        error: What pydantic raised.
        model: The model of the whole file, to compare unknown keys with its fields.

    Returns:
        What is wrong, and what to do about it if that can be said.
    """
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {place!r}", did_you_mean(
            str(problem["loc"][-1]), _keys(model, problem["loc"][:-1])
        )
    if problem["type"] == "missing":
        return f"the key {place!r} is missing", None
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, RobustbenchError):
        return f"{place}: {cause.what}" if place else cause.what, cause.remedy
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{place}: {message}, got {str(problem['input'])[:60]!r}" if place else message, None


def shown(path: Path) -> str:
    """A path as the user knows it: relative to the working directory if it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys allowed at a place inside a model; those of the innermost model that can be found."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        model = inner or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside a type such as ``list[Model] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)


def _reason(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    mark = getattr(problem, "problem_mark", None) or getattr(problem, "context_mark", None)
    what = getattr(problem, "problem", None) or str(problem)
    return f"{what}, line {mark.line + 1}" if mark else what
