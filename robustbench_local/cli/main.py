"""The entry point of the command line: ``rbl`` and ``robustbench-local``.

Every error becomes one line on standard error and an exit code: 0 pass, 1 gate failed, 2 usage, 3 model or
data, 4 incomplete or inconclusive, 5 refused, 70 internal, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from robustbench_local.cli.interrupt import cancel_repeat, install_signal_handlers, is_interrupt_pending
from robustbench_local.cli.json_output import release_stdout
from robustbench_local.cli.malloc import keep_freed_memory
from robustbench_local.cli.terminal_output import echo_line, escape_unencodable
from robustbench_local.errors import IncompleteError, ModelError, RobustbenchError

PROGRAM_NAMES = ("rbl", "robustbench-local")
"""The names of the program's scripts."""
INTERRUPTED_EXIT_CODE = 130
INTERNAL_EXIT_CODE = 70
USER_MODULE_PREFIX = "robustbench_local_user_"
"""Prefix of the modules that ``python:`` models were made from."""
INTERRUPTED_MESSAGE = "interrupted; all committed results are kept, and the same command resumes"

COMMANDS = {
    "run": "robustbench_local.cli.run_command",
    "report": "robustbench_local.cli.report_command",
    "export": "robustbench_local.cli.export_command",
    "gate": "robustbench_local.cli.gate_command",
    "compare": "robustbench_local.cli.compare_command",
    "merge": "robustbench_local.cli.merge_command",
    "bundle": "robustbench_local.cli.bundle_command",
    "verify": "robustbench_local.cli.verify_command",
    "init": "robustbench_local.cli.init_command",
    "check-data": "robustbench_local.cli.check_data_command",
    "train": "robustbench_local.cli.train_command",
    "list": "robustbench_local.cli.list_command",
    "show": "robustbench_local.cli.show_command",
    "serve": "robustbench_local.cli.serve_command",
    "load-test": "robustbench_local.cli.load_test_command",
    "attack-score": "robustbench_local.cli.attack_score_command",
    "view": "robustbench_local.cli.view_command",
    "doctor": "robustbench_local.cli.doctor_command",
}
"""Each command's module, whose ``command`` it is."""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Build the command line with the commands that the arguments can mean.

    Args:
        arguments: The user's arguments. Commands that are not among them are not imported: ``rbl gate`` does
            not wait seconds for torch.
    """
    app = typer.Typer(
        name="rbl",
        help="Measure the adversarial robustness of image classifiers, with confidence intervals.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback(invoke_without_command=True)(set_options)
    everything = () if arguments[:1] == ["--version"] else COMMANDS
    for name in [name for name in COMMANDS if name in arguments] or everything:
        app.command(name)(import_module(COMMANDS[name]).command)
    return app


def set_options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="RBL_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Evaluate the adversarial robustness of image classifiers."""
    if debug:
        os.environ["RBL_DEBUG"] = "1"
    if version:
        from importlib import metadata  # noqa: PLC0415 - it takes longer than all the rest of a help text

        echo_line(f"robustbench-local {metadata.version('robustbench-local')}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    install_signal_handlers()
    escape_unencodable()
    keep_freed_memory()
    _exit_process(run_command(sys.argv[1:]))


def _exit_process(code: int) -> NoReturn:
    """End this process; if user code ran, nothing that it left behind can change the exit."""
    if not any(name.startswith(USER_MODULE_PREFIX) for name in sys.modules):
        sys.exit(code)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def run_command(arguments: list[str]) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name.

    Returns:
        The exit code; messages have been printed.
    """
    try:
        app = build_app(arguments)
        result = app(arguments or ["--help"], prog_name=_find_program_name(), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        cancel_repeat()
        return _print_error(INTERRUPTED_MESSAGE, INTERRUPTED_EXIT_CODE)
    except RobustbenchError as error:
        return _print_error(str(error), error.exit_code)
    except BrokenPipeError:
        return _close_stdout()
    except BaseException as error:  # noqa: BLE001 - the last line of defence: no traceback reaches a user unasked
        return _report_unexpected(error, arguments)
    finally:
        release_stdout()
    cancel_repeat()
    if result == INTERRUPTED_EXIT_CODE:  # typer turns Ctrl-C into its own exit
        return _print_error(INTERRUPTED_MESSAGE, INTERRUPTED_EXIT_CODE)
    return result if isinstance(result, int) else 0


def _find_program_name() -> str:
    """Return the name that this program was called by, which completion depends on."""
    name = Path(sys.argv[0]).name
    return name if name in PROGRAM_NAMES else PROGRAM_NAMES[0]


def is_completion(arguments: Sequence[str]) -> bool:
    """Check whether a shell asks for completions, or its user for the script that does so."""
    names = (name.replace("-", "_").upper() for name in PROGRAM_NAMES)
    requested = any(os.environ.get(f"_{name}_COMPLETE") for name in names)
    return requested or any(word in {"--install-completion", "--show-completion"} for word in arguments[:1])


def _close_stdout() -> int:
    """Close standard output after its reader has closed it, which is no error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _report_unexpected(error: BaseException, arguments: Sequence[str]) -> int:
    """Report an interrupt in disguise, a usage error (typer's own exceptions), a bug, or an escaped exit."""
    if is_interrupt_pending():
        cancel_repeat()
        return _print_error(INTERRUPTED_MESSAGE, INTERRUPTED_EXIT_CODE)
    if isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError):
        return _close_stdout()  # typer leaves so
    if isinstance(error, SystemExit) and is_completion(arguments):
        return error.code if isinstance(error.code, int) else 0
    if not isinstance(error, Exception):  # no command of ours leaves so
        return _print_error(_describe_escape(error), ModelError.exit_code)
    message = getattr(error, "format_message", None)
    if callable(message):
        remedy = "" if not getattr(error, "ctx", None) else f" See '{error.ctx.command_path} --help'."  # type: ignore[attr-defined]
        return _print_error(f"{message()}{remedy}", 2)
    return _print_error(*_describe_failure(error))


