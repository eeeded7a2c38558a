"""The camera against independent computations: geometry, optics, light, gradients, independence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve, convolve1d, gaussian_filter
from scipy.stats import norm

from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.camera import compute_exposure, compute_homography, photograph_scenes
from robustbench_local.threats.physical.views import ViewRange, Views, build_plain_views, sample_views

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LEVELS = (IMAGES * 255).round() / 255
STREAM = RandomStream(0, ("a", "b", "c"), "attack")


def one(**changes: float) -> Views:
    """A view of one sign in which only these differ from the plain one."""
    return replace(
        build_plain_views(1), **{name: torch.full((1, 1), value) for name, value in changes.items()}
    )


def test_the_plain_view_is_the_image_in_8_bits():
    shots = photograph_scenes(LEVELS, build_plain_views(3, 2))
    assert torch.equal(shots, LEVELS[:, None].expand(-1, 2, -1, -1, -1))
    gray = LEVELS[:, :1]
    assert torch.equal(photograph_scenes(gray, build_plain_views(3)), LEVELS[:, None, :1])


def rotated(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The rotation written out by the exponential of its axes."""
    turn = np.eye(3)
    for axis, degrees in ((1, yaw), (0, pitch), (2, roll)):
        cross = np.cross(np.eye(3)[axis], np.eye(3)).T
        angle = math.radians(degrees)
        turn = (np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross) @ turn
    return turn


def test_points_of_the_sign_fall_where_a_pinhole_puts_them():
    views = sample_views(STREAM, 4, ViewRange(shift=0.2), draw="test", device="cpu")
    maps = compute_homography(views)
    for sign, view in ((0, 0), (1, 3), (2, 2)):
        at = {name: float(getattr(views, name)[sign, view]) for name in
              ("distance", "yaw", "pitch", "roll", "shift_x", "shift_y")}  # fmt: skip
        away = 640 / at["distance"]
        for x, y in ((-1, -1), (0.5, -0.3), (1, 1)):
            space = rotated(at["yaw"], at["pitch"], at["roll"]) @ np.array([x, y, 0.0])
            across = away * space[0] / (away + space[2]) + 2 * at["shift_x"]
            down = away * space[1] / (away + space[2]) + 2 * at["shift_y"]
            mapped = maps[sign, view] @ torch.tensor([x, y, 1.0], dtype=torch.float64)
            assert (mapped[:2] / mapped[2]).tolist() == pytest.approx([across, down], abs=1e-6)


def test_the_picture_is_the_one_pillow_makes_with_that_homography():
    smooth = torch.from_numpy(gaussian_filter(LEVELS[:1].numpy(), (0, 0, 2, 2))).clamp(0, 1)
    view = one(yaw=30.0, pitch=-15.0, roll=10.0, shift_x=0.05, distance=64.0)
    ours = compute_exposure(smooth, view)[0, 0]
    to_pixels = np.array([[16, 0, 16], [0, 16, 16], [0, 0, 1]])
    back = np.linalg.inv(to_pixels @ compute_homography(view)[0, 0].numpy() @ np.linalg.inv(to_pixels))
    for plane, seen in zip(smooth[0].numpy(), ours.numpy(), strict=True):
        warped = Image.fromarray(plane).transform(
            (32, 32), Image.Transform.PERSPECTIVE, (back / back[2, 2]).ravel()[:8], Image.Resampling.BILINEAR
        )
        inside = np.asarray(warped) > 0
        inside[[0, -1]] = inside[:, [0, -1]] = False
        assert inside.mean() > 0.5
        assert np.abs(np.asarray(warped) - seen)[inside].max() < 5e-3


def test_what_comes_in_from_outside_is_the_borders_pixel():
    seen = compute_exposure(IMAGES[:1], one(shift_x=0.25))[0, 0]
    assert torch.allclose(
        seen[..., 8:], compute_exposure(IMAGES[:1], build_plain_views(1))[0, 0, ..., :-8], atol=1e-6
    )
    assert torch.allclose(seen[..., :8], seen[..., 8:9].expand(-1, -1, 8), atol=1e-6)


@pytest.mark.parametrize(
    ("view", "sigma"),
    [
        (one(blur=1.5), 1.5),
        (one(distance=16.0), math.sqrt(((0.8 * 32 / 16) ** 2 - 1) / 4)),
        (one(distance=8.0, blur=1.0), math.sqrt(1 + ((0.8 * 32 / 8) ** 2 - 1) / 4)),
        (one(distance=25.6), 0),  # as large as in the frame: nothing is lost
    ],
)
def test_focus_and_distance_smooth_as_a_gaussian(view: Views, sigma: float):
    seen = compute_exposure(
        IMAGES, Views(**{name: value.expand(3, 1) for name, value in vars(view).items()})
    )[:, 0]
    edges = np.arange(-15, 17) - 0.5
    kernel = np.diff(norm.cdf(edges / sigma)) if sigma else (np.arange(-15, 16) == 0).astype(float)
    expected = IMAGES.numpy()
    for axis in (2, 3):
        expected = convolve1d(expected, kernel, axis=axis, mode="nearest")
    assert float((seen - torch.from_numpy(expected)).abs().max()) < 2e-4


