"""What needs no transformers: the limit of the difference to a processor, and how to install the extra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.hugging_face.image_processors import read_processor
from robustbench_local.models.model_sources import load_classifier


class PlainProcessor:
    """Scales to [0, 1], with an output that is off by a number of gray levels."""

    do_resize = do_center_crop = do_normalize = False
    do_rescale, rescale_factor = True, 1 / 255

    def __init__(self, levels: float, *, squares_too: bool = True) -> None:
        self.levels, self.squares_too = levels, squares_too

    def __call__(self, images: Any, return_tensors: str) -> dict[str, Any]:
        is_square = images.width == images.height
        values = torch.from_numpy(np.array(images)).permute(2, 0, 1)[None] / 255
        return {"pixel_values": values + (0 if is_square and not self.squares_too else self.levels / 255)}


def test_differences_on_both_sides_of_the_limit() -> None:
    assert read_processor(PlainProcessor(2.4)) == (InputContract(), [])
    with pytest.raises(ModelError, match="PlainProcessor is not reproduced here: what it does is not"):
        read_processor(PlainProcessor(2.6))
    _, notes = read_processor(PlainProcessor(2.6, squares_too=False))
    assert notes == ["images that are not square are prepared a little differently by its own processor"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"input_ids": torch.zeros(1, 9)}, "it fails on a photograph: 'pixel_values'"),
        ({"pixel_values": torch.zeros(1, 9, 8)}, "it does not return images"),
        (
            {"pixel_values": torch.full((1, 3, 61, 61), torch.nan)},
            "what it does is not what its configuration",
        ),
        ({"pixel_values": torch.zeros(1, 3, 60, 61)}, "what it does is not what its configuration"),
    ],
)
def test_outputs_that_are_no_images(output: dict[str, Any], message: str) -> None:
    class Processor(PlainProcessor):
        def __call__(self, images: Any, return_tensors: str) -> dict[str, Any]:
            return output

    with pytest.raises(ModelError, match=message):
        read_processor(Processor(0))


@pytest.mark.parametrize(
    ("source", "library"),
    [("hf:here", "transformers"), ("clip:here", "transformers"), ("hf:a/b", "huggingface_hub")],
)
def test_without_the_extra_there_is_a_line_that_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, library: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"{library} is not installed. Run pip install '\.\[hf\]'"):
        load_classifier(source, base_folder=tmp_path, default_class_names=["a", "b"])
