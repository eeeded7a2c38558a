"""Mutants of the functions of a module: one small change of the syntax tree each.

The changes are those of the literature on mutation testing (Offutt et al., "An experimental determination of
sufficient mutant operators", 1996; Mathur, "Foundations of Software Testing", 2008), without those of
messages and type hints.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from types import CodeType

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
OPPOSITE_CALLS = {"all": "any", "any": "all", "min": "max", "max": "min", "amin": "amax", "amax": "amin"}
OPPOSITE_CALLS |= {"clamp_min": "clamp_max", "argmax": "argmin", "zeros": "ones", "ones": "zeros"}
IDENTITY_CALLS = ("clone", "abs", "suppress")
SYMMETRIC_CALLS = ("min", "max", "minimum", "maximum", "equal")
SKIPPED_KEYWORDS = ("remedy", "where", "device", "strict")
"""Messages, what a machine without a GPU cannot tell, and the lengths that `zip` asserts."""
CHECKED_STRINGS = ("status", "measure", "kind", "condition")
NO_CODE_FIELDS = ("annotation", "returns", "decorator_list", "args")
MAX_NAME_CHARACTERS, CONTEXT_CHARACTERS = 72, 24


@dataclass(frozen=True, kw_only=True)
class CodeMutant:
    """A changed function of a module."""

    file: str
    """Name of the module's file."""
    function: str
    """Qualified name of the outermost function around the change."""
    line: int
    before: str
    after: str
    tree: ast.Module
    """The module, which `compile_function` changes for a moment."""
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST
    """What stands in place of the parent's field, or of one of its elements."""
    number: int = 1
    """Number among the mutants of the function that read the same."""

    @property
    def name(self) -> str:
        """A name that stays as long as the function does."""
        again = f" #{self.number}" if self.number > 1 else ""
        return f"{self.file} {self.function}: {self.before} -> {self.after}{again}"

    def compile_function(self, path: str) -> CodeType:
        """Return the code of the changed function.

        Args:
            path: The file name in the code.
        """
        original = _swap(self.parent, self.field, self.index, self.node)
        try:
            module = compile(self.tree, path, "exec")
        finally:
            _swap(self.parent, self.field, self.index, original)
        return next(code for code in _list_codes(module) if code.co_qualname == self.function)


def list_mutants(file: Path) -> list[CodeMutant]:
    """List the mutants of all functions of a module, in the order of their lines."""
    tree = ast.parse(file.read_text("utf-8"))
    seen: Counter[str] = Counter()
    mutants = []
    for name, function in _list_functions(tree, ""):
        for parent, field, index, node in _list_changes(function):
            context = parent if isinstance(parent, ast.expr | ast.keyword | ast.withitem) else None
            before = _format(context or _get(parent, field, index))
            original = _swap(parent, field, index, node)
            after = _format(context or node)
            _swap(parent, field, index, original)
            before, after = _shorten(before, after)
            line = getattr(original, "lineno", getattr(parent, "lineno", function.lineno))
            mutant = CodeMutant(
                file=file.name, function=name, line=line, before=before, after=after, tree=tree,
                parent=parent, field=field, index=index, node=node,
            )  # fmt: skip
            if before != after:
                seen[mutant.name] += 1
                mutants.append(replace(mutant, number=seen[mutant.name]))
    return sorted(mutants, key=lambda mutant: mutant.line)


Function = ast.FunctionDef | ast.AsyncFunctionDef
Change = tuple[ast.AST, str, int | None, ast.AST]
"""Parent, field, element of the field or None, and what to put there."""


def _list_functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _list_functions(node, f"{prefix}{node.name}.")


def _list_changes(function: Function) -> Iterator[Change]:
    names = Counter(node.id for node in ast.walk(function) if _is_store(node))
    is_boolean = isinstance(function.returns, ast.Name) and function.returns.id == "bool"
    for index, statement in enumerate(function.body):
        yield from _list_node_changes(function, "body", index, statement, names, is_boolean)


