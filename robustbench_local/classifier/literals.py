"""Keywords shared by grid files, command lines and classifiers; importing them needs no torch."""

from __future__ import annotations

from typing import Literal

Access = Literal["gradients", "scores", "labels"]
"""What an attacker may use of a classifier, most first."""
Precision = Literal["fp32", "bf16"]
"""What a search computes in; every success is checked in fp32."""
BINARY_OUTPUT_REMEDY = (
    "with one output for two classes, declare output: sigmoid if it is the probability of class 1, "
    "output: logit if it is the value before the sigmoid"
)
"""What to do about a model with one output."""
