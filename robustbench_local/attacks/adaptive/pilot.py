"""The pilot: short versions of candidate steps on the sample, which decide their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from robustbench_local.attacks.adaptive.composition import PilotResult
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.core.engine import Engine
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.errors import RobustbenchError

PILOT_STEPS = 20
"""Steps of a short version."""


def run_pilot(
    inputs: AttackInputs, candidates: Sequence[AttackStep], rows: Tensor
) -> tuple[PilotResult, ...]:
    """Run a short version of each candidate step, independently of the others.

    Args:
        inputs: The model, the sample and the threat model.
        candidates: The candidate steps.
        rows: Images of the sample to run on, (M,) int64, M at least 1.
    """
    return tuple(_try_step(inputs, step, rows)[0] for step in candidates)


def run_trials(
    inputs: AttackInputs, candidates: Sequence[AttackStep], rows: Tensor
) -> tuple[PilotResult, ...]:
    """Run a short version of each step on the images that as long a search by the own gradients fails on.

    Args:
        inputs: As in `run_pilot`.
        candidates: The steps on trial.
        rows: Images of the sample, (M,) int64, M at least 1.
    """
    if not candidates:
        return ()
    own = AttackStep(label="own gradients", search="apgd", steps=PILOT_STEPS, loss="margin")
    _, broken = _try_step(inputs, own, rows)
    left = rows[~broken]
    return tuple(_try_step(inputs, step, left)[0] for step in candidates) if len(left) else ()


def _try_step(inputs: AttackInputs, step: AttackStep, rows: Tensor) -> tuple[PilotResult, Tensor]:
    """Run a short version of a step; also return on which images it succeeds, (M,) boolean."""
    stage = replace(step, steps=min(step.steps, PILOT_STEPS)).build_stage(inputs.threat)
    model, problem = inputs.classifier, ""
    broken = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    before = _count_passes(inputs)
    engine = Engine(
        model,
        inputs.images[rows],
        inputs.labels[rows],
        inputs.stream.select_images(rows),
        None if inputs.masks is None else inputs.masks[rows],
    )
    try:
        queried = stage.build_classifier(model) if stage.build_classifier else model
        with engine.use_classifier(queried), engine.use_draws(step.draws):
            if stage.build_search is not None:
                engine.run(stage.build_search(inputs.threat), engine.build_items())
        broken = engine.find_successes()
    except RobustbenchError as failure:
        problem = failure.what
    except Exception as failure:
        if is_out_of_memory(failure):  # not the step's fault: the adaptation begins again with less at once
            raise
        problem = " ".join(f"{type(failure).__name__}: {failure}".split())[:200]
    result = PilotResult(
        label=step.label,
        images=len(rows),
        broken=int(broken.sum()),
        passes=_count_passes(inputs) - before,
        problem=problem,
    )
    return result, broken


def _count_passes(inputs: AttackInputs) -> int:
    counter = inputs.classifier.open_counter
    return 0 if counter is None else int(counter.forward_passes.sum() + counter.backward_passes.sum())
