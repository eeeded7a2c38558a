"""The rendered signs: deterministic, each image its own, on the 8-bit grid, outlines where the signs are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from robustbench_local.data.gtsrb import CLASS_NAMES
from robustbench_local.data.rendered_signs import sign_dataset as signs
from robustbench_local.data.rendered_signs.sign_camera import project_points
from robustbench_local.data.rendered_signs.sign_dataset import (
    load_signs,
    render_clean_sign,
    write_contact_sheet,
)
from robustbench_local.data.rendered_signs.sign_shapes import DRAWN_CLASSES, render_front_view
from robustbench_local.errors import DataError

REQUIRED = {0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 14, 15, 17, 18, 33, 34, 35, 38, 39, 40}


@pytest.fixture(scope="module")
def data():
    return load_signs(per_class=4)


def _rows(data, label):
    return [row for row, one in enumerate(data.labels.tolist()) if one == label]


def test_the_same_call_gives_the_same_images(data):
    again = load_signs(per_class=1)
    assert len(again) == len(DRAWN_CLASSES)
    assert torch.equal(data.images[: len(again)], again.images)
    assert torch.equal(data.masks[: len(again)], again.masks)
    assert data.ids[: len(again)] == again.ids
    assert data.surface == "the sign inside the outline that it is drawn with"


def test_an_image_does_not_depend_on_how_many_are_asked_for(data):
    for few in (load_signs(per_class=4, limit=31), load_signs(per_class=2)):
        whole = dict(zip(data.ids, data.images, strict=True))
        assert len(few) in (31, 50)
        assert all(torch.equal(whole[one], image) for one, image in zip(few.ids, few.images, strict=True))


def test_an_image_does_not_depend_on_the_other_classes(data):
    two = load_signs(per_class=4, classes=[38, 14])
    assert two.labels.tolist() == [14, 38] * 4
    assert torch.equal(two.images, data.images[torch.isin(data.labels, torch.tensor([14, 38]))])


def test_limit_is_even_over_the_classes(data):
    assert load_signs(per_class=4, limit=31).labels.bincount(minlength=43).max() == 2


def test_only_chosen_images_are_rendered(monkeypatch):
    rendered = []
    photograph = signs.photograph_sign

    def counting(*arguments):
        rendered.append(arguments[0])
        return photograph(*arguments)

    monkeypatch.setattr(signs, "photograph_sign", counting)
    load_signs(per_class=1000, limit=3)
    assert rendered == list(DRAWN_CLASSES[:3])


@pytest.mark.parametrize("other", [{"split": "train"}, {"split": "validation"}, {"seed": 1}])
def test_splits_and_seeds_share_no_image(data, other):
    others = load_signs(per_class=1, **other)
    assert torch.equal(others.labels, data.labels[: len(others)])
    distance = (others.images[:, None] - data.images[None]).abs().mean(dim=(2, 3, 4))
    assert distance.min() > 0.01


def test_ids_say_split_class_and_index(data):
    row = data.ids.index("signs/test/14/00003")
    assert data.labels[row] == 14
    assert len(set(data.ids)) == len(data) == 4 * len(DRAWN_CLASSES)


def test_images_are_float32_on_the_8_bit_grid(data):
    assert data.images.shape == (4 * len(DRAWN_CLASSES), 3, 32, 32)
    assert data.images.dtype == torch.float32
    assert data.images.min() >= 0
    assert data.images.max() <= 1
    assert torch.equal((data.images * 255).round() / 255, data.images)


def test_classes_and_names_are_those_of_gtsrb(data):
    assert set(DRAWN_CLASSES) >= REQUIRED
    assert data.class_names == CLASS_NAMES
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 43
    for label, name in {
        0: "Speed limit (20km/h)",
        14: "Stop",
        13: "Yield",
        40: "Roundabout mandatory",
    }.items():
        assert CLASS_NAMES[label] == name


def test_names_are_spelt_as_beside_the_real_photographs(shared_data):
    with np.load(shared_data / "gtsrb_test_strat1000.npz", allow_pickle=False) as archive:
        assert tuple(archive["class_names"].tolist()) == CLASS_NAMES


def test_signs_fill_most_of_the_frame_and_none_of_its_corners(data):
    share = data.masks.float().mean(dim=(1, 2, 3))
    assert share.min() > 0.15
    assert share.max() < 0.75
    assert data.masks.shape == (len(data), 1, 32, 32)
    circles = torch.cat([data.masks[_rows(data, label)] for label in (0, 17, 35)])
    assert not circles[..., [0, 0, -1, -1], [0, -1, 0, -1]].any()
    octagons = share[_rows(data, 14)]
    triangles = share[_rows(data, 13)]
    assert octagons.mean() > triangles.mean() + 0.05


def test_stop_signs_are_red_inside_the_outline_and_not_outside():
    data = load_signs(per_class=40, seed=3, classes=[14])
    images, inside = data.images, data.masks
    assert set(data.labels.tolist()) == {14}
    red = images[:, :1] - images[:, 1:].mean(dim=1, keepdim=True)
    red_inside = (red * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
    red_outside = (red * ~inside).sum(dim=(1, 2, 3)) / (~inside).sum(dim=(1, 2, 3))
    assert (red_inside > red_outside).float().mean() > 0.9
    assert red_inside.mean() > red_outside.mean() + 0.1


@pytest.mark.parametrize("size", [16, 50, 128])
def test_a_scene_is_the_same_at_any_size(size):
    fine, coarse = load_signs(limit=6, size=size), load_signs(limit=6, size=32)
    assert fine.images.shape == (6, 3, size, size)
    assert fine.masks.shape == (6, 1, size, size)
    resized = torch.nn.functional.interpolate(fine.images, (32, 32), mode="bilinear", antialias=True)
    assert (resized - coarse.images).abs().mean() < 0.04
    share = fine.masks.float().mean(dim=(1, 2, 3)) - coarse.masks.float().mean(dim=(1, 2, 3))
    assert share.abs().max() < 0.03


def test_clean_sign_has_its_colours_inside_its_outline():
    picture, outline = render_clean_sign(14, 64)
    assert picture.shape == (3, 64, 64)
    assert outline.shape == (1, 64, 64)
    # An octagon of inradius .99 covers 8 tan(22.5 degrees) .99^2 / 4 of its square.
    assert outline.float().mean() == pytest.approx(2 * 0.4142 * 0.99**2, abs=0.01)
    red, green, _ = picture[:, outline[0]].mean(dim=1)
    assert red > green + 0.3
    assert picture[:, ~outline[0]].max() < 0.5


def test_clean_signs_differ_from_each_other():
    pictures = torch.stack([render_clean_sign(label, 32)[0] for label in DRAWN_CLASSES])
    distance = (pictures[:, None] - pictures[None]).abs().mean(dim=(2, 3, 4))
    assert (distance + torch.eye(len(pictures))).min() > 0.01


def test_turn_signs_are_mirror_images():
    left, right = render_front_view(34, 64).rgb, render_front_view(33, 64).rgb
    assert np.abs(left[:, ::-1] - right).mean() < 0.01
    assert np.abs(left - right).mean() > 0.05


def test_homography_of_a_shift_moves_points():
    shift = np.array([[1.0, 0, 0.5], [0, 1, -0.25], [0, 0, 1]])
    assert np.allclose(project_points(shift, np.array([[0.0, 0.0], [1.0, 1.0]])), [[0.5, -0.25], [1.5, 0.75]])


@pytest.mark.parametrize(
    "arguments",
    [{"split": "dev"}, {"per_class": 0}, {"limit": 0}, {"seed": -1}, {"size": 8}, {"size": 5000}],
)
def test_impossible_arguments_are_refused_by_name(arguments):
    with pytest.raises(DataError, match="signs: .*" + next(iter(arguments)).split("_", maxsplit=1)[0]):
        load_signs(**arguments)


def test_a_class_that_is_not_drawn_is_refused():
    with pytest.raises(DataError, match="class 25 is not drawn"):
        render_clean_sign(25)
    with pytest.raises(DataError, match="class 99 is not drawn"):
        load_signs(classes=[14, 99])


def test_contact_sheet_shows_a_class_a_row(tmp_path):
    write_contact_sheet(tmp_path / "sheet.png", columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (64, 32 * len(DRAWN_CLASSES))
        corner = np.asarray(sheet.convert("RGB"))[:32, :32]
    first = load_signs(limit=1).images[0].permute(1, 2, 0).numpy()
    assert np.abs(corner / 255 - first).mean() < 0.02


def test_the_command_writes_a_sheet_or_explains_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signs, "write_contact_sheet", lambda path: path.write_bytes(b"sheet"))
    assert signs.main([str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() == b"sheet"
    assert signs.main([]) == 2
    assert "usage" in capsys.readouterr().err
