"""A model's preprocessing as a grid file declares it, where it differs from that of the model's source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from robustbench_local.classifier.input_contract import make_contract
from robustbench_local.classifier.literals import ChannelOrder, CropRounding, Interpolation
from robustbench_local.config.strict_yaml import StrictModel
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.data_entries import Size


class PreprocessingEntry(StrictModel):
    """How a model takes its images, besides ``normalize`` and ``input_size``; by default as its source says.

    Images that have the model's ``input_size`` are neither resized nor cropped.
    """

    resize: Size | Literal["stretch"] | None = None
    """Length of the shorter side before the center is cut out, such as 256 for 224; ``[height, width]`` or
    ``stretch`` (to ``input_size``) ignores the aspect ratio."""
    interpolation: Interpolation | None = None
    """How images are resized: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, as PIL does it."""
    antialias: bool | None = None
    """``false`` for models whose images were shrunk without antialiasing."""
    crop_rounding: CropRounding | None = None
    """Where a crop with an odd margin begins: ``down`` as transformers rounds half a pixel, or ``nearest`` as
    torchvision does."""
    channel_order: ChannelOrder | None = None
    """``bgr`` for networks from Caffe or OpenCV."""
    value_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """255 for a model that takes 0..255; then the mean and deviation of ``normalize`` are in that range, in
    the order of the model's channels."""

    @field_validator("*", mode="before")
    @classmethod
    def _check_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what no contract can have, in the contract's words."""
        try:
            make_contract({info.field_name or "": value}, input_size=(1, 1))
        except ConfigError as error:
            raise ValueError("; ".join(filter(None, (error.what, error.remedy)))) from None
        return value

    def list_values(self) -> dict[str, Any]:
        """Return the values that are set."""
        return self.model_dump(exclude_none=True)
