"""What each method of a card is, in a phrase and in the field's words; importing it needs no torch.

The kinds of attacks follow from what they declare about themselves (``access``, ``measure``), those of
certificates and defenses from their family. A test compares this table with the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Method(NamedTuple):
    """A method that cards name."""

    phrase: str
    """What it is, in at most `MAX_PHRASE_CHARACTERS`; empty where every card says it better itself."""
    kinds: tuple[str, ...]
    """Words by which lists are filtered, such as ``("black-box", "score-based")``."""


MAX_PHRASE_CHARACTERS = 28
"""Characters of a phrase that stand beside the longest name and its threat on a line of 80."""

_DISTANCE = ("white-box", "minimum-norm")
_TRANSFER = ("white-box", "transfer")
_TRAINING = ("recipe", "adversarial-training")

ATTACK_METHODS: Mapping[str, Method] = {
    "adaptive": Method("composed for the model", ("white-box", "ensemble", "adaptive")),
    "apgd": Method("APGD", ("white-box",)),
    "apgd-ce+t": Method("APGD-CE, targeted APGD-DLR", ("white-box", "ensemble")),
    "apgd-t": Method("targeted APGD-DLR", ("white-box",)),
    "autoattack": Method("AutoAttack", ("white-box", "ensemble")),
    "boundary": Method("Boundary attack", ("black-box", "decision-based", "minimum-norm")),
    "corruption": Method("", ("corruption",)),
    "curve": Method("PGD at eight radii", _DISTANCE),
    "cw": Method("Carlini-Wagner", _DISTANCE),
    "ddn": Method("DDN", _DISTANCE),
    "deepfool": Method("DeepFool", _DISTANCE),
    "di-fgsm": Method("MI-FGSM, diverse inputs", _TRANSFER),
    "ead": Method("EAD, elastic net", _DISTANCE),
    "fab-t": Method("targeted FAB", ("white-box",)),
    "fgsm": Method("FGSM, one gradient step", ("white-box",)),
    "fmn": Method("FMN", _DISTANCE),
    "hopskipjump": Method("HopSkipJump", ("black-box", "decision-based", "minimum-norm")),
    "mi-fgsm": Method("MI-FGSM, momentum", _TRANSFER),
    "patch": Method("adversarial patch", ("white-box", "physical")),
    "pdpgd": Method("PDPGD, primal-dual", _DISTANCE),
    "pgd": Method("PGD", ("white-box",)),
    "reference:autoattack": Method("AutoAttack by pyautoattack", ("white-box", "ensemble", "reference")),
    "sigma-zero": Method("sigma-zero", _DISTANCE),
    "sigma-zero-ball": Method("sigma-zero in a ball", ("white-box",)),
    "sparse-rs": Method("Sparse-RS", ("black-box", "score-based")),
    "spatial": Method("rotations and translations", ("black-box", "score-based")),
    "spsa": Method("SPSA, estimated gradients", ("black-box", "score-based")),
    "square": Method("Square attack", ("black-box", "score-based")),
    "sticker": Method("adversarial sticker", ("white-box", "physical")),
    "ti-fgsm": Method("MI-FGSM, smoothed gradients", _TRANSFER),
    "vmi-fgsm": Method("MI-FGSM, variance-tuned", _TRANSFER),
}
"""Methods of the cards of kind ``attack``."""

CERTIFICATE_METHODS: Mapping[str, Method] = {
    "crown": Method("CROWN, linear bounds", ("deterministic",)),
    "ibp": Method("IBP, interval bounds", ("deterministic",)),
    "smoothing": Method("randomized smoothing", ("probabilistic",)),
}
"""Methods of the cards of kind ``certificate``."""

DEFENSE_METHODS: Mapping[str, Method] = {
    "ard": Method("ARD", ("recipe", "distillation")),
    "bit-depth": Method("colours of fewer bits", ("wrapper",)),
    "crown-ibp": Method("CROWN-IBP", ("recipe", "certified-training")),
    "distillation": Method("defensive distillation", ("recipe", "distillation")),
    "fast-at": Method("one-step adversarial training", _TRAINING),
    "free-at": Method("free adversarial training", _TRAINING),
    "gaussian": Method("training under Gaussian noise", ("recipe", "noise-training")),
    "ibp": Method("IBP training", ("recipe", "certified-training")),
    "jpeg": Method("JPEG compression", ("wrapper",)),
    "macer": Method("MACER", ("recipe", "noise-training")),
    "mart": Method("MART", _TRAINING),
    "median": Method("median filter", ("wrapper",)),
    "noise": Method("Gaussian noise", ("wrapper", "random")),
    "pgd-at": Method("adversarial training, PGD", _TRAINING),
    "resize-pad": Method("random resizing and padding", ("wrapper", "random")),
    "rslad": Method("RSLAD", ("recipe", "distillation")),
    "smoothadv": Method("SmoothAdv", (*_TRAINING, "noise-training")),
    "smoothing": Method("randomized smoothing", ("wrapper", "random")),
    "standard": Method("ordinary training", ("recipe",)),
    "trades": Method("TRADES", _TRAINING),
}
"""Methods of the cards of kind ``defense``."""

METHODS_BY_KIND: Mapping[str, Mapping[str, Method]] = {
    "attack": ATTACK_METHODS,
    "certificate": CERTIFICATE_METHODS,
    "defense": DEFENSE_METHODS,
}

UNKNOWN_METHOD = Method("", ())
"""What is said of a method of somebody else's."""
