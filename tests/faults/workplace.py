"""Where a fault is tried: a folder with a small grid, and the command line run in it as a user would."""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

CLASSES = 4
IMAGE_COUNT = 24
"""Images in the small data set."""
CONTROL_CHARACTERS = {chr(code) for code in (*range(32), *range(127, 160))} - set("\n\t\r")
"""Characters that a terminal obeys."""
LIMIT_SECONDS = 90.0
"""A command that takes longer has hung, whatever the load of the machine."""

GRID = """\
schema: 1
name: small
seed: 3
data: {source: "npz:images.npz"}
models:
  - {id: plain, source: "python:net.py:make", num_classes: 4}
attacks:
  - {card: pgd50-linf-8, steps: 6}
gates:
  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: estimate}
"""
NET = """\
import torch
from pathlib import Path
from safetensors.torch import load_file
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 4))

    def forward(self, x):
        return self.body(x)

def make():
    net = Net()
    net.load_state_dict(load_file(Path(__file__).parent / "net.safetensors"))
    return net
"""
MAKE_ODD = """

def make_odd():
    net = Odd()
    net.load_state_dict(load_file(Path(__file__).parent / "net.safetensors"))
    return net
"""
"""What loads the network's weights into a class ``Odd``: it follows the class in a model's file."""
RUN_FLAGS = ("--device", "cpu", "--workers", "1", "--batch-size", "8", "--allow-code")


class DeviationError(Exception):
    """The tool did something else than is specified."""


@dataclass(frozen=True)
class CommandResult:
    """What a command left behind."""

    code: int
    """Exit code; minus the signal if one ended it."""
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        """All that a user saw."""
        return self.stdout + self.stderr

    def expect_code(self, *codes: int) -> CommandResult:
        """Complain unless the exit code is one of these."""
        if self.code not in codes:
            raise DeviationError(
                f"exit code {self.code}, not {' or '.join(map(str, codes))}: {self.format_tail()}"
            )
        return self

    def expect_words(self, *words: str) -> CommandResult:
        """Complain unless each of these stands somewhere in what was said."""
        flat = " ".join(self.output.split()).lower()
        for word in words:
            if word.lower() not in flat:
                raise DeviationError(f"nothing is said of {word!r}: {self.format_tail()}")
        return self

    def format_tail(self) -> str:
        """The end of what was said, as one line."""
        return " ".join((self.stderr or self.stdout).split())[-300:]


class FaultWorkspace:
    """A folder with a network, images and a grid.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.write_file("net.py", NET)
        self.write_file("grid.yaml", GRID)
        save_file(make_network().state_dict(), folder / "net.safetensors")
        np.savez(folder / "images.npz", **make_images())

    def write_file(self, name: str, text: str | bytes) -> Path:
        """A file in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        return path

    def write_model(self, body: str, *, name: str = "odd", extra: str = "") -> None:
        """A second model in the grid whose file begins with the plain network's and goes on with ``body``."""
        self.write_file(f"{name}.py", NET + "\n" + body)
        line = f'  - {{id: {name}, source: "python:{name}.py:make_odd", num_classes: 4{extra}}}\n'
        self.edit_grid("attacks:\n", f"{line}attacks:\n")

    def edit_grid(self, old: str, new: str) -> None:
        """Replace text of the grid file, which has to be there."""
        text = (self.folder / "grid.yaml").read_text(encoding="utf-8")
        if old not in text:
            raise ValueError(f"the grid has no {old!r}")
        self.write_file("grid.yaml", text.replace(old, new, 1))

    def run(self, *arguments: str, out: str = "out", limit: float = LIMIT_SECONDS) -> CommandResult:
        """``rbl run grid.yaml`` with the usual flags."""
        return self.run_command("run", "grid.yaml", *RUN_FLAGS, "--out", out, *arguments, limit=limit)

    def run_command(
        self, *arguments: str, limit: float = LIMIT_SECONDS, address_space_mib: int | None = None
    ) -> CommandResult:
        """Any command, with what holds for all of them: an end, no traceback, one line that says why not."""
        result = CommandProcess(self.folder, arguments, address_space_mib).wait(limit)
        check_output(result)
        return result

    def start(self, *arguments: str) -> CommandProcess:
        """A command that goes on by itself."""
        return CommandProcess(self.folder, arguments)

    def read_results(self, out: str = "out") -> dict[str, Any]:
        """What the run's report says, by machine."""
        found: dict[str, Any] = json.loads((self.folder / out / "results.json").read_text("utf-8"))
        return found

    def find_cell(self, model: str, attack: str = "pgd50-linf-8", out: str = "out") -> dict[str, Any]:
        """One cell of the results."""
        cells = [
            c
            for c in self.read_results(out)["cells"]
            if c["model"] == model and c["attack"].startswith(attack)
        ]
        if len(cells) != 1:
            raise DeviationError(f"{len(cells)} cells of {model} and {attack} in results.json")
        found: dict[str, Any] = cells[0]
        return found

    def read_robust_accuracy(self, model: str, attack: str = "pgd50-linf-8", out: str = "out") -> float:
        """Robust accuracy of a cell."""
        value = self.find_cell(model, attack, out)["robust_accuracy"]["value"]
        if value is None:
            raise DeviationError(f"no robust accuracy of {model} and {attack}")
        return float(value)

    def read_rows(self, model: str, out: str = "out") -> list[dict[str, str]]:
        """The rows of outcomes.csv about one model."""
        with (self.folder / out / "outcomes.csv").open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if row["model"] == model]


