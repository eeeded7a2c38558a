"""Memory that runs out (F63, F64): the same verdicts from fewer images, or one line and a resumable run."""

from __future__ import annotations

import random
from collections.abc import Callable

from fault import FaultTrial, add_variants, register_fault
from workplace import MAKE_ODD, RUN_FLAGS, CommandResult, DeviationError, FaultWorkspace

FAMILY = "short memory"
GREEDY_MODEL = """
class Odd(Net):
    def forward(self, x):
        logits = super().forward(x)
        if len(x) > {most}:
            {act}
        return logits

def fail(*_):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
"""
MORE_ATTACKS = """attacks:
  - {card: apgd100-linf-8, eps: 1/255}
  - {card: square-linf-8, eps: 1/255, queries: 20}
"""
FORWARD = "fail()"
BACKWARD = "logits.requires_grad and logits.register_hook(fail)"
SMALLEST_SPACE_MIB, LARGEST_SPACE_MIB = 8, 400
"""Address space beyond that of a process that has imported everything: from far too little to enough."""


def _make_greedy_trial(most: int, act: str) -> FaultTrial:
    """A model for which memory runs out with more images at once than ``most``."""

    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(GREEDY_MODEL.format(most=most, act=act) + MAKE_ODD)
        place.edit_grid("attacks:\n", MORE_ATTACKS)
        place.run().expect_code(0).expect_words("out of memory with")
        for attack in ("pgd50-linf-8", "apgd100-linf", "square-linf"):
            expected = place.read_robust_accuracy("plain", attack)
            if place.read_robust_accuracy("odd", attack) != expected:
                raise DeviationError(f"{attack} gives another number with fewer images at once")

    return trial


add_variants(
    FAMILY,
    "memory for",
    {
        "five images in a forward pass": _make_greedy_trial(5, FORWARD),
        "one image in a forward pass": _make_greedy_trial(1, FORWARD),
        "three images in a backward pass": _make_greedy_trial(3, BACKWARD),
    },
)


@register_fault(FAMILY)
def memory_for_no_image_at_all(place: FaultWorkspace, _draw: random.Random) -> None:
    place.write_model(GREEDY_MODEL.format(most=0, act=FORWARD) + MAKE_ODD)
    place.run().expect_code(4)
    if place.find_cell("plain")["status"] != "done":
        raise DeviationError("another model's shortage ends the cell of the sound one")
    if place.find_cell("odd")["status"] not in {"error", "partial"}:
        raise DeviationError(f"the cell without memory is {place.find_cell('odd')['status']!r}")


@register_fault(FAMILY, has_variants=True)
def a_run_in_a_small_address_space(place: FaultWorkspace, draw: random.Random) -> None:
    place.run(out="expected").expect_code(0)
    _run_in_small_space(place, draw, lambda: ("run", "grid.yaml", *RUN_FLAGS, "--out", "out"))
    if place.read_robust_accuracy("plain") != place.read_robust_accuracy("plain", out="expected"):
        raise DeviationError("a run that was short of memory has another number")


@register_fault(FAMILY, has_variants=True)
def a_report_in_a_small_address_space(place: FaultWorkspace, draw: random.Random) -> None:
    place.run().expect_code(0)
    _run_in_small_space(place, draw, lambda: ("report", "out"))


@register_fault(FAMILY, has_variants=True)
def a_data_check_in_a_small_address_space(place: FaultWorkspace, draw: random.Random) -> None:
    _run_in_small_space(place, draw, lambda: ("check-data", "npz:images.npz"), codes=(0, 1))


@register_fault(FAMILY, has_variants=True)
def a_training_in_a_small_address_space(place: FaultWorkspace, draw: random.Random) -> None:
    words = "train standard --data npz:images.npz --val-share 0.25 --batch-size 8 --device cpu"
    settings = (
        "--checkpoint",
        "c.ckpt",
        "--set",
        "epochs=2",
        "--set",
        "warmup_epochs=1",
        "--out",
        "w.safetensors",
    )
    _run_in_small_space(place, draw, lambda: (*words.split(), *settings))


def _run_in_small_space(
    place: FaultWorkspace,
    draw: random.Random,
    build: Callable[[], tuple[str, ...]],
    codes: tuple[int, ...] = (0,),
) -> None:
    """Run a command with little memory: it ends well, or with 4 and one line; the same command goes on."""
    mebibytes = draw.randint(SMALLEST_SPACE_MIB, LARGEST_SPACE_MIB)
    short = place.run_command(*build(), address_space_mib=mebibytes)
    short.expect_code(*codes, 4)
    if short.code == 4:
        _expect_one_line(short, mebibytes)
    place.run_command(*build()).expect_code(*codes)


def _expect_one_line(short: CommandResult, mebibytes: int) -> None:
    lines = [line for line in short.stderr.splitlines() if line.startswith("rbl: error")]
    if len(lines) > 1:
        raise DeviationError(f"{len(lines)} lines of errors with {mebibytes} MiB: {short.format_tail()}")
