"""Every command and Python example of the tutorial and of the guides runs, in order, as it is written."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from command_server import start_command_server
from doc_blocks import PAGES, ROOT, DocBlock, read_blocks

EXTRA_PAGES = {
    "docs/how-to/give-evidence-to-a-third-party.md": "cryptography",
    "docs/how-to/test-keras-and-jax-models.md": "jax",
    "docs/how-to/use-hugging-face.md": "transformers",
}
"""Pages whose commands need a library that this package does not, or only by an extra."""
MAX_NOT_RUN = 15
"""Blocks that the tests may leave out, all pages together."""


def _mark(path: Path):
    name = str(path.relative_to(ROOT))
    marks = [pytest.mark.slow]
    if name in EXTRA_PAGES:
        library = EXTRA_PAGES[name]
        missing = importlib.util.find_spec(library) is None
        marks += [pytest.mark.extra, pytest.mark.skipif(missing, reason=f"needs {library}, as the page says")]
    return pytest.param(path, id=name, marks=marks)


@pytest.fixture(scope="session")
def rbl_script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A script that stands for ``rbl`` and need not import it each time."""
    with start_command_server(tmp_path_factory.mktemp("server")) as script:
        yield script


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rbl_script: str) -> Path:
    """An empty working directory, with ``rbl`` and ``python`` on the path and no settings of the user's."""
    tools, work = tmp_path / "bin", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    for name, text in {"python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', "rbl": rbl_script}.items():
        script = tools / name
        script.write_text(text, encoding="utf-8")
        script.chmod(0o755)
    for variable in [name for name in os.environ if name.startswith("RBL_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return work


@pytest.mark.parametrize("path", [_mark(path) for path in PAGES])
def test_commands_run_as_written(path: Path, shell: Path):
    module, before = ModuleType("example_of_a_page"), set(sys.modules)
    sys.modules[module.__name__] = module
    try:
        for block in read_blocks(path):
            if not block.reason_not_run:
                _run(block, shell, module)
    finally:
        for name in set(sys.modules) - before:
            if (
                name == module.__name__
                or Path(getattr(sys.modules[name], "__file__", None) or "/").parent == shell
            ):
                del sys.modules[name]


def _run(block: DocBlock, folder: Path, module: ModuleType) -> None:
    if block.file:
        file = folder / block.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.code, encoding="utf-8")
    elif block.language == "python":
        _run_python(block, module)
    elif block.language == "sh":
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
        assert done.returncode == block.exit_code, f"{block}\n{block.code}\n{done.stdout}\n{done.stderr}"


def _run_python(block: DocBlock, module: ModuleType) -> None:
    code = compile("\n" * block.line + block.code, str(ROOT / block.page), "exec")
    exit_code = 0
    try:
        exec(code, vars(module))
    except SystemExit as end:
        exit_code = end.code or 0
    assert exit_code == block.exit_code, str(block)


def test_few_blocks_are_not_run_and_each_says_why():
    left_out = [block for path in PAGES for block in read_blocks(path) if block.reason_not_run]
    reasons = "\n".join(f"{block}: {block.reason_not_run}" for block in left_out)
    assert len(left_out) <= MAX_NOT_RUN, reasons
    assert all(block.language in {"sh", "python"} for block in left_out), reasons


def test_every_marker_and_set_up_belongs_to_a_block():
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        blocks = read_blocks(path)
        assert text.count("Not run by the tests:") == sum(bool(block.reason_not_run) for block in blocks), (
            path
        )
        assert text.count("```") + 2 * text.count("<!-- set-up") == 2 * len(blocks), path
