"""The kinds of sources that images come from; reading the list needs no torch."""

from __future__ import annotations

DATASET_SOURCES: dict[str, str] = {
    "signs": "rendered traffic signs, embedded, with masks",
    "torchvision:NAME": "a published data set, downloaded where there is a network",
    "folder:DIR": "a folder of PNG, JPEG, PPM or BMP images with a sub-folder per class",
    "npz:FILE": "a NumPy archive with images x and labels y",
    "python:FILE.py:NAME": "what your own function returns, only with --allow-code",
}
"""How each kind is written in a grid file, and what it is."""
