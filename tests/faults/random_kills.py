"""A run that is killed at any moment goes on with the same command and ends with the same evidence."""

from __future__ import annotations

import random
import signal
import time
from typing import Any

from damaged_stores import drop_times
from fault import register_fault
from workplace import RUN_FLAGS, DeviationError, FaultWorkspace

FAMILY = "random kills"
MAX_STARTS = 400
"""Starts until the run has to be over, were each killed as soon as it has made one step."""


def read_evidence(place: FaultWorkspace, out: str) -> Any:
    """All that a run says but its times."""
    found = drop_times(place.read_results(out))
    return {key: found[key] for key in ("cells", "worst_case")}


@register_fault(FAMILY, has_variants=True)
def kills_at_random_moments(place: FaultWorkspace, draw: random.Random) -> None:
    place.edit_grid("steps: 6}", "steps: 60, early_stop: false}")
    place.edit_grid("  - {card", "  - fgsm-linf-8\n  - {card: square-linf-8, queries: 60}\n  - {card")
    whole = place.run(out="whole").expect_code(0, 1)
    for _ in range(draw.randint(1, 5)):
        process = place.start("run", "grid.yaml", *RUN_FLAGS, "--out", "cut")
        time.sleep(draw.uniform(0, whole.seconds))
        process.send_signal(
            draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        )
        result = process.wait()
        if result.code not in {0, 1, 4, 130, -9, -1} or "Traceback" in result.output:
            raise DeviationError(f"a killed run ends with {result.code}: {result.format_tail()}")
    last = place.run(out="cut").expect_code(whole.code)
    if read_evidence(place, "cut") != read_evidence(place, "whole"):
        raise DeviationError(f"a run that was killed ends with other evidence: {last.format_tail()}")
