"""Rotation and translation against torchvision, pixel shifts, and bits that must not change."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from robustbench_local.threats.warp import rotate_and_translate, sample_bilinear

IMAGES = torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("angle", "right", "down"), [(30, 0, 0), (-17, 2, -3), (90, 0, 0), (0, 5, 1)])
def test_it_is_torchvisions_affine_map(angle: float, right: int, down: int):
    count = len(IMAGES)
    shifts = torch.tensor([right / 24, down / 20]).expand(count, 2)
    ours = rotate_and_translate(IMAGES, torch.full((count,), float(angle)), shifts)
    theirs = affine(IMAGES, -angle, [right, down], 1.0, [0.0], interpolation=InterpolationMode.BILINEAR)
    assert torch.allclose(ours, theirs, atol=2e-4)


def test_what_is_neither_turned_nor_moved_keeps_its_bits():
    angles = torch.tensor([0.0, 5.0, 0.0, 0.0])
    shifts = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.1, 0.0], [0.0, 0.0]])
    moved = rotate_and_translate(IMAGES, angles, shifts)
    assert torch.equal(moved[[0, 3]], IMAGES[[0, 3]])
    assert not torch.equal(moved[1], IMAGES[1])
    assert (moved[2, :, :, :2] == 0).all()  # what comes in from the left is black


def test_an_image_is_moved_alike_in_every_batch():
    angles, shifts = torch.tensor([3.0, -30.0, 180.0, 77.0]), torch.rand(4, 2) / 5
    together = rotate_and_translate(IMAGES, angles, shifts)
    for row in range(4):
        alone = rotate_and_translate(IMAGES[row : row + 1], angles[row : row + 1], shifts[row : row + 1])
        assert torch.equal(alone[0], together[row])


def test_sampling_between_pixels_is_bilinear_on_one_pixel_wide_images_too():
    column = torch.tensor([0.0, 1.0, 3.0]).view(1, 1, 3, 1)
    read = sample_bilinear(column, torch.tensor([[[0.5], [1.75]]]), torch.zeros(1, 2, 1))
    assert read.flatten().tolist() == pytest.approx([0.5, 2.5])


def test_the_clamp_hides_no_pixel_at_the_border():
    images = (IMAGES > 0.5).float().requires_grad_()  # nothing but black and white
    moved = rotate_and_translate(images, torch.zeros(4), torch.tensor([2 / 24, 0.0]).expand(4, 2))
    (slope,) = torch.autograd.grad(moved.sum(), images)
    assert torch.allclose(slope[..., 1:-3], torch.ones(()), atol=1e-3)  # the last two columns have left
    assert torch.allclose(slope[..., -2:], torch.zeros(()), atol=1e-3)
