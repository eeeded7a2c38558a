"""What the code says about itself: docstrings of classes, of their fields and of their arguments."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from functools import cache

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Source|Sources|Yields|Example|Note)s?:")
_ARGUMENT = re.compile(r"^(\w+): (.*)$")


@cache
def read_field_docs(kind: type) -> dict[str, str]:
    """The string below each annotated field of a class and of its bases, by field name."""
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(owner))
        except (OSError, TypeError):  # built-in classes have no source
            continue
        body = ast.parse(source).body[0].body
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and _is_string(below):
                docs[ast.unparse(field.target)] = _join_lines(below.value.value)
    return docs


@cache
def read_parameter_docs(kind: type) -> dict[str, str]:
    """The ``Args:`` and ``Attributes:`` of the docstrings of a class and of its bases, by name."""
    docs: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        docs.update(_parse_arguments(inspect.cleandoc(owner.__doc__ or "")))
    return docs


def read_summary(documented: object) -> str:
    """The first paragraph of a docstring, as one line."""
    return _join_lines(inspect.getdoc(documented).split("\n\n")[0])


def to_markdown(text: str) -> str:
    """A sentence of a docstring as Markdown: roles and double backquotes become code."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", text)
    return text.replace("``", "`")


def _parse_arguments(docstring: str) -> dict[str, str]:
    arguments: dict[str, list[str]] = {}
    is_inside, current = False, ""
    for line in docstring.splitlines():
        if _SECTION.match(line):
            is_inside = line.startswith(("Args:", "Attributes:"))
        elif is_inside and (match := _ARGUMENT.match(line.removeprefix("    "))) and line.startswith("    "):
            current = match[1]
            arguments[current] = [match[2]]
        elif is_inside and line.startswith("        ") and current:
            arguments[current].append(line)
    return {name: _join_lines("\n".join(lines)) for name, lines in arguments.items()}


def _is_string(node: ast.stmt) -> bool:
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


def _join_lines(text: str) -> str:
    return " ".join(text.split())
