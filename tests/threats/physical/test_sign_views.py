"""Views: their ranges, whose numbers they are, and the approach of a car."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.physical.views import ViewRange, Views, sample_approach, sample_views

STREAM = RandomStream(0, ("a", "b", "c"), "attack")


def tensors(views: Views) -> dict[str, torch.Tensor]:
    return {field.name: getattr(views, field.name) for field in fields(views)}


def test_views_fill_their_ranges_and_stay_inside():
    views = sample_views(STREAM, 400, ViewRange(), draw="test", device="cpu")
    for name, tensor in tensors(views).items():
        assert tensor.shape == (3, 400)
        if name != "noise_key":
            low, high = ViewRange().find_bounds(name)
            assert low <= float(tensor.min())
            assert float(tensor.max()) <= high
            assert float(tensor.max() - tensor.min()) > 0.95 * (high - low)  # all of the range
            assert float(tensor.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert len(set(views.noise_key.flatten().tolist())) == 1200


def test_a_signs_views_depend_on_nothing_but_its_own_stream_and_the_draw():
    views = sample_views(STREAM, 20, ViewRange(), draw="test", device="cpu")
    alone = sample_views(RandomStream(0, ("c",), "attack"), 7, ViewRange(), draw="test", device="cpu")
    for name, tensor in tensors(views.select_signs([2]).slice_views(0, 7)).items():
        assert torch.equal(tensor, tensors(alone)[name])
    assert views.count == 20
    for other in (
        sample_views(STREAM, 20, ViewRange(), draw="training", device="cpu"),
        sample_views(RandomStream(1, STREAM.ids, "attack"), 20, ViewRange(), draw="test", device="cpu"),
    ):
        assert not (other.yaw == views.yaw).any()
        assert not (other.noise_key == views.noise_key).any()


def test_a_range_of_one_value_gives_that_value():
    still = ViewRange(yaw=0, gain=(1, 1), blur=0, shift=0)
    views = sample_views(STREAM, 5, still, draw="test", device="cpu")
    assert torch.equal(views.yaw, torch.zeros(3, 5))
    assert torch.equal(views.gain, torch.ones(3, 5))
    assert not views.blur.any()
    assert not views.shift_x.any()
    assert views.pitch.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"distance": (64, 16)}, "distance must be finite, at least 0 and in order"),
        ({"gain": (0, 1)}, "gain must be above 0"),
        ({"yaw": -3}, "yaw must be finite, at least 0"),
        ({"yaw": 81}, "yaw is at most 80, got 81"),
        ({"noise": float("nan")}, "noise must be finite"),
        ({"blur": float("inf")}, "blur must be finite"),
        ({"jpeg": (0.5, 90)}, "jpeg qualities are 1 to 100"),
        ({"jpeg": (60, 101)}, "jpeg qualities are 1 to 100"),
        ({"shift": 0.6}, "shift is at most 0.5"),
    ],
)
def test_impossible_ranges_are_refused_in_one_line(wrong: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        ViewRange(**wrong)
    assert "\n" not in str(caught.value)


def test_the_approach_is_a_drive_at_constant_speed_past_the_sign():
    drive = sample_approach(STREAM, ViewRange(), frames=60)
    assert drive.distance[:, [0, -1]].tolist() == [pytest.approx([16, 64])] * 3
    way = 1 / drive.distance  # the way that is left: equal steps at constant speed
    assert torch.allclose(way.diff(dim=1), (way[:, -1:] - way[:, :1]) / 59, atol=1e-7)
    # the sign stands beside the straight road: its tangent grows as the way shrinks
    side = torch.deg2rad(drive.yaw).tan() * way
    assert torch.allclose(side, side[:, :1].expand_as(side), atol=1e-6)
    assert (drive.yaw.abs().diff(dim=1) > 0).all()
    assert float(drive.yaw.abs().max()) <= 45


def test_light_stays_for_a_whole_drive_and_hands_tremble_a_little():
    drive = sample_approach(STREAM, ViewRange(), frames=60)
    for name in ("gain", "offset", "gamma", "blur", "jpeg", "border_position"):
        own = getattr(drive, name)
        assert torch.equal(own, own[:, :1].expand_as(own))
        assert len(set(own[:, 0].tolist())) == 3  # every sign has its own light
    assert 0 < float(drive.roll.abs().max()) <= 15 / 4
    assert len(set(drive.noise[0].tolist())) == 60
