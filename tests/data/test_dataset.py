"""Dataset: what it accepts, what it refuses, and what stays the same."""

from __future__ import annotations

import pytest
import torch

from robustbench_local.data.dataset import Dataset, as_dataset, build_class_names, format_rows
from robustbench_local.errors import DataError


def make(count: int = 4, **changes) -> Dataset:
    images = torch.rand(count, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    fields = {
        "images": images,
        "labels": torch.arange(count) % 3,
        "ids": tuple(f"made/{row}" for row in range(count)),
        "class_names": ("stop", "yield", "no entry"),
        "name": "made",
    }
    return Dataset(**(fields | changes))


def test_a_sound_data_set_knows_its_size_and_classes():
    data = make()
    assert (len(data), data.num_classes, data.has_class_names) == (4, 3, True)
    assert not make(class_names=build_class_names(3)).has_class_names


def test_select_keeps_images_labels_ids_and_masks_together():
    masks = torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    data = make(masks=masks, notes=("kept",))
    part = data.select_images([2, 0])
    assert part.ids == ("made/2", "made/0")
    assert torch.equal(part.images, data.images[[2, 0]])
    assert part.labels.tolist() == [2, 0]
    assert torch.equal(part.masks, masks[[2, 0]])
    assert part.notes == ("kept",)


def test_digest_is_stable_and_sees_every_part():
    assert (
        make().compute_digest() == make().compute_digest() == make().select_images(range(4)).compute_digest()
    )
    base = make()
    brighter = base.images.clone()
    brighter[3, 2, 4, 5] = 1 - brighter[3, 2, 4, 5]
    others = [
        make(images=brighter),
        make(labels=torch.tensor([0, 1, 2, 1])),
        make(ids=("a", "b", "c", "d")),
        make(masks=torch.ones(4, 1, 5, 6, dtype=torch.bool)),
        base.select_images([1, 0, 2, 3]),
    ]
    digests = {other.compute_digest() for other in others} | {base.compute_digest()}
    assert len(digests) == 6


def test_digest_does_not_depend_on_memory_layout():
    data = make()
    strided = make(images=data.images.to(memory_format=torch.channels_last))
    assert data.compute_digest() == strided.compute_digest()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.rand(4, 5, 6)}, r"must be \(N, C, H, W\)"),
        ({"images": torch.rand(4, 5, 6, 3)}, r"permute\(0, 3, 1, 2\)"),
        ({"images": torch.rand(4, 3, 0, 6)}, "no pixels"),
        ({"images": torch.rand(4, 3, 5, 6).double()}, "float32"),
        ({"labels": torch.zeros(4)}, "class indices, int64"),
        ({"labels": torch.zeros(4, 1, dtype=torch.int64)}, "class indices, int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "3 labels"),
        ({"ids": ("a", "b", "c", "b")}, "'b' occurs twice"),
        ({"masks": torch.ones(4, 5, 6, dtype=torch.bool)}, "masks must be"),
        ({"masks": torch.ones(4, 1, 5, 6)}, "masks must be"),
    ],
)
def test_wrong_parts_are_refused(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        make(**changes)
    assert str(caught.value).startswith("made")
    assert "\n" not in str(caught.value)


def test_as_dataset_takes_a_data_set_as_it_is():
    data = make()
    assert as_dataset(data) is data


def test_as_dataset_names_the_images_of_a_pair():
    data = as_dataset((torch.rand(3, 1, 4, 4), torch.tensor([0, 5, 2])), name="mine")
    assert data.ids == ("mine/0", "mine/1", "mine/2")
    assert data.class_names == build_class_names(6)
    assert not data.has_class_names


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_as_dataset_reads_any_float(dtype):
    data = as_dataset((torch.full((2, 3, 4, 4), 0.5, dtype=dtype), torch.tensor([0, 1])))
    assert data.images.dtype == torch.float32
    assert (data.images == 0.5).all()


def test_as_dataset_scales_bytes_and_leaves_the_callers_tensors_alone():
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    labels = torch.tensor([1, 0], dtype=torch.int32)
    data = as_dataset((images, labels))
    assert torch.allclose(data.images, torch.tensor(0.2))
    assert data.labels.dtype == torch.int64
    assert images.dtype == torch.uint8
    assert int(images[0, 0, 0, 0]) == 51


def test_as_dataset_detaches():
    images = torch.rand(1, 3, 4, 4, requires_grad=True)
    assert not as_dataset((images, torch.tensor([0]))).images.requires_grad


@pytest.mark.parametrize("data", [torch.rand(3, 3, 4, 4), (torch.rand(1, 3, 4, 4),), ("a", "b"), 5])
def test_as_dataset_refuses_what_is_no_pair(data):
    with pytest.raises(DataError, match="pair"):
        as_dataset(data)


def test_as_dataset_refuses_floating_labels_and_integer_images():
    with pytest.raises(DataError, match="class indices"):
        as_dataset((torch.rand(2, 3, 4, 4), torch.tensor([0.0, 1.0])))
    with pytest.raises(DataError, match="float32"):
        as_dataset((torch.ones(2, 3, 4, 4, dtype=torch.int64), torch.tensor([0, 1])))


def test_as_dataset_refuses_identifiers_as_labels():
    with pytest.raises(DataError, match="label 999999999 cannot be a class index"):
        as_dataset((torch.rand(2, 3, 4, 4), torch.tensor([0, 999_999_999])))


def test_rows_in_words():
    assert format_rows(torch.tensor([False, True])) == "row 1"
    assert format_rows(torch.tensor([True, True])) == "rows 0, 1"
    assert format_rows(torch.ones(9, dtype=torch.bool)) == "rows 0, 1, 2, 3, 4, ... (9 in all)"
