"""User-written YAML files: safe parsing, strict validation, and suggestions for wrong keys."""

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
"""Size limit of a grid or card; anything larger is a mistake or an attack."""

MAX_YAML_DEPTH = 64
"""Deepest nesting of lists and mappings."""
MAX_OPEN_BRACKETS = 1000
"""Most brackets that may be open at once, quoted or not."""
_BRACKETS = re.compile(r"[\[\]{}]")

Parsed = TypeVar("Parsed", bound="StrictModel")


class _StrictLoader(yaml.SafeLoader):
    """A YAML loader for data only: no duplicate keys, no aliases, no tags that create objects.

    Only true and false are booleans; ``on`` is a string. Dates, times of day, base-60 numbers and numbers
    with a leading zero are strings too: in YAML 1.1 ``010`` would be 8 and ``1:30`` would be 90.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            # nested aliases multiply: a few lines can expand to a billion nodes
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
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = "a key is a list or a mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in keys:
                problem = f"the key {key!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            keys.add(key)
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
    """Base of the models of user files: unknown keys are errors, and instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean for a number: pydantic would accept ``limit: true`` as 1."""
        kinds = _list_plain_types(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise ValueError("a boolean is not a number")
        return value


def _list_plain_types(annotation: Any) -> set[Any]:
    """Return the types of an annotation's alternatives, without those inside its containers."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return {kind for part in get_args(annotation) for kind in _list_plain_types(part)}
    return {annotation} if isinstance(annotation, type) else set()


def read_yaml(path: Path, error: type[UsageError]) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping; no tag can create an object.

    Args:
        path: The file.
        error: The class of error to raise.

    Raises:
        UsageError: As ``error``, if the file is missing, too large, not UTF-8, not YAML, or not a mapping.
    """
    content = read_user_file(path, error=error, limit=MAX_YAML_BYTES)
    return decode_yaml(content, where=str(path), error=error)


def decode_yaml(content: bytes, *, where: str, error: type[UsageError]) -> dict[str, Any]:
    """Parse the bytes of a YAML file that must hold a mapping.

    Raises:
        UsageError: As ``error``, if they are not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise error("the file is not UTF-8 text", where=where) from None
    return parse_yaml(text, where=where, error=error)


def parse_yaml(text: str, *, where: str, error: type[UsageError]) -> dict[str, Any]:
    """Parse YAML text that must hold a mapping.

    Raises:
        UsageError: As ``error``, if it is not YAML, has an alias or a duplicate key, or is not a mapping.
    """
    _check_depth(text, where, error)
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader, stricter still
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        position = f" in line {mark.line + 1}" if mark is not None else ""
        problem = getattr(failure, "problem", None) or "it cannot be parsed"
        raise error(f"not valid YAML{position}: {problem}", where=where) from None
    except RecursionError:
        raise error(_DEPTH_MESSAGE, where=where) from None
    except (ValueError, OverflowError):  # an escape for a character that does not exist
        raise error("not valid YAML: a character that does not exist", where=where) from None
    if not isinstance(content, dict):
        raise error("the file must hold a mapping of keys to values", where=where)
    return content


def find_item_lines(text: str, key: str) -> tuple[int, ...]:
    """Find the line of each item of a list at the top of a YAML file, for messages that point there.

    Args:
        text: YAML that `parse_yaml` accepts.
        key: Key of the list.

    Returns:
        Lines, from 1, in the order of the items; none if there is no such list.
    """
    root = yaml.compose(text, Loader=_StrictLoader)
    for key_node, value_node in root.value if isinstance(root, yaml.MappingNode) else ():
        if key_node.value == key and isinstance(value_node, yaml.SequenceNode):
            return tuple(item.start_mark.line + 1 for item in value_node.value)
    return ()


def _check_depth(text: str, where: str, error: type[UsageError]) -> None:
    """Refuse deeply nested brackets before parsing, whose time grows with the square of the depth.

    Brackets in quotes and comments count too: no sensible file has so many of them open.
    """
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_OPEN_BRACKETS:
            raise error(_DEPTH_MESSAGE, where=where, remedy="write it with fewer brackets")


def validate(
    kind: type[Parsed], content: Mapping[str, Any], *, where: str, error: type[UsageError]
) -> Parsed:
    """Validate a mapping against its model.

    Args:
        kind: The model.
        content: What the user wrote.
        where: The file, for the message.
        error: The class of error to raise.

    Raises:
        UsageError: As ``error``, naming the first wrong key, its position and the closest valid key.
    """
    try:
        return kind.model_validate(dict(content))
    except ValidationError as failure:
        problem = min(failure.errors(include_url=False), key=lambda error: error["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            remedy = did_you_mean(str(problem["loc"][-1]), _list_known_keys(kind, problem["loc"][:-1]))
            raise error(f"unknown key {path!r}", where=where, remedy=remedy) from None
        got = problem.get("input")
        message = problem["msg"].removeprefix("Value error, ")
        if not path:  # a rule between several keys: the message names them
            raise error(message, where=where) from None
        received = "" if problem["type"] == "missing" else f", got {str(got)[:60]!r}"
        raise error(f"{path}: {message[0].lower()}{message[1:]}{received}", where=where) from None


def _list_known_keys(kind: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the valid keys of a mapping at ``path`` inside a model."""
    fields = kind.model_fields
    for step in path:
        if isinstance(step, str) and step in fields:
            inner = _find_model(fields[step].annotation)
            if inner is not None:
                fields = inner.model_fields
    return [field.alias or name for name, field in fields.items()]


def _find_model(annotation: Any) -> type[BaseModel] | None:
    """Return the first pydantic model inside a type annotation, or None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        model = _find_model(part)
        if model is not None:
            return model
    return None