def test_motion_along_a_row_is_the_mean_of_shifted_rows():
    seen = compute_exposure(IMAGES[:1], one(motion=4.0))[0, 0].numpy()
    points = np.linspace(-2, 2, 65)
    kernel = np.maximum(0, 1 - np.abs(np.arange(-2, 3)[:, None] - points)).mean(axis=1)
    expected = convolve(IMAGES[0].numpy(), kernel[None, None, :], mode="nearest")
    assert np.abs(seen - expected).max() < 2e-4
    upright = compute_exposure(IMAGES[:1].transpose(2, 3), one(motion=4.0, motion_angle=math.pi / 2))[0, 0]
    assert np.abs(upright.transpose(1, 2).numpy() - seen).max() < 1e-5


def test_blur_and_motion_are_in_pixels_of_a_small_frame():
    ramp = torch.zeros(1, 1, 64, 64)
    ramp[..., 32:] = 1.0
    large = compute_exposure(ramp, one(blur=1.0))[0, 0, 0, 32]
    small = compute_exposure(ramp[..., ::2, ::2], one(blur=1.0))[0, 0, 0, 16]
    assert torch.allclose(large.view(32, 2).mean(dim=1), small, atol=0.01)


def test_light_is_gain_gamma_and_offset():
    dim = photograph_scenes(IMAGES[:1], one(gain=0.6, offset=0.1, gamma=1.4))[0, 0]
    assert float((dim - (0.6 * IMAGES[0] ** 1.4 + 0.1)).abs().max()) < 1 / 255
    bright = photograph_scenes(IMAGES[:1], one(gain=3.0))
    assert float(bright.max()) == 1


def test_noise_has_the_deviation_that_the_view_says_and_is_the_views_own():
    gray = torch.full((1, 3, 64, 64), 0.5)
    views = replace(one(noise=0.05), noise_key=torch.tensor([[7]]))
    shot = photograph_scenes(gray, views)
    assert float(shot.std()) == pytest.approx(0.05, rel=0.05)
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.003)
    assert torch.equal(shot, photograph_scenes(gray, views))
    assert not torch.equal(shot, photograph_scenes(gray, replace(views, noise_key=torch.tensor([[8]]))))


def test_a_photograph_depends_on_its_own_scene_and_view_alone():
    views = sample_views(STREAM, 6, ViewRange(), draw="test", device="cpu")
    together = photograph_scenes(IMAGES, views)
    assert torch.equal((together * 255).round() / 255, together)
    for sign in range(3):
        alone = photograph_scenes(IMAGES[sign : sign + 1], views.select_signs([sign]).slice_views(2, 5))
        # the last digits of a sum may turn the rounding of a coefficient, and with it a block by a level
        assert float((alone[0] - together[sign, 2:5]).abs().mean()) < 0.05 / 255
    each = IMAGES[:, None].expand(-1, 6, -1, -1, -1)
    assert float((photograph_scenes(each, views) - together).abs().mean()) < 1e-5


def test_the_smooth_part_has_the_right_gradient():
    views = sample_views(STREAM, 2, ViewRange(distance=(4, 8), motion=20), draw="test", device="cpu")
    draws = torch.Generator().manual_seed(1)
    scenes = (0.2 + 0.6 * IMAGES.double()).requires_grad_()
    weights = torch.rand(3, 2, 3, 32, 32, generator=draws, dtype=torch.float64)
    (slope,) = torch.autograd.grad((weights * compute_exposure(scenes, views)).sum(), scenes)
    with torch.no_grad():
        for _ in range(5):
            way = torch.randn(scenes.shape, generator=draws, dtype=torch.float64) * 1e-5
            rise = (
                weights * (compute_exposure(scenes + way, views) - compute_exposure(scenes - way, views))
            ).sum() / 2
            assert float(rise) == pytest.approx(float((slope * way).sum()), rel=1e-5)


def test_compression_and_rounding_pass_the_gradient_straight_through():
    views = sample_views(STREAM, 2, ViewRange(noise=0, offset=0, gain=(0.9, 0.9)), draw="test", device="cpu")
    scenes = (0.2 + 0.5 * IMAGES).requires_grad_()
    (through,) = torch.autograd.grad(photograph_scenes(scenes, views).sum(), scenes)
    (smooth,) = torch.autograd.grad(compute_exposure(scenes, views).sum(), scenes)
    assert torch.allclose(through, smooth)
    assert float((through.abs().amax(dim=1) > 0).float().mean()) > 0.9  # the sign is in the picture


def test_black_and_white_pixels_have_gradients_too():
    scenes = (IMAGES > 0.5).float().requires_grad_()
    shots = photograph_scenes(scenes, build_plain_views(3))
    assert torch.equal(shots[:, 0], scenes)
    (slope,) = torch.autograd.grad(shots.sum(), scenes)
    assert torch.allclose(slope, torch.ones(()), atol=2e-3)