class CommandProcess:
    """The command line in a process of its own, forked from this one, which has imported everything.

    Args:
        folder: Where it works.
        arguments: The command line without the program's name.
        address_space_mib: Address space that it may take beyond what it begins with; None: no limit.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], address_space_mib: int | None = None) -> None:
        self._logs = (folder / ".stdout", folder / ".stderr")
        self._began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _run_command_in_child(folder, arguments, self._logs, address_space_mib)

    def send_signal(self, kind: signal.Signals) -> None:
        """Send a signal to the command alone."""
        os.kill(self.pid, kind)

    def has_ended(self) -> bool:
        """Whether it has ended, which is left to `wait` to read."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self, limit: float = LIMIT_SECONDS) -> CommandResult:
        """Its result; whatever is left of its process group ends with it.

        Raises:
            DeviationError: If it has not ended by the limit, in seconds.
        """
        hung = False
        while not self.has_ended():
            if time.monotonic() - self._began > limit:
                hung = True
                break
            time.sleep(0.01)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        stdout, stderr = (path.read_bytes().decode("utf-8", "backslashreplace") for path in self._logs)
        code = os.waitstatus_to_exitcode(status)
        result = CommandResult(code, stdout, stderr, time.monotonic() - self._began)
        if hung:
            raise DeviationError(f"hangs for more than {limit:.0f} s: {result.format_tail()}")
        return result


def _run_command_in_child(
    folder: Path, arguments: Sequence[str], logs: tuple[Path, Path], address_space_mib: int | None
) -> NoReturn:
    """The forked child: the command line, and nothing of this process's end."""
    code = 99
    try:
        os.setsid()
        os.chdir(folder)
        for descriptor, path in zip((1, 2), logs, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv = ["rbl", *arguments]
        os.environ.pop("RBL_DEBUG", None)
        os.environ["RBL_CACHE"] = str(folder / ".cache")
        from robustbench_local.cli.main import main

        if address_space_mib is not None:
            _limit_address_space(address_space_mib)
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001 - whatever comes here is a deviation, to be read by the parent
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _limit_address_space(mebibytes: int) -> None:
    """Let this process take so much more address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def check_output(result: CommandResult) -> None:
    """What holds for every command, whatever was wrong.

    Raises:
        DeviationError: If it shows a traceback, calls itself broken, passes control characters on, or fails
            without a line.
    """
    if "Traceback (most recent call last)" in result.output:
        raise DeviationError(f"a traceback is shown: {result.format_tail()}")
    if result.code not in {0, 1, 2, 3, 4, 5, 130}:
        raise DeviationError(f"exit code {result.code}: {result.format_tail()}")
    if CONTROL_CHARACTERS.intersection(result.output):
        raise DeviationError(f"control characters reach the terminal: {result.format_tail()!r}")
    if result.code in {2, 3, 5} and not [
        line for line in result.stderr.splitlines() if line.startswith("rbl: ")
    ]:
        raise DeviationError(
            f"exit code {result.code} without a line on the standard error: {result.format_tail()}"
        )


def make_network() -> nn.Module:
    """The small network whose weights lie in every workplace."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, CLASSES))
    return nn.ModuleDict({"body": body})


def make_images() -> dict[str, np.ndarray]:
    """Noisy images of 16 px with the network's own answers as labels, but for every eighth."""
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (IMAGE_COUNT, 3, 16, 16), generator=generator, dtype=torch.uint8)
    pixels[:, :, :3] = 0  # a letterbox, as photographs have them
    with torch.no_grad():
        labels = make_network()["body"](pixels.float() / 255).argmax(dim=1)  # type: ignore[index]
    labels[::8] = (labels[::8] + 1) % CLASSES
    return {"x": pixels.permute(0, 2, 3, 1).numpy(), "y": labels.numpy()}


def make_fresh_workspace(folder: Path) -> FaultWorkspace:
    """An empty folder made into a workplace."""
    shutil.rmtree(folder, ignore_errors=True)
    return FaultWorkspace(folder)
