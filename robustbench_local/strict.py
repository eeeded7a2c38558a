"""Files that users write: read safely, checked strictly, and wrong keys answered with the right ones."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_local.errors import UsageError
from robustbench_local.suggestion import did_you_mean

MAX_BYTES = 1 << 20
"""A grid or card above one mebibyte is a mistake or an attack."""

Parsed = TypeVar("Parsed", bound="Strict")


class _Loader(yaml.SafeLoader):
    """Plain data only, no key twice, and only true and false are truth values: ``on: lower`` is a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                problem = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class Strict(BaseModel):
    """A mapping of a user's file: unknown keys are mistakes, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def read_yaml(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; no tag can create an object.

    Args:
        path: The file.
        error: What to raise.

    Raises:
        UsageError: As ``error``: the file is missing, too large, not UTF-8, not YAML, or no mapping.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise error(f"the file has {size:,} bytes, the limit is {MAX_BYTES:,}", where=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as failure:
        raise error(f"cannot read the file: {failure.strerror or failure}", where=str(path)) from None
    except (UnicodeDecodeError, ValueError):
        raise error("the file is not UTF-8 text", where=str(path)) from None
    return parse_yaml(text, where=str(path), error=error)


def parse_yaml(text: str, *, where: str, error: type[UsageError]) -> dict[str, Any]:
    """Read YAML text that must hold a mapping.

    Raises:
        UsageError: As ``error``: not YAML, an alias, a key twice, or no mapping.
    """
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            # aliases multiply: a few lines can mean a billion
            raise error("YAML aliases are not allowed", where=where, remedy="write the value out")
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, stricter still
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(failure, "problem", None) or "it cannot be parsed"
        raise error(f"not valid YAML{place}: {problem}", where=where) from None
    except RecursionError:
        raise error("the YAML is nested too deeply", where=where) from None
    if not isinstance(content, dict):
        raise error("the file must hold a mapping of keys to values", where=where)
    return content


def validate(
    kind: type[Parsed], content: Mapping[str, Any], *, where: str, error: type[UsageError]
) -> Parsed:
    """Check a mapping against its model.

    Args:
        kind: The model.
        content: What the user wrote.
        where: The file, for the message.
        error: What to raise.

    Raises:
        UsageError: As ``error``, naming the first wrong key, its place, and the nearest right one.
    """
    try:
        return kind.model_validate(dict(content))
    except ValidationError as failure:
        problem = min(failure.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            remedy = did_you_mean(str(problem["loc"][-1]), _known_keys(kind, problem["loc"][:-1]))
            raise error(f"unknown key {path!r}", where=where, remedy=remedy) from None
        got = problem.get("input")
        message = problem["msg"].removeprefix("Value error, ")
        if not path:  # a rule between several keys: the message names them
            raise error(message, where=where) from None
        shown = "" if problem["type"] == "missing" else f", got {str(got)[:60]!r}"
        raise error(f"{path}: {message[0].lower()}{message[1:]}{shown}", where=where) from None


def _known_keys(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping at ``place`` inside a model may have."""
    fields = kind.model_fields
    for step in place:
        if isinstance(step, str) and step in fields:
            inner = _model_in(fields[step].annotation)
            if inner is not None:
                fields = inner.model_fields
    return [field.alias or name for name, field in fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _model_in(part)
        if found is not None:
            return found
    return None
