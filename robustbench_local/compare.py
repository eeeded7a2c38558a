"""The comparison of runs as an object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_local.reports.comparison_files import read_comparison, write_comparison
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData
from robustbench_local.reports.summary.comparison_answer import describe_comparison_answer
from robustbench_local.reports.writers.comparison_json import encode_comparison
from robustbench_local.run import Run


class ComparisonReport:
    """Runs compared with a baseline; ``compare_runs`` makes one.

    Args:
        data: The content of the comparison.
    """

    def __init__(self, data: ComparisonData) -> None:
        self._data = data

    def __repr__(self) -> str:
        return f"<ComparisonReport: {self.answer}>"

    @property
    def answer(self) -> str:
        """Whether a run is worse than the baseline, in a sentence."""
        return describe_comparison_answer(self._data.comparisons)

    @property
    def results(self) -> dict[str, Any]:
        """The content of compare.json: verdicts, differences with intervals, images that changed sides."""
        return encode_comparison(self._data)

    def write(self, out: Path | str) -> list[Path]:
        """Write the comparison and return the files.

        Args:
            out: A file whose ending says its form (.html, .md, .json), or a folder for all three.
        """
        return write_comparison(self._data, Path(out))


def compare_runs(
    baseline: Run | Path | str,
    *runs: Run | Path | str,
    models: Mapping[str, str] | None = None,
    allow_different_data: bool = False,
) -> ComparisonReport:
    """Compare runs with a baseline, image by image.

    Args:
        baseline: A run, or its directory.
        runs: One or more runs to compare with it.
        models: Model of the baseline -> model of the other runs, where their ids differ; models of the same
            id are compared without it.
        allow_different_data: Whether runs on other images are compared too, without pairs of images.

    Raises:
        ConfigError: If a run does not exist, the runs have no model in common, or other data.
        DamagedError: If a run is damaged.
    """
    directories = [run.directory if isinstance(run, Run) else Path(run) for run in (baseline, *runs)]
    return ComparisonReport(read_comparison(directories, models, allow_different_data=allow_different_data))
