"""The page on policies: their keys, the ready-made ones, and the JSON form of the verdicts."""

from __future__ import annotations

from pathlib import Path

import yaml

from reference_generator.grid_schema import find_models, render_model
from reference_generator.tables import render_code, render_table
from robustbench_local.config.gate_policy import Policy, list_policies, read_policy_text

_HEAD = """# Policy file

A policy is YAML, for `rbl gate RUN --policy FILE`. Unknown keys are errors, with the nearest key that exists.
Limits are shares such as `0.2`, percentages such as `20%` or fractions. [Run in CI](../ci.md) shows one in
use.

"""


def write_policy_page() -> str:
    """The whole page."""
    sections = [render_model(model) for model in find_models(Policy)]
    rows = [(render_code(key), text) for key, text in read_gate_keys().items()]
    return (
        _HEAD
        + "\n".join(sections)
        + "\n## Ready-made policies\n\n"
        + "\n".join(
            f"### {name}\n\n{description[0].upper()}{description[1:]}.\n\n"
            f"```yaml\n{read_policy_text(name)}```\n"
            for name, description in list_policies().items()
        )
        + "\n## Verdicts as JSON\n\n`rbl gate RUN --format json` prints one object.\n\n"
        + render_table(("key", "meaning"), rows)
    )


def read_gate_keys() -> dict[str, str]:
    """Every documented key of the verdicts as JSON, as a path, and what it means."""
    text = (Path(__file__).parent / "gate_keys.yaml").read_text(encoding="utf-8")
    keys: dict[str, str] = yaml.safe_load(text)
    return keys
