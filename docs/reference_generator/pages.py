"""All pages of the reference, written before Sphinx reads its sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from reference_generator import cards, command_line, grid_schema, policies, python_api, run_files

PAGES: Mapping[str, Callable[[], str]] = {
    "command-line": command_line.write_command_page,
    "grid-file": grid_schema.write_grid_page,
    "policy-file": policies.write_policy_page,
    "attack-cards": cards.write_attack_page,
    "certificate-cards": cards.write_certificate_page,
    "defense-cards": cards.write_defense_page,
    "zoo-models": cards.write_zoo_page,
    "python": python_api.write_python_page,
    "results-json": run_files.write_results_page,
    "json-lines": run_files.write_json_lines_page,
    "outcomes-csv": run_files.write_outcomes_page,
    "exit-codes": command_line.write_exit_code_page,
}
"""What writes each page, by file name without ``.md``; in the order of the table of contents."""


def write_reference(folder: Path) -> None:
    """Write every page whose text has changed, so that a second build reads only those again."""
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.md")) - {folder / f"{name}.md" for name in (*PAGES, "index")}:
        stale.unlink()
    for name, write_page in {"index": _write_index, **PAGES}.items():
        path, text = folder / f"{name}.md", write_page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _write_index() -> str:
    entries = "\n".join(PAGES)
    return (
        "# Reference\n\nThese pages are generated from the code each time the site is built.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )
