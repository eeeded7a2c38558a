"""Types of Python annotations in words a reader of YAML or of a command line understands."""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", Any: "any"}
_LIMITS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}


def describe_type(annotation: Any) -> str:
    """An annotation in words; None is left out, because the default shows it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(parts[0]) + _describe_limits(parts[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in parts)
    words = [describe_type(part) for part in parts if part not in (NoneType, ...)]
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(words))
    if origin in (list, tuple):
        return f"list of {', '.join(words)}"
    if origin is dict:
        return f"mapping from {words[0]} to {words[1]}"
    return _name_type(annotation)


def _name_type(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = name_model(annotation)
        return f"[{name}](#{name.replace(' ', '-').lower()})"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def describe_field(field: FieldInfo) -> str:
    """The type of a pydantic field, with its limits."""
    return describe_type(field.annotation) + _describe_limits(field.metadata)


def list_models(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in list_models(part)]


def name_model(model: type[BaseModel]) -> str:
    """The name of a model in words: DataEntry is a data entry."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", model.__name__).capitalize()


def _describe_limits(metadata: Any) -> str:
    limits = []
    for entry in metadata:
        for part in entry.metadata if isinstance(entry, FieldInfo) else (entry,):
            if type(part) in _LIMITS:
                sign, name = _LIMITS[type(part)]
                limits.append(f"{sign} {getattr(part, name):g}")
            elif isinstance(part, MaxLen):
                limits.append(f"at most {part.max_length} characters")
    return f" ({', '.join(limits)})" if limits else ""
