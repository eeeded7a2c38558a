"""Images on the disk are the same as in memory, in every form in which they are read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import build_pixels
from PIL import Image

from robustbench_local.data import folder, pixel_spool, stored_images
from robustbench_local.data.collect import Listing, ReadOptions, collect_dataset
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.decode import DecodedImage
from robustbench_local.data.stored_images import FilePixels, StoredImages
from robustbench_local.errors import DataError, StorageError

COUNT = 10


@pytest.fixture
def photographs(tmp_path):
    """A folder of color and gray images in two classes, with a file that is no image."""
    for number in range(COUNT):
        path = tmp_path / "photographs" / ("ab"[number % 2]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = build_pixels(9, 7, 3, seed=number)
        Image.fromarray(pixels[..., 0] if number == 4 else pixels).save(path)
    (tmp_path / "photographs" / "a" / "99.png").write_bytes(b"\x89PNG but no image")
    return tmp_path / "photographs"


@pytest.fixture
def on_disk(monkeypatch, tmp_path):
    """Every data set is too large for the memory."""
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 2000)  # two images are kept before the disk
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))


def load(source, **options):
    return load_dataset(f"folder:{source}", gray_to_rgb=True, max_bad=1, **options)


@pytest.mark.parametrize("options", [{}, {"size": [6, 5]}])
def test_stored_data_are_those_in_memory(photographs, monkeypatch, tmp_path, options):
    known, reads = load(photographs, **options), []
    read_image = folder.read_image
    monkeypatch.setattr(
        folder, "read_image", lambda path, **how: reads.append(path) or read_image(path, **how)
    )
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 2000)
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "cache"))
    data = load(photographs, **options)
    assert isinstance(data.images, StoredImages)
    assert not isinstance(known.images, StoredImages)
    assert data.compute_digest() == known.compute_digest()
    for name in ("ids", "class_names", "quarantined", "notes", "preparation", "image_shape"):
        assert getattr(data, name) == getattr(known, name)
    assert torch.equal(data.load_images().images, known.images)
    assert len(set(reads)) == len(reads) == COUNT + 1, "each file is decoded once"
    assert list((tmp_path / "cache" / "images").iterdir()) == [], "no file is left behind"


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        slice(2, 7, 2),
        [3, 1],
        torch.tensor([8, 0, 8]),
        np.array([5]),
        (0, 0),
        (slice(1, 4), 2, slice(0, 3)),
        torch.arange(COUNT) % 3 == 0,
    ],
)
def test_an_index_gives_the_tensor_that_it_gives_in_memory(photographs, on_disk, index):
    images = load(photographs).images
    whole = torch.cat(list(images.iterate_batches()))
    assert torch.equal(images[index], whole[index])
    assert images.shape == whole.shape
    assert images.dtype == torch.float32
    if not isinstance(index, int | tuple):
        images.announce_rows(index)
        assert torch.equal(images.select_rows(index)[:], whole[index])
    assert torch.equal(torch.stack(list(images)), whole)


def test_large_selections_stay_on_the_disk(photographs, on_disk, monkeypatch):
    data = load(photographs)
    monkeypatch.setattr("robustbench_local.data.dataset.MAX_LOADED_IMAGES", 4)
    few, many = data.select_images([3, 1, 4, 5]), data.select_images([3, 1, 4, 5, 9])
    assert isinstance(few.images, torch.Tensor)
    assert isinstance(many.images, StoredImages)
    assert few.load_images() is few
    assert torch.equal(many.load_images().images[:4], few.images)
    assert many.ids[:4] == few.ids


def test_other_processes_and_machines_read_the_same(photographs, on_disk):
    images = load(photographs).images
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(copy[:], images[:])
    copy.announce_rows([0])
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, images[7].numpy().tobytes())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1 << 16) == images[7].numpy().tobytes()
    os.close(reader)
    os.close(writer)


def test_a_byte_that_changes_on_the_disk_is_noticed(photographs, on_disk):
    images = load(photographs).images
    file, entries = images._pixels._file, images._pixels._entries
    os.pwrite(file.fileno(), bytes([images._pixels.read_pixels(3)[0, 0, 0] ^ 1]), entries[3].offset)
    assert images[2].shape == images[4].shape
    with pytest.raises(DataError, match="image 3 have changed on the disk"):
        images[2:5]
    short = FilePixels(file, [entries[-1]._replace(offset=1 << 30)])
    with pytest.raises(DataError, match="image 0 have changed"):
        short.read_pixels(0)


def test_values_outside_by_rounding_are_clamped_as_in_memory(monkeypatch):
    arrays = [np.full((4, 4, 1), value, np.float32) for value in (0.25, 1 + 5e-7, -5e-7, 1)]
    listing = Listing(
        name="made", where="made up", ids=list("abcd"), labels=np.zeros(4, np.int64), class_names=("a",),
        label_map={"a": 0}, read_image=lambda position: DecodedImage(arrays[position]),
    )  # fmt: skip
    known = collect_dataset(listing, range(4), ReadOptions())
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 100)
    stored = collect_dataset(listing, range(4), ReadOptions())
    assert isinstance(stored.images, StoredImages)
    assert stored.notes == known.notes != ()
    assert torch.equal(stored.images[:], known.images)


def test_a_full_disk_and_a_missing_cache_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(pixel_spool, "MAX_BYTES_IN_MEMORY", 1)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RBL_CACHE", str(tmp_path / "file"))
    assert pixel_spool.find_spool_folder().is_dir()
    spool = pixel_spool.PixelSpool("photographs")
    spool.append(build_pixels(4, 4, 3, seed=0))
    spool._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    with pytest.raises(StorageError, match=r"cannot be written to .*No space left"), spool._file:
        spool.append(build_pixels(4, 4, 3, seed=1))


def test_a_batch_is_a_bounded_part(photographs, on_disk, monkeypatch):
    monkeypatch.setattr(stored_images, "BATCH_IMAGES", 4)
    assert [len(part) for part in load(photographs).images.iterate_batches()] == [4, 4, 2]
