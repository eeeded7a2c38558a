"""``models`` of an attack or certificate in a grid: only those get it; others have gaps."""

from __future__ import annotations

import pytest

import robustbench_local as rbl
from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.store.run_store import RunStore

ATTACKS = """
attacks:
  - fgsm-linf-8
  - {card: pgd20-linf-8, steps: 2, models: [second]}
  - {card: certify-ibp-linf-1, models: [first], limit: 10}
gates: []
"""


@pytest.mark.slow
def test_only_the_models_that_are_named_get_an_attack_or_a_certificate(workplace):
    read = {"where": "test", "error": ConfigError}
    text = (workplace / "grid.yaml").read_text(encoding="utf-8")
    run = rbl.run_grid(
        parse_yaml(text, **read) | parse_yaml(ATTACKS, **read),
        out="runs/chosen",
        options=rbl.Options(batch_size=16),
    )
    assert run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        cells = [(cell.model, cell.card, cell.images) for cell in store.read_cells()]
    assert cells == [
        ("first", "fgsm-linf-8", 40),
        ("first", "certify-ibp-linf-1", 10),
        ("second", "fgsm-linf-8", 40),
        ("second", "pgd20-linf-8", 40),
    ]
    resolved, _ = load_grid(workplace / "runs/chosen/run.yaml")
    assert [entry.models for entry in resolved.attacks] == [None, ["second"], ["first"]]
    assert "not run" in run.report().read_text(encoding="utf-8")
