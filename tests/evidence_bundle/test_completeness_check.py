"""A cell that is left out of a bundle together with all that follows from it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest

from robustbench_local.evidence_bundle.completeness_check import check_completeness, find_missing_cells
from robustbench_local.evidence_bundle.run_records import load_json, read_cells


@pytest.fixture
def content(bundle, tmp_path):
    """The results and the cells of a bundle, and its folder."""
    from robustbench_local.evidence_bundle.archive_reader import extract_archive

    extract_archive(bundle, tmp_path)
    return load_json(tmp_path / "results.json"), read_cells(tmp_path), tmp_path


def test_a_whole_run_lacks_nothing(content):
    results, cells, folder = content
    assert len(cells) == 3
    assert list(find_missing_cells(results, cells)) == []
    assert check_completeness(folder).status == "ok"


@pytest.mark.parametrize("renumbered", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_dropped_cell_is_named(content, index, renumbered):
    results, cells, _ = content
    kept = [cell for cell in cells if cell is not cells[index]]
    if renumbered:
        kept = [replace(cell, position=position) for position, cell in enumerate(kept)]
    lines = list(find_missing_cells(results, kept))
    known, asked = ("0 cells", 1) if cells[index].card == "fog-3" else ("1 cell", 2)
    assert lines[-1] == f"{known} of {cells[index].card} on plain, and the grid asks for {asked}"
    assert (f"no cell at position {index} of the grid" in lines) == (not renumbered and index < 2)


def test_restricted_attacks_and_transfers_to_itself_are_not_missed(content):
    results, cells, _ = content
    results = deepcopy(results)
    entry = results["grid"]["attacks"][0]
    results["grid"]["attacks"] += [entry | {"transfer_from": "plain"}, entry | {"models": ["other"]}]
    assert list(find_missing_cells(results, cells)) == []
    results["grid"]["attacks"].append(entry | {"models": ["plain"]})
    assert len(list(find_missing_cells(results, cells))) == 1


def test_a_grid_that_cannot_be_read_fails(content):
    _, _, folder = content
    (folder / "results.json").write_text('{"grid": 3, "models": [{"id": "plain", "defense": "none"}]}')
    assert check_completeness(folder).status == "failed"
