"""Settings of a run on a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.evaluation.options import Options


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """The cluster of a run, and what each of its tasks gets."""

    address: str | None = None
    """Address of a running cluster, or ``"auto"``; None: one on this machine, for this run alone."""
    gpus_per_task: float | None = None
    """GPUs of a task, a share of one or a whole number; None: 1 where the cluster has some, else 0."""
    allows_gpus: bool = True
    """Whether tasks may compute on GPUs."""
    max_tasks: int | None = None
    """Maximum number of tasks at once; None: as many as fit."""

    @classmethod
    def from_options(cls, options: Options) -> ClusterSettings | None:
        """Return the settings of a run's options; None for a run on this machine."""
        if options.executor != "ray":
            return None
        device = str(options.device or "auto")
        gpus = options.gpus_per_task
        if gpus is None and device.startswith("cuda"):
            gpus = 1.0
        return cls(
            address=options.address,
            gpus_per_task=gpus,
            allows_gpus=device != "cpu",
            max_tasks=options.workers,
        )