def _is_store(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _list_node_changes(
    parent: ast.AST, field: str, index: int | None, node: ast.AST, names: Counter[str], is_boolean: bool
) -> Iterator[Change]:
    """List the changes of a node and of everything below it."""
    if _is_message(parent, field, node):
        return
    for new in (*_change_statement(node, names, is_boolean), *_change_expression(parent, node)):
        yield parent, field, index, ast.fix_missing_locations(ast.copy_location(new, node))
    yield from _change_lists(node)
    if isinstance(node, ast.Raise):
        return
    for child_field, value in ast.iter_fields(node):
        if child_field in NO_CODE_FIELDS and not isinstance(node, ast.Call):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for child_index, child in children:
            if isinstance(child, ast.AST):
                yield from _list_node_changes(node, child_field, child_index, child, names, is_boolean)


def _is_message(parent: ast.AST, field: str, node: ast.AST) -> bool:
    """Check for text that people read, and for docstrings."""
    is_text = isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS
    )
    return is_text or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _change_statement(node: ast.AST, names: Counter[str], is_boolean: bool) -> Iterator[ast.AST]:
    """Yield what may stand in place of a statement."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    is_rebinding = bool(targets) and all(
        names[name.id] > 1 for target in targets for name in ast.walk(target) if _is_store(name)
    )
    is_yield = isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom)
    is_effect = isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Continue | ast.Break)
    if (is_effect and not is_yield) or is_rebinding:
        # the statement stays where it never runs: its names keep their scope
        yield ast.If(test=ast.Constant(False), body=[node], orelse=[])
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        value = ast.UnaryOp(ast.Not(), node.value) if is_boolean else ast.Constant(None)
        yield ast.Return(value=value)
    if isinstance(node, ast.If):
        for value in (True, False):
            yield ast.If(test=ast.Constant(value), body=node.body, orelse=node.orelse)
    if isinstance(node, ast.While):
        yield ast.While(test=ast.Constant(False), body=node.body, orelse=node.orelse)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _change_expression(parent: ast.AST, node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in place of an expression."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                operators = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                yield ast.Compare(left=node.left, ops=operators, comparators=node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield ast.BinOp(left=node.left, op=ARITHMETIC[type(node.op)](), right=node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        yield ast.AugAssign(target=node.target, op=ARITHMETIC[type(node.op)](), value=node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(op=ast.Or() if isinstance(node.op, ast.And) else ast.And(), values=node.values)
        for place in range(len(node.values)):
            rest = [*node.values[:place], *node.values[place + 1 :]]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from _change_constant(parent, node)
    elif isinstance(node, ast.Call):
        yield from _change_call(node)


def _change_constant(parent: ast.AST, node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield from (ast.Constant(value + 1), ast.Constant(value - 1))
    elif isinstance(value, str):
        decides = isinstance(parent, ast.Compare | ast.IfExp)
        if decides or (isinstance(parent, ast.keyword) and parent.arg in CHECKED_STRINGS):
            yield ast.Constant(f"not {value}")


def _change_call(node: ast.Call) -> Iterator[ast.AST]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in OPPOSITE_CALLS:
        other = OPPOSITE_CALLS[name]
        renamed = (
            ast.Attribute(value=function.value, attr=other, ctx=ast.Load())
            if isinstance(function, ast.Attribute)
            else ast.Name(id=other, ctx=ast.Load())
        )
        yield ast.Call(func=renamed, args=node.args, keywords=node.keywords)
    if name in IDENTITY_CALLS and isinstance(function, ast.Attribute) and not node.args:
        yield function.value
    first = node.args[:2]
    if (
        len(first) == 2
        and name not in SYMMETRIC_CALLS
        and not any(isinstance(value, ast.Starred) for value in first)
    ):
        swapped = [first[1], first[0], *node.args[2:]]
        yield ast.Call(func=function, args=swapped, keywords=node.keywords)
    for place, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, *SKIPPED_KEYWORDS):
            rest = [*node.keywords[:place], *node.keywords[place + 1 :]]
            yield ast.Call(func=function, args=node.args, keywords=rest)


def _change_lists(node: ast.AST) -> Iterator[Change]:
    """Yield the changes of a list below a node: a condition of a comprehension, a context of a `with`."""
    if isinstance(node, ast.comprehension):
        for place, condition in enumerate(node.ifs):
            yield node, "ifs", place, ast.copy_location(ast.Constant(True), condition)
    if isinstance(node, ast.With):
        for place, item in enumerate(node.items):
            if item.optional_vars is None:
                nothing = ast.Call(
                    func=ast.Attribute(
                        value=ast.Call(
                            func=ast.Name(id="__import__", ctx=ast.Load()),
                            args=[ast.Constant("contextlib")],
                            keywords=[],
                        ),
                        attr="nullcontext",
                        ctx=ast.Load(),
                    ),
                    args=[],
                    keywords=[],
                )
                new = ast.withitem(context_expr=ast.copy_location(nothing, item.context_expr))
                yield node, "items", place, ast.fix_missing_locations(new)


def _get(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if index is None else value[index]


def _swap(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> ast.AST:
    """Put a node in a place; return the one that stood there."""
    original = _get(parent, field, index)
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
    return original


def _format(node: ast.AST) -> str:
    """Return the first line of a node as source; of a block, its head."""
    text = ast.unparse(node).strip()
    if isinstance(node, ast.If) and isinstance(node.test, ast.Constant) and node.test.value is False:
        is_deleted = len(node.body) == 1 and not node.orelse
        text = "(deleted)" if is_deleted and not isinstance(node.body[0], ast.If) else text
    return text.splitlines()[0]


def _shorten(before: str, after: str) -> tuple[str, str]:
    """Cut two long texts around what differs."""
    if max(len(before), len(after)) <= MAX_NAME_CHARACTERS:
        return before, after
    start = _count_common(before, after)
    end = _count_common(before[start:][::-1], after[start:][::-1])
    first, last = max(0, start - CONTEXT_CHARACTERS), max(0, end - CONTEXT_CHARACTERS)
    return tuple(text[first : len(text) - last] for text in (before, after))


def _count_common(first: str, second: str) -> int:
    """Count the characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _list_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _list_codes(constant)
