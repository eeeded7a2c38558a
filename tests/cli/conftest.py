"""Commands: their reports have blank figures, which tests/reports draws, and small batches."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _short_runs(blank_figures: None, full_batch_size: int) -> None:
    """In every module here; a command in a process of its own draws, and tries all batch sizes."""
