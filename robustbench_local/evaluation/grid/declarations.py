"""What a user declares about an evaluation, because no run can know it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from robustbench_local.config.strict_yaml import StrictModel

MAX_STATEMENT_LENGTH = 500
"""Longest statement: it stands in a table of the report."""
Statement = Annotated[str, Field(min_length=1, max_length=MAX_STATEMENT_LENGTH)]


class Declarations(StrictModel):
    """Statements for the checklist of the report, and the clean accuracies that the models should have."""

    threat_model: Statement | None = None
    """Who the attacker is, and why the budget fits."""
    adaptive_attack: Statement | None = None
    """Which attack was made for the defense, if the run has none."""
    source_code: Statement | None = None
    """Where code and weights are published."""
    convergence: Statement | None = None
    """How it was checked that more steps change nothing."""
    prior_work: Statement | None = None
    """Which published numbers were compared."""
    certificate: Statement | None = None
    """Why robustness cannot be proven, or where it is."""
    ablation: Statement | None = None
    """What each part of the defense is worth."""
    attack_validation: Statement | None = None
    """On which other defenses a new attack was tested."""
    clean_accuracy: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Model id to the clean accuracy that its authors state, between 0 and 1; another one blocks the
    headline."""
