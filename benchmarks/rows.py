"""What is compared, and on how many images: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.threats.threat_model import Norm


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One method, run by everyone who has it.

    Args:
        name: What it is called in the table, and on the command line in lower case.
        peer_method: Its key in the peers' tables.
        our_methods: Our variants; the first is what times are compared with.
        steps: Steps or queries.
        image_count: Images; a model that is cheap to ask takes more.
        levels: Radii, as ``subjects.LEVELS`` names them; none for a method that looks for the nearest.
        norm: Norm of the ball, or of the distance.
        models: Where it runs.
        counts_operations: Whether operations are counted, which slows a run down tenfold.
        measures_memory: Whether peak memory is measured, in a run of its own.
        is_radius_curve: Whether it asks about eight radii, of which the level's is the largest.
    """

    name: str
    peer_method: str
    our_methods: tuple[str, ...]
    steps: int
    image_count: int
    levels: tuple[str, ...] = ("middle",)
    norm: Norm = "Linf"
    models: tuple[str, ...] = ("signs-pgd-at", "mnist-fast", "mnist-trades", "cifar10-resnet2b")
    counts_operations: bool = True
    measures_memory: bool = False
    is_radius_curve: bool = False

    @property
    def is_minimum_norm(self) -> bool:
        """Whether the method looks for the nearest adversarial image, whatever its distance."""
        return not self.levels


_ALL_MODELS = ("signs-pgd-at", "signs-plain", "mnist-fast", "mnist-trades", "cifar10-resnet2b")
_SMALL_MODELS = ("signs-pgd-at", "mnist-fast", "cifar10-resnet2b")
_PGD_METHODS = ("pgd", "pgd, early stop")
_APGD_METHODS = ("apgd", "apgd, early stop")

ROWS = (
    BenchmarkRow(name="FGSM", peer_method="fgsm", our_methods=("fgsm",), steps=1, image_count=128),
    BenchmarkRow(
        name="PGD-20",
        peer_method="pgd",
        our_methods=_PGD_METHODS,
        steps=20,
        image_count=128,
        models=_ALL_MODELS,
    ),
    BenchmarkRow(name="PGD-50", peer_method="pgd", our_methods=_PGD_METHODS, steps=50, image_count=32),
    BenchmarkRow(
        name="APGD-CE-100", peer_method="apgd", our_methods=_APGD_METHODS, steps=100, image_count=32
    ),
    BenchmarkRow(
        name="APGD-T",
        peer_method="apgd-t",
        our_methods=("apgd-t",),
        steps=100,
        image_count=12,
        models=_SMALL_MODELS,
    ),
    BenchmarkRow(
        name="FAB-T",
        peer_method="fab-t",
        our_methods=("fab-t",),
        steps=100,
        image_count=12,
        models=_SMALL_MODELS,
    ),
    BenchmarkRow(
        name="Square-1000",
        peer_method="square",
        our_methods=("square",),
        steps=1000,
        image_count=24,
        models=_SMALL_MODELS,
    ),
    BenchmarkRow(
        name="AutoAttack",
        peer_method="autoattack",
        our_methods=("autoattack",),
        steps=100,
        image_count=32,
        levels=("weak", "middle", "strong"),
        counts_operations=False,
        models=("mnist-fast", "cifar10-resnet2b"),
    ),
    BenchmarkRow(
        name="DDN-100",
        peer_method="ddn",
        our_methods=("ddn",),
        steps=100,
        image_count=32,
        levels=(),
        norm="L2",
    ),
    BenchmarkRow(
        name="FMN-100", peer_method="fmn", our_methods=("fmn",), steps=100, image_count=32, levels=()
    ),
    BenchmarkRow(
        name="CW",
        peer_method="cw",
        our_methods=("cw",),
        steps=100,
        image_count=8,
        levels=(),
        norm="L2",
        models=_SMALL_MODELS,
    ),
    BenchmarkRow(
        name="DeepFool",
        peer_method="deepfool",
        our_methods=("deepfool",),
        steps=50,
        image_count=32,
        levels=(),
        norm="L2",
    ),
    BenchmarkRow(
        name="Curve-8",
        peer_method="pgd",
        our_methods=("curve",),
        steps=20,
        image_count=32,
        levels=("strong",),
        is_radius_curve=True,
        models=_SMALL_MODELS,
    ),
    BenchmarkRow(
        name="PGD-20-memory",
        peer_method="pgd",
        our_methods=("pgd",),
        steps=20,
        image_count=16,
        models=("resnet18-random",),
        measures_memory=True,
    ),
)
"""All rows, cheap ones first."""

QUICK_IMAGE_COUNTS = {"FGSM": 32, "PGD-20": 32, "APGD-CE-100": 16}
"""Rows of a quick run, and their images."""
