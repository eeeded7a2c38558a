"""Boxes around objects become masks, in pixels of the image or of another picture."""

from __future__ import annotations

import numpy as np
import pytest
from pictures import build_pixels

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.sign_boxes import build_box_masks
from robustbench_local.errors import ConfigError, DataError


def spans(mask):
    """First and last row, first and last column that is set, and whether it is a full rectangle."""
    rows, columns = np.nonzero(mask)
    full = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()), bool(full)


def test_a_box_of_the_image_itself_is_left_top_right_bottom():
    masks = build_box_masks(np.array([[1, 2, 5, 4], [0, 0, 8, 6]]), (2, 6, 8), "here")
    assert masks.shape == (2, 6, 8)
    assert spans(masks[0]) == (2, 3, 1, 4, True)
    assert masks[1].all()


def test_a_box_of_another_picture_is_scaled_and_takes_in_what_is_mostly_inside():
    boxes = np.array([[80, 40, 10, 4, 55, 36]])  # in an image of 20 x 10: 2.5 to 13.75 and 1 to 9
    assert spans(build_box_masks(boxes, (1, 10, 20), "here")[0]) == (1, 8, 2, 13, True)


def test_a_box_smaller_than_a_pixel_keeps_the_nearest_one():
    (mask,) = build_box_masks(np.array([[3.6, 0.1, 3.9, 0.4]]), (1, 4, 8), "here")
    assert spans(mask) == (0, 0, 3, 3, True)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 5]], r"boxes must be numbers \(N, 4\) or \(N, 6\), got int64 \(1, 3\)\. Save left"),
        ([["1", "2", "5", "4"]], "boxes must be numbers"),
        ([[1, 2, 5, 4]] * 2, "1 image but 2 boxes"),
        (
            [[5, 2, 1, 4]],
            r"row 0: a box has no area or extends beyond its image: \[5.0, 2.0, 1.0, 4.0\] in 8 by 6",
        ),
        ([[1, 2, 9, 4]], "extends beyond its image"),
        ([[1, np.nan, 5, 4]], "no area or extends beyond its image"),
        ([[0, 0, 0, 0, 1, 1]], "in 0 by 0"),
    ],
)
def test_boxes_that_are_none(boxes, message):
    with pytest.raises(DataError, match=message):
        build_box_masks(np.array(boxes), (1, 6, 8), "here")


def test_an_archive_names_its_boxes_or_has_them_under_the_usual_name(tmp_path):
    arrays = {"x": build_pixels(3, 8, 8, 3), "y": np.arange(3), "boxes": np.array([[2, 1, 6, 7]] * 3)}
    np.savez(tmp_path / "usual.npz", **arrays)
    np.savez(tmp_path / "named.npz", **arrays, meta=np.array([[16, 16, 4, 4, 8, 12]] * 3))
    usual = load_dataset("npz:usual.npz", base_folder=tmp_path)
    assert spans(usual.masks[0, 0].numpy()) == (1, 6, 2, 5, True)
    assert usual.surface == "the box 'boxes'"
    assert load_dataset("npz:named.npz", base_folder=tmp_path, boxes_key="meta").surface == "the box 'meta'"
    named = load_dataset("npz:named.npz", base_folder=tmp_path, boxes_key="meta")
    assert spans(named.masks[2, 0].numpy()) == (2, 5, 2, 3, True)


def test_masks_go_before_boxes_unless_boxes_are_named_and_both_cannot_be(tmp_path):
    mask = np.eye(8, dtype=bool)
    arrays = {
        "x": build_pixels(1, 8, 8, 3),
        "y": np.zeros(1, int),
        "mask": mask,
        "box": np.array([[2, 1, 6, 7]]),
    }
    np.savez(tmp_path / "both.npz", **arrays)
    assert np.array_equal(load_dataset("npz:both.npz", base_folder=tmp_path).masks[0, 0], mask)
    boxed = load_dataset("npz:both.npz", base_folder=tmp_path, boxes_key="box")
    assert spans(boxed.masks[0, 0].numpy()) == (1, 6, 2, 5, True)
    with pytest.raises(ConfigError, match="both locate the object"):
        load_dataset("npz:both.npz", base_folder=tmp_path, boxes_key="box", masks_key="mask")
    with pytest.raises(DataError, match=r"has no boxes: no array 'roi'.*boxes_key"):
        load_dataset("npz:both.npz", base_folder=tmp_path, boxes_key="roi")
