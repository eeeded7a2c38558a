"""Options for running a grid or evaluating one classifier, in one object that every call passes on."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Literal, get_args

from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.shard import resolve_shard

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from robustbench_local.classifier import Precision

TIMEOUT_SECONDS = 600.0
"""Default seconds without a finished pass after which a model of a grid counts as hanging."""
Executor = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = get_args(Executor)
"""Names of what runs the images of a grid."""
MAX_PRECISION = 0.5
"""A half-width of this much says nothing."""
EVALUATION_OPTIONS = frozenset(
    {"device", "batch_size", "cards", "allow_batch_dependence", "allow_code", "timeout"}
)
"""Options that ``evaluate``, ``certify`` and ``attack`` also take; the others are for grids."""
_OWN_ARGUMENTS = frozenset({"seed", "sources", "targets"})
"""Options that these calls have as arguments of their own."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options for running a grid or evaluating one classifier.

    ``limit``, ``seed``, ``sources``, ``targets``, ``search_precision``, ``until_decided`` and ``precision``
    override the grid, and ``shard`` chooses among its images; the other options change no verdict.

    Example:
        >>> import robustbench_local as rbl
        >>> rbl.Options(device="cpu", batch_size=64).batch_size
        64

    Raises:
        ConfigError: If a number is out of range.
    """

    limit: int | None = None
    """Number of images, at least 1; None: the grid's."""
    seed: int | None = None
    """Decides every random draw; None: the grid's."""
    sources: Sequence[int | str] = ()
    """Confines every attack to images of these classes, by name or index."""
    targets: Sequence[int | str] = ()
    """Target classes of every attack, by name or index."""
    search_precision: Precision | None = None
    """``"bf16"`` searches faster and misses some adversarial examples; None: the grid's."""
    until_decided: bool = False
    """Whether the run ends once the images left cannot change the verdict of any gate."""
    precision: float | None = None
    """The run ends once robust accuracy in the worst case is known to this half-width, such as 0.02, on every
    model; between 0 and 0.5. None: the grid's."""
    shard: str | None = None
    """The part of the images to run, such as ``"2/8"``; ``merge_runs`` makes one run of all parts. ``"auto"``
    is the task of a SLURM array, ``"auto/8"`` also that of an indexed Kubernetes job. ``"1/1"`` is None."""
    device: str | torch.device | None = None
    """``"cpu"``, ``"cuda"`` or ``"auto"``. None: ``"auto"`` for a grid; ``evaluate`` and ``certify`` compute
    where the classifier is."""
    batch_size: int | None = None
    """Images in a pass, at least 1. None: a grid measures it once on each model; ``evaluate`` and ``certify``
    choose by the size of the images."""
    measure_batch_size: bool = False
    """Whether an unfinished run measures the batch sizes again, instead of those that it measured before or
    reduced because memory ran out."""
    workers: int | None = None
    """Processes that share a cell's images on a CPU, at least 1; None: one for each core that torch uses."""
    executor: Executor = "local"
    """Who runs the images: ``"local"``, processes of this machine, or ``"ray"``, the nodes of a Ray cluster
    (extra ``ray``), or several GPUs of this machine."""
    address: str | None = None
    """Address of a running Ray cluster, ``"HOST:PORT"`` or ``"auto"``; None: one on this machine for the run.
    ``workers`` is then the largest number of tasks at once."""
    gpus_per_task: float | None = None
    """GPUs of a task of Ray: a share such as 0.5, or a whole number; 0 for none. None: 1 where the cluster
    has some."""
    compile_steps: bool = False
    """Whether attacks compile their own steps, for long runs on a GPU."""
    cards: Sequence[Path | str] = ()
    """Folders with cards of your own, besides ``cards/`` beside the grid file."""
    allow_code: bool = False
    """Whether ``python:FILE.py:NAME`` may run its file: of a model, an attack, a defense, a certificate or
    data; and whether ``torchscript:`` and ``export:`` may run the program in theirs."""
    allow_batch_dependence: bool = False
    """Whether models whose answers depend on the other images of a batch, or on earlier calls, are evaluated
    all the same: in batches of exactly ``batch_size``, with every number marked and every gate undecided."""
    cache: Path | str | None = None
    """Folder of the weights that the grid trains; None: ``RBL_CACHE``, else the user's cache."""
    timeout: float | None = None
    """Seconds within which a model has to finish a pass; 0 for any time. One that hangs is ended, and its
    image or its cell is an error. None: 600 for a grid; ``evaluate`` and ``certify`` wait for any time, and
    compute in this process, while with a timeout they use a child process where that is possible."""
    cell_timeout: float | None = None
    """Seconds that a cell may take in this run; it ends as ``timeout`` then, and the same call resumes it.
    None or 0 for any time."""
    recompute_damaged: bool = False
    """Whether cells whose stored rows or images are damaged are computed again; without it a damaged run is
    refused."""

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("seed", 0), ("batch_size", 1), ("workers", 1)):
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name), least=least)
        self._check_executor()
        if self.precision is not None and not 0 < self.precision < MAX_PRECISION:
            raise ConfigError(f"precision is {self.precision!r}", remedy="give a share such as 0.02")
        if self.shard is not None:
            shard = resolve_shard(str(self.shard))
            object.__setattr__(self, "shard", str(shard) if shard.count > 1 else None)
        for name in ("timeout", "cell_timeout"):
            seconds = getattr(self, name)
            if seconds is not None and not 0 <= seconds < math.inf:
                raise ConfigError(f"{name} is {seconds!r}", remedy="give seconds, or 0 for any time")

    def _check_executor(self) -> None:
        """Refuse an unknown executor, and options of Ray without it."""
        if self.executor not in EXECUTORS:
            what = f"there is no executor {self.executor!r}"
            raise ConfigError(what, remedy=did_you_mean(self.executor, EXECUTORS))
        for name in ("address", "gpus_per_task"):
            if getattr(self, name) is not None and self.executor != "ray":
                raise ConfigError(f"{name} is an option of Ray", remedy="add executor ray, or leave it out")
        gpus = self.gpus_per_task
        if gpus is None:
            return
        is_number = isinstance(gpus, int | float) and (
            0 <= gpus <= 1 or (gpus > 0 and float(gpus).is_integer())
        )
        if not is_number:
            remedy = "give a share of one such as 0.5, or a whole number"
            raise ConfigError(f"gpus_per_task is {gpus!r}", remedy=remedy)

    def check_applicable(self, call: str) -> None:
        """Refuse grid options in a call that evaluates one classifier.

        Args:
            call: Name of the call, for the message.

        Raises:
            ConfigError: If an option is set that the call does not take.
        """
        for option in fields(self):
            if option.name in EVALUATION_OPTIONS or getattr(self, option.name) == option.default:
                continue
            remedy = (
                f"it is an argument of {call} itself" if option.name in _OWN_ARGUMENTS else "use run_grid"
            )
            raise ConfigError(f"{call} has no option {option.name!r}", remedy=remedy)

    def resolve_timeouts(self) -> Options:
        """Return the options of a grid, with its default timeout; a resolved None means no limit."""
        timeout = TIMEOUT_SECONDS if self.timeout is None else self.timeout
        return replace(self, timeout=timeout or None, cell_timeout=self.cell_timeout or None)


def check_whole_number(name: str, value: int, *, least: int) -> None:
    """Check that an argument is a whole number and not too small.

    Args:
        name: Name of the argument, for the message.
        value: The argument.
        least: The smallest allowed number.

    Raises:
        ConfigError: If it is not.
    """
    if not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name} is {value!r}", remedy=f"give a whole number, {least} or more")


def check_parameter_names(call: str, parameters: Collection[str]) -> None:
    """Refuse options among the hyper-parameters of a call; the message says how to pass them.

    Args:
        call: Name of the call, for the message.
        parameters: Names of the given hyper-parameters.

    Raises:
        ConfigError: If one of them is an option.
    """
    for name in parameters:
        if name in EVALUATION_OPTIONS:
            raise ConfigError(
                f"{call} has no argument {name!r}", remedy=f"give options=rbl.Options({name}=...)"
            )


DEFAULT_OPTIONS = Options()
"""Options of a call that passes none."""
