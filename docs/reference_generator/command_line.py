"""The page on the command line, from the application itself, and the page on exit codes."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any, get_type_hints

import typer

from reference_generator.docstrings import to_markdown
from reference_generator.tables import render_code, render_table
from reference_generator.types import describe_type
from robustbench_local import errors
from robustbench_local.cli import main as cli

EXIT_CODES = {
    0: "The command did its work, and every gate passed.",
    1: "A gate failed.",
    2: "The command line, a grid file, a card or a run directory cannot be used as it is.",
    3: "A model or data set cannot be loaded or used.",
    4: "The run is incomplete and the same command resumes it, or a gate is inconclusive.",
    5: "Refused for safety: a file could run code, unpacks to too much, or leads out of its folder.",
    70: "A bug in this package, or an attack contradicts a certificate. Use no number of the run.",
    130: "Interrupted. Everything committed is kept, and the same command resumes.",
}
"""What each exit code means."""


_HEAD = """# Command line

`rbl` and `robustbench-local` are the same program. The column *variable* names the environment variable that
sets an option.
"""


def write_command_page() -> str:
    """The whole page: one section for each command."""
    group = build_command_group()
    parts = [_HEAD, _render_parameters(group.params, {})]
    for name, command in group.commands.items():
        function = import_module(cli.COMMANDS[name]).command
        hints = get_type_hints(function, include_extras=True)
        usage = " ".join(filter(None, ["rbl", name, *map(_render_usage, command.params), "[OPTIONS]"]))
        parts += [
            f"## rbl {name}\n\n{_join_paragraphs(function.__doc__)}\n\n```text\n{usage}\n```\n",
            _render_parameters(command.params, hints),
        ]
        if missing := set(signature(function).parameters) - {p.name for p in command.params} - {"context"}:
            raise ValueError(f"rbl {name}: {missing} are not on the page")
    return "\n".join(parts)


def write_exit_code_page() -> str:
    """The exit codes, and which errors give them."""
    known = {**dict.fromkeys(EXIT_CODES, ""), **_list_error_names()}
    rows = [(render_code(code), EXIT_CODES[code], known[code]) for code in sorted(known)]
    return "# Exit codes\n\n" + render_table(("code", "meaning", "errors in Python"), rows)


def build_command_group() -> Any:
    """The application with all of its commands."""
    return typer.main.get_command(cli.build_app([]))


def _render_parameters(parameters: list[Any], hints: dict[str, Any]) -> str:
    rows = [
        (
            ", ".join(map(render_code, parameter.opts)),
            _describe_value(parameter, hints.get(parameter.name, bool)),
            render_code(parameter.envvar) if parameter.envvar else "",
            parameter.help or "",
        )
        for parameter in parameters
        if parameter.name != "help"
    ]
    head = ("option", "value", "variable", "meaning")
    return render_table(head, rows) if rows else "No options.\n"


def _describe_value(parameter: Any, hint: Any) -> str:
    """The type of an option's value, and its default; nothing for one that takes no value."""
    words = describe_type(hint)
    if words == "true or false":
        return ""
    if parameter.required:
        return f"{words}, required"
    return (
        words
        if parameter.default in (None, False, ())
        else f"{words}, by default {render_code(parameter.default)}"
    )


def _render_usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.name.upper()
        return name if parameter.required else f"[{name}]"
    return f"{parameter.opts[0]} ..." if parameter.required else ""


def _join_paragraphs(docstring: str) -> str:
    paragraphs = docstring.strip().split("\n\n")
    return to_markdown("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))


def _list_error_names() -> dict[int, str]:
    names: dict[int, list[str]] = {}
    pending = [errors.RobustbenchError]
    while pending:
        error = pending.pop(0)
        names.setdefault(error.exit_code, []).append(render_code(error.__name__))
        pending += error.__subclasses__()
    return {code: ", ".join(dict.fromkeys(classes)) for code, classes in names.items()}
