"""The rule that ends a run early, from its grid and its options."""

from __future__ import annotations

from robustbench_local.config.gate_choices import LOAD_METRICS
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.options import Options
from robustbench_local.store.stop_record import StopRule


def resolve_stop_rule(grid: Grid, options: Options) -> StopRule | None:
    """Return the rule of a run: that of its options, else that of its grid; None if it runs on all images.

    Raises:
        ConfigError: If the run is to end once its gates are decided, and it has none; or it is a shard.
    """
    if options.until_decided or options.precision is not None:
        rule = StopRule(decided=options.until_decided, precision=options.precision)
    elif grid.stop is not None:
        rule = StopRule(decided=grid.stop.decided, precision=grid.stop.precision)
    else:
        return None
    if options.shard is not None:
        raise ConfigError(
            "a run that stops early is not split: where it stops depends on the images so far",
            where="--shard",
            remedy="leave out --shard, or --until-decided, --precision and stop of the grid",
        )
    if rule.decided and all(gate.metric in LOAD_METRICS for gate in grid.gates):
        raise ConfigError(
            "the run is to end once its gates are decided, and the grid has none on attacks",
            remedy="add gates to the grid, or give --precision 2%",
        )
    return rule
