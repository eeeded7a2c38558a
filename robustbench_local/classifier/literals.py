"""Keywords shared by grid files, command lines and classifiers; importing them needs no torch."""

from __future__ import annotations

from typing import Literal

Access = Literal["gradients", "scores", "labels"]
"""The attacker's access to a classifier, from most to least."""
Precision = Literal["fp32", "bf16"]
"""Precision of a search; every success is verified in fp32."""
BINARY_OUTPUT_REMEDY = (
    "with one output for two classes, declare output: sigmoid if it is the probability of class 1, "
    "output: logit if it is the value before the sigmoid"
)
"""Advice for a model with one output."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
"""How an image is resized, by the names of PIL and torchvision."""
CropRounding = Literal["nearest", "down"]
ChannelOrder = Literal["rgb", "bgr"]
"""The order in which a model takes the channels of a color image."""
