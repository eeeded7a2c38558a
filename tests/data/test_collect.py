"""From listings to data sets: shapes, channels, quarantine, copies, memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pictures import build_pixels

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.data import pixel_spool
from robustbench_local.data.collect import Listing, ModelContract, ReadOptions, collect_dataset
from robustbench_local.data.decode import BadImageError, DecodedImage
from robustbench_local.data.resize import prepare_pixels
from robustbench_local.data.stored_images import StoredImages
from robustbench_local.errors import ConfigError, DataError, StorageError


def make(pictures, **changes) -> Listing:
    def read(position):
        picture = pictures[position]
        if isinstance(picture, str):
            raise BadImageError(picture)
        return picture if isinstance(picture, DecodedImage) else DecodedImage(picture)

    fields = {
        "name": "made",
        "where": "made up",
        "ids": [f"{position}.png" for position in range(len(pictures))],
        "labels": np.arange(len(pictures), dtype=np.int64) % 3,
        "class_names": ("a", "b", "c"),
        "label_map": {"a": 0, "b": 1, "c": 2},
        "read_image": read,
    }
    return Listing(**(fields | changes))


def colours(count, *shape):
    return [build_pixels(*(shape or (6, 5, 3)), seed=seed) for seed in range(count)]


def test_pictures_become_images_exactly_and_in_order():
    pictures = colours(4)
    data = collect_dataset(make(pictures), [3, 1], ReadOptions())
    assert data.images.shape == (2, 3, 6, 5)
    assert torch.equal((data.images[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(pictures[3]))
    assert data.ids == ("3.png", "1.png")
    assert data.labels.tolist() == [0, 1]
    assert (data.name, data.class_names, data.label_map["c"]) == ("made", ("a", "b", "c"), 2)


def test_only_the_chosen_pictures_are_read():
    data = collect_dataset(make(["broken", *colours(3)]), [1, 2], ReadOptions())
    assert data.quarantined == ()
    assert len(data) == 2


def test_bad_pictures_are_set_aside_up_to_the_limit():
    listing = make(["truncated", *colours(3), "empty file"])
    data = collect_dataset(listing, range(5), ReadOptions(max_bad=2))
    assert data.quarantined == (("0.png", "truncated"), ("4.png", "empty file"))
    assert data.ids == ("1.png", "2.png", "3.png")
    with pytest.raises(
        DataError, match=r"made up: 2 images cannot be used: 0\.png \(truncated\), 4\.png \(empty.*max_bad: 2"
    ):
        collect_dataset(listing, range(5), ReadOptions(max_bad=1))


def test_when_all_are_bad_no_limit_helps():
    with pytest.raises(DataError, match=r"4 images cannot be used: .*, \.\.\.\. Repair or remove them$"):
        collect_dataset(make(["x"] * 4), range(4), ReadOptions(max_bad=9))


def test_nothing_is_an_error():
    with pytest.raises(DataError, match="made up: there are no images"):
        collect_dataset(make([]), [], ReadOptions())


def test_notes_are_counted():
    one, other = colours(2)
    listing = make(
        [DecodedImage(one, ("turned",)), DecodedImage(other, ("turned", "scaled"))], notes=("from afar",)
    )
    assert collect_dataset(listing, [0, 1], ReadOptions()).notes == (
        "from afar",
        "2 images: turned",
        "1 image: scaled",
    )


def test_grey_alone_stays_grey_unless_it_is_wanted_in_colour():
    greys = colours(3, 6, 5, 1)
    assert collect_dataset(make(greys), range(3), ReadOptions()).images.shape == (3, 1, 6, 5)
    data = collect_dataset(make(greys), range(3), ReadOptions(gray_to_rgb=True))
    assert data.images.shape == (3, 3, 6, 5)
    assert torch.equal(data.images[:, 0], data.images[:, 2])
    assert data.notes == ("3 images: gray, repeated to RGB",)


def test_grey_among_colours_has_to_be_declared():
    mixed = [*colours(2), build_pixels(6, 5, 1, seed=9)]
    with pytest.raises(DataError, match=r"1 of 3 images is gray .* the first: 2\.png.*gray_to_rgb: true"):
        collect_dataset(make(mixed), range(3), ReadOptions())
    assert collect_dataset(make(mixed), range(3), ReadOptions(gray_to_rgb=True)).images.shape == (3, 3, 6, 5)
    assert collect_dataset(make(colours(2)), range(2), ReadOptions(gray_to_rgb=True)).notes == ()


def test_sizes_have_to_agree_or_be_declared():
    mixed = [*colours(1), build_pixels(8, 9, 3)]
    with pytest.raises(DataError, match=r"sizes differ: 0\.png is 5x6 and 1\.png is 9x8.*size: 224"):
        collect_dataset(make(mixed), range(2), ReadOptions())
    assert collect_dataset(make(mixed), range(2), ReadOptions(size=(4, 7))).images.shape == (2, 3, 4, 7)
    assert collect_dataset(make(mixed), range(2), ReadOptions(size=(4, 4), resize=5)).images.shape == (
        2,
        3,
        4,
        4,
    )


def test_masks_follow_their_images():
    masks = np.zeros((2, 6, 6), dtype=bool)
    masks[1, :, 3:] = True
    listing = make(colours(2, 6, 6, 3), masks=masks)
    assert (
        collect_dataset(listing, [1], ReadOptions()).masks.tolist()
        == torch.from_numpy(masks[[1]][:, None]).tolist()
    )
    small = collect_dataset(listing, [0, 1], ReadOptions(size=(4, 4))).masks
    assert small.shape == (2, 1, 4, 4)
    assert not small[0].any()
    assert small[1, 0].tolist() == [[False, False, True, True]] * 4


def test_copies_are_noted_and_contradictions_counted():
    one, other = colours(2)
    data = collect_dataset(make([one, other, one, one.copy()]), range(4), ReadOptions())
    assert data.notes == (
        "2 images: exact copies of others, 1 of them with another label, the first: 2.png of 0.png",
    )
    assert collect_dataset(make([one, other]), range(2), ReadOptions()).notes == ()


def test_bytes_and_floats_stand_together():
    listing = make([np.full((2, 2, 1), 255, np.uint8), np.full((2, 2, 1), 0.25, np.float32)])
    assert collect_dataset(listing, [0, 1], ReadOptions()).images.amax(dim=(1, 2, 3)).tolist() == [1, 0.25]


def test_what_cannot_fit_onto_the_disk_is_said_at_once(monkeypatch):
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 20 * 16 * 16 * 3 * 4 - 1)
    monkeypatch.setattr(
        pixel_spool.shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 16 * 16 * 3 - 1)
    )
    reads = []
    listing = make(colours(20, 16, 16, 3))
    with pytest.raises(
        StorageError,
        match=r"20 images need 0.0 MB on the disk, and .* has 0.0 MB.*Free some space, or set a limit",
    ):
        collect_dataset(listing, range(20), ReadOptions(), lambda done, total: reads.append(done))
    assert reads == []
    monkeypatch.setattr(pixel_spool.shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 16 * 16 * 3))
    assert isinstance(collect_dataset(listing, range(20), ReadOptions()).images, StoredImages)
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 20 * 16 * 16 * 3 * 4)
    assert isinstance(collect_dataset(listing, range(20), ReadOptions()).images, torch.Tensor)


def test_progress_is_told():
    told = []
    collect_dataset(
        make(["bad", *colours(2)]),
        range(3),
        ReadOptions(max_bad=1),
        lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bad": -1}, "max_bad must be 0 or more"),
        ({"alpha": "whitish"}, "'whitish' is not a color"),
        ({"resize": 256}, "resize needs size"),
        ({"resize": 200, "size": (224, 224)}, "resize 200 is smaller than size 224"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        ReadOptions(**options)


CONTRACT = InputContract(input_size=(4, 4), resize=5, interpolation="bicubic", channel_order="bgr")


def test_images_of_several_sizes_are_prepared_by_a_contract():
    """All of them, also those before the first of another size; of the contract, only its geometry counts."""
    asked = []

    def find(class_names, size):
        asked.append((class_names, size))
        return ModelContract(contract=CONTRACT, models="net does")

    pictures = [*colours(2), *colours(2, 9, 7, 3)]
    masks = np.zeros((4, 6, 5), dtype=bool)
    data = collect_dataset(make(pictures), range(4), ReadOptions(), find_contract=find)
    assert asked == [(("a", "b", "c"), None)]
    assert data.notes == ("photographs are prepared as net does: shorter side 5, bicubic, center 4x4",)
    assert data.preparation == InputContract(input_size=(4, 4), resize=5, interpolation="bicubic")
    expected = [prepare_pixels(picture, CONTRACT) for picture in pictures]
    assert np.array_equal((data.images * 255).round().byte().permute(0, 2, 3, 1).numpy(), expected)
    own = collect_dataset(make(pictures), range(4), ReadOptions(interpolation="nearest"), find_contract=find)
    assert own.preparation is not None
    assert own.preparation.interpolation == "nearest"
    asked.clear()
    once = collect_dataset(make(colours(2), masks=masks), range(2), ReadOptions(), find_contract=find)
    assert asked == [(("a", "b", "c"), (6, 5))]
    assert once.images.shape == (2, 3, 4, 4)
    assert once.masks is not None
    assert once.masks.shape == (2, 1, 4, 4)


def test_without_a_contract_sizes_stay_or_are_refused():
    def find(_class_names, _size):
        return None

    kept = collect_dataset(make(colours(2)), range(2), ReadOptions(), find_contract=find)
    assert kept.preparation is None
    pictures = [*colours(1), *colours(1, 9, 7, 3)]
    with pytest.raises(DataError, match=r"sizes differ.*or the input_size of a model"):
        collect_dataset(make(pictures), range(2), ReadOptions(), find_contract=find)
    sized = ReadOptions(size=(4, 4))  # the user's size comes first: nothing is asked
    fixed = collect_dataset(make(pictures), range(2), sized, find_contract=lambda *_: 1 / 0)
    assert fixed.preparation == InputContract(input_size=(4, 4))
    stretched = ReadOptions(size=(4, 3), resize="stretch", interpolation="lanczos").preparation
    assert stretched == InputContract(input_size=(4, 3), resize=(4, 3), interpolation="lanczos")
