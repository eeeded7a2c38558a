"""The code blocks of a page: which are run, in which order, and how each has to end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "tutorial.md", DOCS / "ci.md", *sorted((DOCS / "how-to").glob("*.md"))]
"""Pages whose commands are run."""

_BLOCK = re.compile(
    r"(?:^\*Not run by the tests: (?P<reason>[^*]+)\.\*\n+)?"
    r"(?:^```(?P<language>\w*)\n(?P<code>.*?)^```$|^<!-- set-up (?P<hidden>\w+)\n(?P<setup>.*?)^-->$)",
    re.DOTALL | re.MULTILINE,
)
_FILE = re.compile(r"# (?P<name>[\w./-]+\.\w+)\n")
_EXIT_CODE = re.compile(r"# exit code (\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class DocBlock:
    """One code block of a page, or a hidden one that prepares what the page takes for granted."""

    page: str
    line: int
    language: str
    code: str
    reason_not_run: str = ""

    @property
    def file(self) -> str:
        """The file that the block shows, which its first line names; empty if it is none."""
        match = _FILE.match(self.code) if self.language in {"yaml", "python", "toml"} else None
        return match["name"] if match else ""

    @property
    def exit_code(self) -> int:
        """How the block has to end: 0, or what a comment says."""
        match = _EXIT_CODE.search(self.code)
        return int(match[1]) if match else 0

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


def read_blocks(path: Path) -> list[DocBlock]:
    """All blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        DocBlock(
            page=str(path.relative_to(ROOT)),
            line=text.count("\n", 0, match.start()) + 1,
            language=match["language"] or match["hidden"] or "",
            code=match["code"] if match["setup"] is None else match["setup"],
            reason_not_run=match["reason"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