def _describe_failure(error: Exception) -> tuple[str, int]:
    """Return the line and the exit code of an exception that no command expects."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    if _means_lack_of_memory(error):
        remedy = "End other programs, or give it more memory, fewer --workers or a smaller --batch-size"
        kept = "the same command goes on with what is missing"
        return f"memory ran out ({line[:200]}). {remedy}; {kept}", IncompleteError.exit_code
    return (
        f"internal error: {line}. Run again with --debug and report the traceback",
        INTERNAL_EXIT_CODE,
    )


def _means_lack_of_memory(error: Exception) -> bool:
    """Return whether memory ran out, for torch or before it was even imported."""
    if isinstance(error, ImportError):  # of a shared library
        return any(sign in str(error).lower() for sign in ("cannot allocate memory", "failed to map segment"))
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    from robustbench_local.classifier.foreign_errors import is_out_of_memory  # noqa: PLC0415 - it imports torch

    return is_out_of_memory(error)


def _describe_escape(escape: BaseException) -> str:
    """Describe an exception meant to end a process, raised by a model or a library."""
    shown = f"called sys.exit({escape.code!r})" if isinstance(escape, SystemExit) else f"raised {escape!r}"
    return f"a model or a library {shown}; unfinished work is not evaluated"


def _print_error(line: str, code: int) -> int:
    """Print one line on standard error, after the traceback if asked for."""
    if os.environ.get("RBL_DEBUG") and sys.exc_info()[0] is not None:
        for shown in traceback.format_exc().splitlines():
            echo_line(shown, error=True)
    kind = "" if code == INTERRUPTED_EXIT_CODE else "error: "
    with suppress(OSError):  # the terminal may be gone
        echo_line(" ".join(f"rbl: {kind}{line}".split()), error=True)
    return code
