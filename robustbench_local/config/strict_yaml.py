"""Files that users write: read safely, checked strictly, and wrong keys answered with the right ones."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from robustbench_local.config.user_files import read_user_file
from robustbench_local.errors import UsageError, did_you_mean

MAX_YAML_BYTES = 1 << 20
"""A grid or card above one mebibyte is a mistake or an attack."""

MAX_YAML_DEPTH = 64
"""Lists and mappings inside each other."""
MAX_OPEN_BRACKETS = 1000
"""Brackets open at a time, in quotes or not."""
_BRACKETS = re.compile(r"[\[\]{}]")

Parsed = TypeVar("Parsed", bound="StrictModel")


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, no key twice, no aliases, and only true and false are truth values: ``on`` is a word.

    Dates, times of day and base 60 are words too, and a number with a leading zero is one: in YAML 1.1
    ``010`` would be 8 and ``1:30`` would be 90.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # aliases multiply: a few lines can mean a billion
            raise yaml.constructor.ConstructorError(None, None, _ALIAS_MESSAGE, self.get_mark())
        self.depth += 1
        if self.depth > MAX_YAML_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, _DEPTH_MESSAGE, self.get_mark())
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _ALLOWED_TAGS:
            problem = f"the tag {node.tag.replace(_YAML_PREFIX, '!!')} is not allowed"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as failure:
            value = str(node.value)[:40] if isinstance(node, yaml.ScalarNode) else ""
            problem = f"{value!r} cannot be read as {node.tag.replace(_YAML_PREFIX, '')}"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from failure

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and _SURROGATE.search(value):
            problem = "half a character (a lone surrogate)"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = "a key is a list or a mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                problem = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_YAML_PREFIX = "tag:yaml.org,2002:"
_ALLOWED_TAGS = frozenset(
    _YAML_PREFIX + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null")
)
_ALIAS_MESSAGE = "YAML aliases are not allowed: write the value out"
_DEPTH_MESSAGE = "it is nested too deeply"
_SURROGATE = re.compile("[\ud800-\udfff]")
_IMPLICIT_TYPES = {
    "bool": (re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "int": (re.compile("^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), "-+0123456789"),
    "float": (
        re.compile(
            r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
}
"""Plain words that are more than words; the value ``null`` and the key ``<<`` are YAML's own."""
_REPLACED_TAGS = {f"{_YAML_PREFIX}{kind}" for kind in (*_IMPLICIT_TYPES, "timestamp", "merge")}
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _IMPLICIT_TYPES.items():
    _StrictLoader.add_implicit_resolver(f"{_YAML_PREFIX}{_kind}", _pattern, list(_first))


class StrictModel(BaseModel):
    """A mapping of a user's file: unknown keys are mistakes, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """``limit: true`` is not 1: pydantic would take it so."""
        kinds = _list_plain_types(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("a truth value is not a number")
        return value


def _list_plain_types(annotation: Any) -> set[Any]:
    """The types that an annotation is made of, but for those inside its containers."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return {kind for part in get_args(annotation) for kind in _list_plain_types(part)}
    return {annotation} if isinstance(annotation, type) else set()


def read_yaml(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; no tag can create an object.

    Args:
        path: The file.
        error: What to raise.

    Raises:
        UsageError: As ``error``: the file is missing, too large, not UTF-8, not YAML, or no mapping.
    """
    content = read_user_file(path, error=error, limit=MAX_YAML_BYTES)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error("the file is not UTF-8 text", where=str(path)) from None
    return parse_yaml(text, where=str(path), error=error)


def parse_yaml(text: str, *, where: str, error: type[UsageError]) -> dict[str, Any]:
    """Read YAML text that must hold a mapping.

    Raises:
        UsageError: As ``error``: not YAML, an alias, a key twice, or no mapping.
    """
    _check_depth(text, where, error)
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, stricter still
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        place = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(failure, "problem", None) or "it cannot be parsed"
        raise error(f"not valid YAML{place}: {problem}", where=where) from None
    except RecursionError:
        raise error(_DEPTH_MESSAGE, where=where) from None
    except (ValueError, OverflowError):  # an escape for a character that does not exist
        raise error("not valid YAML: a character that does not exist", where=where) from None
    if not isinstance(content, dict):
        raise error("the file must hold a mapping of keys to values", where=where)
    return content


def _check_depth(text: str, where: str, error: type[UsageError]) -> None:
    """Look for brackets inside brackets before the parser does, which takes the square of the depth in time.

    Brackets in quotes and comments count too: nobody has so many of them open.
    """
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_OPEN_BRACKETS:
            raise error(_DEPTH_MESSAGE, where=where, remedy="write it with fewer brackets")


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
            remedy = did_you_mean(str(problem["loc"][-1]), _list_known_keys(kind, problem["loc"][:-1]))
            raise error(f"unknown key {path!r}", where=where, remedy=remedy) from None
        got = problem.get("input")
        message = problem["msg"].removeprefix("Value error, ")
        if not path:  # a rule between several keys: the message names them
            raise error(message, where=where) from None
        shown = "" if problem["type"] == "missing" else f", got {str(got)[:60]!r}"
        raise error(f"{path}: {message[0].lower()}{message[1:]}{shown}", where=where) from None


def _list_known_keys(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping at ``place`` inside a model may have."""
    fields = kind.model_fields
    for step in place:
        if isinstance(step, str) and step in fields:
            inner = _find_model(fields[step].annotation)
            if inner is not None:
                fields = inner.model_fields
    return [field.alias or name for name, field in fields.items()]


def _find_model(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _find_model(part)
        if found is not None:
            return found
    return None
