"""What is compared, and on how many images: the rows of the table."""

from __future__ import annotations

from dataclasses import dataclass

from robustbench_local.threats.threat_model import Norm


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method, run by everyone who has it.

    Args:
        name: What it is called in the table, and on the command line in lower case.
        method: Its key in the peers' tables.
        ours: Our variants; the first is what times are compared with.
        steps: Steps or queries.
        n: Images; a subject that is cheap to ask takes more.
        levels: Radii, as ``subjects.LEVELS`` names them; none for a method that looks for the nearest.
        norm: Norm of the ball, or of the distance.
        subjects: Where it runs.
        counted: Whether operations are counted, which slows a run down tenfold.
        memory: Whether peak memory is measured, in a run of its own.
        ladder: Whether it asks about eight radii, of which the level's is the largest.
    """

    name: str
    method: str
    ours: tuple[str, ...]
    steps: int
    n: int
    levels: tuple[str, ...] = ("middle",)
    norm: Norm = "Linf"
    subjects: tuple[str, ...] = ("signs-pgd-at", "mnist-fast", "mnist-trades", "cifar10-resnet2b")
    counted: bool = True
    memory: bool = False
    ladder: bool = False

    @property
    def nearest(self) -> bool:
        """Whether the method looks for the nearest adversarial image, whatever its distance."""
        return not self.levels


_EVERYWHERE = ("signs-pgd-at", "signs-plain", "mnist-fast", "mnist-trades", "cifar10-resnet2b")
_SMALL = ("signs-pgd-at", "mnist-fast", "cifar10-resnet2b")
_PGD = ("pgd", "pgd, early stop")
_APGD = ("apgd", "apgd, early stop")

ROWS = (
    Row(name="FGSM", method="fgsm", ours=("fgsm",), steps=1, n=128),
    Row(name="PGD-20", method="pgd", ours=_PGD, steps=20, n=128, subjects=_EVERYWHERE),
    Row(name="PGD-50", method="pgd", ours=_PGD, steps=50, n=32),
    Row(name="APGD-CE-100", method="apgd", ours=_APGD, steps=100, n=32),
    Row(name="APGD-T", method="apgd-t", ours=("apgd-t",), steps=100, n=12, subjects=_SMALL),
    Row(name="FAB-T", method="fab-t", ours=("fab-t",), steps=100, n=12, subjects=_SMALL),
    Row(name="Square-1000", method="square", ours=("square",), steps=1000, n=24, subjects=_SMALL),
    Row(
        name="AutoAttack",
        method="autoattack",
        ours=("autoattack",),
        steps=100,
        n=32,
        levels=("weak", "middle", "strong"),
        counted=False,
        subjects=("mnist-fast", "cifar10-resnet2b"),
    ),
    Row(name="DDN-100", method="ddn", ours=("ddn",), steps=100, n=32, levels=(), norm="L2"),
    Row(name="FMN-100", method="fmn", ours=("fmn",), steps=100, n=32, levels=()),
    Row(name="CW", method="cw", ours=("cw",), steps=100, n=8, levels=(), norm="L2", subjects=_SMALL),
    Row(name="DeepFool", method="deepfool", ours=("deepfool",), steps=50, n=32, levels=(), norm="L2"),
    Row(
        name="Curve-8",
        method="pgd",
        ours=("curve",),
        steps=20,
        n=32,
        levels=("strong",),
        ladder=True,
        subjects=_SMALL,
    ),
    Row(
        name="PGD-20-memory",
        method="pgd",
        ours=("pgd",),
        steps=20,
        n=16,
        subjects=("resnet18-random",),
        memory=True,
    ),
)
"""All rows, cheap ones first."""

QUICK = {"FGSM": 32, "PGD-20": 32, "APGD-CE-100": 16}
"""Rows of a quick run, and their images."""
