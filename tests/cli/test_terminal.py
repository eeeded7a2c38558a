"""A run at a real terminal: a pseudo-terminal whose bytes are looked at, and an interrupt in the middle."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from held_attack import add_held_attack

ROOT = Path(__file__).parents[2]
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
ALLOWED_ESCAPE = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
COMMAND = [
    *(sys.executable, "-m", "robustbench_local.cli", "run", "grid.yaml", "--out", "out"),
    *("--device", "cpu", "--batch-size", "16", "--workers", "1"),
]


def run_at_terminal(*, columns, options=(), stop_at=None, environment=None):
    """Run the grid at a terminal; return the exit code and everything that it got.

    Args:
        columns: Width of the terminal.
        options: More options of the command.
        stop_at: Ctrl-C is pressed once this text has appeared.
        environment: More variables.
    """
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
        **(environment or {}),
    }
    process = subprocess.Popen(
        [*COMMAND, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    received, has_stopped = b"", False
    try:
        while piece := os.read(mine, 65536):
            received += piece
            if stop_at is not None and not has_stopped and stop_at.encode() in received:
                has_stopped = True
                process.send_signal(signal.SIGINT)
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(mine)
    return process.wait(), received.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [40, 120])
def test_the_table_is_drawn_and_taken_away_again(workplace, columns):
    code, shown = run_at_terminal(columns=columns)
    assert code == 0
    assert "6 cells: " in shown
    assert re.search(r"cell \d of 6", shown)
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    end = shown[shown.index(SHOW_CURSOR) :]
    assert "cell 6 of 6" not in end
    assert "the attacks took" in end
    assert not re.search(r"[\x00-\x07\x0b\x0e-\x1a\x7f]", ALLOWED_ESCAPE.sub("", shown))


@pytest.mark.slow
def test_an_interrupt_leaves_the_terminal_clean_and_the_same_command_goes_on(workplace):
    add_held_attack(workplace)
    code, shown = run_at_terminal(columns=80, options=["--allow-code"], stop_at="cell 4 of 8")
    assert code == 130, shown
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) == 1
    end = shown[shown.index(SHOW_CURSOR) :]
    assert "image-attacks done and kept" in end
    assert "the same command resumes" in end
    Path("hold").unlink()
    code, shown = run_at_terminal(columns=80, options=["--allow-code"])
    assert code == 0
    assert re.search(r"resumed: \d of 8 cells and \d+ of 320 image-attacks", shown)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "escapes"), [({"TERM": "dumb"}, set()), ({"NO_COLOR": "1"}, {"A", "K", "h", "l", "m"})]
)
def test_simple_terminals(workplace, environment, escapes):
    code, shown = run_at_terminal(columns=80, environment=environment)
    assert code == 0
    assert "6/6" in shown
    found = {escape[-1] for escape in ALLOWED_ESCAPE.findall(shown)}
    assert found <= escapes
    assert not re.search(r"\x1b\[[\d;]*3\dm", shown)  # no colour
