"""JPEG in one batch against Pillow's files."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_local.data.rendered_signs.sign_dataset import load_signs
from robustbench_local.threats.physical.camera_jpeg import compress_jpeg

SIGNS = load_signs(limit=6).images


def filed(image: torch.Tensor, quality: int) -> torch.Tensor:
    """The image as Pillow reads it back."""
    levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, format="JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file))).view(*image.shape[1:], -1).permute(2, 0, 1) / 255


@pytest.mark.parametrize("quality", [30, 60, 75, 95])
@pytest.mark.parametrize(("channels", "most"), [(1, 0.3), (3, 1.0)])
def test_it_is_pillows_jpeg(quality: int, channels: int, most: float):
    images = SIGNS if channels == 3 else (SIGNS.mean(dim=1, keepdim=True) * 255).round() / 255
    ours = compress_jpeg(images, torch.full((6,), float(quality)))
    theirs = torch.stack([filed(image, quality) for image in images])
    apart = 255 * float((ours - theirs).abs().mean())
    assert apart < most  # levels; colours are converted in whole numbers there
    assert apart < 0.5 * 255 * float((images - theirs).abs().mean())
    assert torch.equal((ours * 255).round() / 255, ours)


@pytest.mark.parametrize("size", [(20, 33), (7, 9)])
def test_any_size_is_filled_up_to_blocks(size: tuple[int, int]):
    images = SIGNS[..., : size[0], :].repeat(1, 1, 1, 2)[..., : size[1]]
    ours = compress_jpeg(images, torch.full((6,), 80.0))
    theirs = torch.stack([filed(image, 80) for image in images])
    assert ours.shape == images.shape
    assert 255 * float((ours - theirs).abs().mean()) < 1.5


def test_each_image_has_its_own_quality_and_none_means_untouched():
    mixed = compress_jpeg(SIGNS, torch.tensor([0.0, 10, 50, 90, 100, 0]))
    assert torch.equal(mixed[[0, 5]], SIGNS[[0, 5]])
    for row, quality in ((1, 10.0), (3, 90.0)):
        assert torch.equal(mixed[row], compress_jpeg(SIGNS[row : row + 1], torch.tensor([quality]))[0])
    lost = (mixed - SIGNS).abs().flatten(1).mean(dim=1)
    assert lost[1] > lost[3] > lost[4] > 0
