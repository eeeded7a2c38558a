"""Options: one object for grids and single evaluations, checked when it is made."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields
from typing import get_type_hints

import pytest
from typer.models import OptionInfo

import robustbench_local as rbl
from robustbench_local.cli import run_command
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.options import EVALUATION_OPTIONS, TIMEOUT_SECONDS
from robustbench_local.evaluation.planning.planner import make_plan

ATTACK = {"attack": "fgsm-linf-8"}
FLAG_NAMES = {"sources": "source_class", "targets": "target_class"}


def test_options_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        rbl.Options().device = "cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", 0),
        ("limit", 1.5),
        ("seed", -1),
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 1.5),
        ("workers", 0),
        ("timeout", -1.0),
        ("timeout", float("inf")),
        ("cell_timeout", float("nan")),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        rbl.Options(**{name: value})


def test_every_option_is_documented_and_is_a_flag_of_the_command():
    source = inspect.getsource(rbl.Options)
    flags = get_type_hints(run_command.command, include_extras=True)
    for option in fields(rbl.Options):
        after = source.partition(f"\n    {option.name}: ")[2].splitlines()[1]
        assert after.strip().startswith('"""'), option.name
        annotation = flags[FLAG_NAMES.get(option.name, option.name)]
        assert any(isinstance(item, OptionInfo) for item in annotation.__metadata__), option.name


def test_a_grid_has_a_timeout_unless_it_is_told_otherwise(workplace):
    content, base_folder = load_grid("grid.yaml")
    for timeout, expected in ((None, TIMEOUT_SECONDS), (5.0, 5.0), (0, None)):
        options = rbl.Options(device="cpu", timeout=timeout)
        assert make_plan(content, options, base_folder=base_folder).timeout == expected


def test_options_override_the_grid_wherever_a_plan_is_made(workplace):
    content, base_folder = load_grid("grid.yaml")
    options = rbl.Options(device="cpu", limit=8, seed=5, sources=[0, 1, 2], search_precision="bf16")
    plan = make_plan(content, options, base_folder=base_folder)
    assert (len(plan.data), plan.seed) == (8, 5)
    assert all(cell.record.sources == (0, 1, 2) for cell in plan.cells)
    assert any("bf16" in cell.record.note for cell in plan.cells)


@pytest.mark.parametrize("name", sorted({option.name for option in fields(rbl.Options)} - EVALUATION_OPTIONS))
def test_options_of_grids_are_refused_where_one_classifier_is_evaluated(linear, data, name):
    values = {"sources": [1], "targets": [1], "search_precision": "bf16", "cache": "x", "precision": 0.1}
    values["shard"] = "1/2"
    if name in {"executor", "address", "gpus_per_task"}:
        name, values = "executor", {"executor": "ray"}
    options = rbl.Options(**{name: values.get(name, 1)})
    for call, method in ((rbl.evaluate, ATTACK), (rbl.certify, {"certificate": "certify-ibp-linf-1"})):
        with pytest.raises(ConfigError, match=f"{call.__name__} has no option {name!r}"):
            call(linear, data, **method, options=options)


@pytest.mark.parametrize("name", sorted(EVALUATION_OPTIONS))
def test_an_option_among_the_arguments_is_refused_with_the_way_to_give_it(linear, data, name):
    with pytest.raises(ConfigError, match=rf"options=rbl.Options\({name}=...\)"):
        rbl.evaluate(linear, data, **ATTACK, **{name: 1})


def test_options_reach_an_evaluation(linear, data):
    threat = {"attack": "pgd", "steps": 3, "norm": "Linf", "eps": 0.02}
    whole = rbl.evaluate(linear, data, **threat)
    parts = rbl.evaluate(linear, data, **threat, options=rbl.Options(device="cpu", batch_size=7, timeout=60))
    assert parts.outcomes["broken"].tolist() == whole.outcomes["broken"].tolist()
    assert parts.counts.broken > 0
