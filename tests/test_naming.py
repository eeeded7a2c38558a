"""The rule of names: functions are verb and object, classes and files cannot be mistaken for one another."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_FILES = sorted((ROOT / "robustbench_local").rglob("*.py"))
FIELD_VERBS = frozenset(
    [
        "adapt",
        "add",
        "append",
        "attack",
        "backward",
        "begin",
        "certify",
        "clip",
        "close",
        "command",
        "compile",
        "configure",
        "copy",
        "decode",
        "defend",
        "emit",
        "encode",
        "evaluate",
        "fit",
        "forward",
        "get",
        "load",
        "main",
        "open",
        "parse",
        "perturb",
        "plan",
        "poll",
        "pop",
        "predict",
        "project",
        "propagate",
        "read",
        "render",
        "report",
        "reset",
        "resize",
        "resume",
        "run",
        "sample",
        "save",
        "search",
        "set",
        "start",
        "step",
        "stop",
        "submit",
        "train",
        "update",
        "validate",
        "verify",
        "wait",
        "warp",
        "wrap",
        "write",
    ]
)
"""Verbs that say enough alone, because the field or the class around them says of what."""
PROTOCOL_NAMES = frozenset({"emit", "fileno", "flush", "format", "isatty", "to"})
"""Methods that Python or torch calls, or users know, by this name."""
METAPHORS = frozenset(
    [
        "album",
        "barred",
        "convict",
        "crew",
        "crossing",
        "dodged",
        "exhibit",
        "film",
        "leap",
        "lesson",
        "looks",
        "mood",
        "roomy",
        "spared",
        "spending",
        "stranded",
        "told",
        "untouched",
        "workshop",
    ]
)
"""Words that a newcomer cannot guess or search for."""
SHARED_FILE_NAMES = frozenset({"__init__.py", "__main__.py", "base.py"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def iterate_functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, FunctionNode]]:
    """Functions of a module and methods of its classes, by qualified name; not those within functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from iterate_functions(node, f"{inside}{node.name}.")
        elif isinstance(node, FunctionNode):
            yield f"{inside}{node.name}", node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from iterate_functions(node, inside)


def is_property(function: FunctionNode) -> bool:
    """Whether it reads like a value, and so is named by a noun."""
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any(name.endswith(("property", ".setter")) for name in decorators)


def find_single_words(source: str) -> list[str]:
    """Functions and methods whose name is one word that says too little."""
    return [
        name
        for name, function in iterate_functions(ast.parse(source))
        if not (function.name.startswith("__") or is_property(function))
        if "_" not in function.name.strip("_")
        if function.name.strip("_") not in FIELD_VERBS | PROTOCOL_NAMES
    ]


def iterate_words(source: str) -> Iterator[tuple[str, str]]:
    """(identifier, word) of everything that is defined: classes, functions, parameters, fields, constants.

    Of a source without a metaphor, in whatever place, nothing is looked at: it takes long.
    """
    if not any(word in source.lower() for word in METAPHORS):
        return
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, FunctionNode | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.arg):
            names = [node.arg]
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names = [node.id]
        for name in names:
            for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
                yield name, word.lower()


def test_a_function_is_named_by_verb_and_object() -> None:
    violations = {
        str(path.relative_to(ROOT)): find_single_words(path.read_text("utf-8")) for path in PACKAGE_FILES
    }
    assert {path: names for path, names in violations.items() if names} == {}


def test_no_name_is_a_metaphor() -> None:
    violations = {
        str(path.relative_to(ROOT)): {
            name for name, word in iterate_words(path.read_text("utf-8")) if word in METAPHORS
        }
        for path in PACKAGE_FILES
    }
    assert {path: names for path, names in violations.items() if names} == {}


def test_the_rule_notices_what_it_forbids() -> None:
    source = (
        "def told(): ...\nclass Crew:\n    def looks(self): ...\n    @property\n    def size(self): ...\n"
    )
    assert find_single_words(source) == ["told", "Crew.looks"]
    assert {word for _, word in iterate_words(source)} & METAPHORS == {"told", "crew", "looks"}


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(list)
    for path in PACKAGE_FILES:
        for name in re.findall(r"^class ([^_\W]\w*)", path.read_text(encoding="utf-8"), re.MULTILINE):
            places[name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_a_search_can_tell_files_apart() -> None:
    places = defaultdict(list)
    for path in PACKAGE_FILES:
        if path.name not in SHARED_FILE_NAMES:
            places[path.name].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
