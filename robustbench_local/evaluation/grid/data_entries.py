"""The data entries of a grid file: the images to evaluate on and the images to train on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from robustbench_local.classifier.literals import Interpolation
from robustbench_local.config.strict_yaml import StrictModel

Size = int | tuple[int, int]
"""A side, or height and width, in pixels."""


class DataEntry(StrictModel):
    """The images to evaluate on: a source and a selection of its images."""

    source: str
    """Where the images come from: ``signs``, ``folder:DIR``, ``npz:FILE`` or ``torchvision:NAME``."""
    split: str = "test"
    """``train``, ``val`` or ``test``, where the source has splits. For a folder also the name of another
    split, or ``none`` if its sub-folders are the classes."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Number of images to use; all if it is left out."""
    seed: int | None = None
    """Seed of the choice, and of the rendering of ``signs``; by default the grid's seed."""
    choose: Literal["stratified", "random", "first"] = "stratified"
    """``stratified``: as even over the classes as the data allow. ``random``: any images, so that classes
    keep their shares. ``first``: the first images of the source."""
    size: Size | None = None
    """Side, or ``[height, width]``, in pixels: images are resized to cover it and the center is cut out. If
    it is left out, photographs are prepared as the models prepare theirs."""
    resize: Annotated[int, Field(ge=1)] | Literal["stretch"] | None = None
    """Length of the shorter side before the center is cut out (256 for most ImageNet presets), or
    ``stretch`` to ignore the aspect ratio."""
    interpolation: Interpolation | None = None
    """How images are resized: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, as PIL does it. By
    default bilinear, or as the models do it where ``size`` is left out."""
    gray_to_rgb: bool = False
    """Repeat the single channel of gray images."""
    alpha: str | None = None
    """Background color for transparent images, such as ``white`` or ``"#808080"``."""
    max_bad: Annotated[int, Field(ge=0)] = 0
    """Number of unusable images that the run may leave out; the report lists them."""
    classes: list[int | str] | None = None
    """Use only images of these classes: names, beginnings of names, or indices."""
    download: bool = True
    """Whether torchvision may download a data set that is missing."""
    root: str | None = None
    """Folder of torchvision's data sets; by default ``RBL_DATA``, else ``~/.cache/robustbench_local``."""
    images_key: str | None = None
    """Name of the array of images in an npz file; by default ``x``, ``images`` or ``x_SPLIT``."""
    labels_key: str | None = None
    """Name of the array of labels; by default ``y``, ``labels`` or ``y_SPLIT``."""
    masks_key: str | None = None
    """Name of the array of masks; by default ``mask`` or ``masks``."""
    boxes_key: str | None = None
    """Name of the array of bounding boxes, which may stand in for masks; by default ``box`` or ``boxes``."""
    groups_key: str | None = None
    """Name of the array that says which physical object an image shows; by default ``track`` or ``group``."""
    groups: str | None = None
    """Which images show the same object: ``folder`` for the folders inside the class folders, a CSV file with
    the columns ``image`` and ``group``, or ``none`` for independent images. Intervals, comparisons and gates
    are over groups. By default the source says it."""
    group_pattern: str | None = None
    """Regular expression; what it matches in an image's id names the group within its class. Training keeps
    all images of a group on one side of the split."""
    exclude: str | None = None
    """CSV file of images to leave out, such as the findings of ``rbl check-data``: a column ``image``, and
    optionally ``split`` and ``exclude`` (yes or no)."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """The value that means white, where the data type does not say it, such as 255 for int64."""


class TrainingEntry(DataEntry):
    """The images that recipes train on, and the validation images that select the epoch."""

    split: str = "train"
    """Split to train on."""
    val: str | None = None
    """Source of the validation images; by default the data's own ``val`` split, else a share of the
    training images."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of each class that is held out for validation where there is no validation split."""
    val_limit: Annotated[int, Field(ge=1)] = 1000
    """Largest number of images of a validation split."""
