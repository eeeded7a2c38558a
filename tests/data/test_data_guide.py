"""docs/how-to/bring-data.md says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import yaml

from robustbench_local.data.data_source_kinds import DATASET_SOURCES
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.npz import list_npz
from robustbench_local.data.torchvision_sets import TORCHVISION_NAMES
from robustbench_local.evaluation.grid.data_entries import DataEntry

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "bring-data.md").read_text(encoding="utf-8")
EXAMPLES = [
    line
    for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    for line in re.split(r"# or\n", block)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_use_options_that_exist(example):
    (entry,) = yaml.safe_load(example).values()
    assert set(entry) <= set(inspect.signature(load_dataset).parameters)
    kinds = {source.split(":")[0] for source in DATASET_SOURCES}
    assert entry["source"].split(":")[0] in kinds


def test_every_source_and_data_set_is_there():
    for name in (*DATASET_SOURCES, *TORCHVISION_NAMES):
        assert name in GUIDE


def test_every_option_is_there_or_is_a_key_of_the_grid_reference():
    options = set(inspect.signature(load_dataset).parameters) - {"base_folder", "progress", "allow_code"}
    described = {name for name in options if re.search(rf"`{name}`", GUIDE)} | set(DataEntry.model_fields)
    assert options - described == set()


def test_the_usual_array_names_are_those_of_the_code():
    code = inspect.getsource(list_npz)
    assert '("x", "images", f"x_{split}")' in code
    assert '("y", "labels", f"y_{split}")' in code
