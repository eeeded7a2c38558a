"""Large arrays of an archive are read row by row: the same images and messages as of small ones."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from pictures import build_pixels

from robustbench_local.data import archive_array
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.npz import list_npz
from robustbench_local.errors import DataError, RefusedError

X, Y = build_pixels(7, 6, 5, 3), np.arange(7) % 3
WRITERS = [np.savez, np.savez_compressed]


@pytest.fixture
def streamed(monkeypatch):
    """Every array counts as large, and two images are a block."""
    monkeypatch.setattr(archive_array, "MIN_STREAMED_BYTES", 0)
    monkeypatch.setattr(archive_array, "BLOCK_BYTES", 2 * X[0].nbytes)


def save(tmp_path, write=np.savez, **arrays):
    path = tmp_path / "made.npz"
    write(path, **({"y": Y} | arrays))
    return path


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "stored",
    [
        X, X.transpose(0, 3, 1, 2).copy(), X[..., 0].copy(), np.asfortranarray(X),
        (X / 255).astype(np.float16),
        X.astype(np.uint16) << 8, X.astype(">u2") << 8, X > 100,
    ],
    ids=["HWC", "CHW", "HW", "by column", "float16", "uint16", "big-endian", "bool"],
)  # fmt: skip
def test_images_labels_and_digest_are_those_of_an_array_in_memory(
    tmp_path, streamed, monkeypatch, write, stored
):
    masks = np.zeros((7, 6, 5), bool)
    masks[:, 1:3] = True
    path = save(
        tmp_path, write, x=stored, mask=masks, ids=np.arange(7) + 10, class_names=np.array(["a", "b", "c"])
    )
    row_by_row = load_dataset(f"npz:{path}")
    picture = list_npz(path, where="made").read_image
    assert all(np.array_equal(picture(row).pixels, picture(row).pixels) for row in (6, 0, 3)), "in any order"
    monkeypatch.setattr(archive_array, "MIN_STREAMED_BYTES", 1 << 30)
    at_once = load_dataset(f"npz:{path}")
    assert row_by_row.compute_digest() == at_once.compute_digest()
    assert (row_by_row.ids, row_by_row.notes, row_by_row.class_names) == (
        at_once.ids,
        at_once.notes,
        ("a", "b", "c"),
    )


@pytest.mark.parametrize(
    "images",
    [
        X.astype(np.float32),
        np.where(np.arange(7)[:, None, None, None] == 5, np.nan, X / 255),
        (X.astype(np.float32) / 255 - 0.5) * np.array([1, 1, 1, 1, 3, 1, 3])[:, None, None, None],
        np.ones_like(X), X.astype(np.int32), X.astype(complex), X[:0], X[..., :2], X.astype("U"),
    ],
    ids=[
        "0 to 255", "NaN in row 5", "normalized", "ones", "int32", "complex", "none", "two channels", "texts",
    ],
)  # fmt: skip
def test_messages_are_those_of_an_array_in_memory(tmp_path, streamed, monkeypatch, images):
    path, messages = save(tmp_path, x=images), []
    for smallest in (0, 1 << 30):
        monkeypatch.setattr(archive_array, "MIN_STREAMED_BYTES", smallest)
        with pytest.raises(DataError) as caught:
            load_dataset(f"npz:{path}")
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_only_arrays_from_the_limit_on_are_streamed(tmp_path, monkeypatch):
    with zipfile.ZipFile(save(tmp_path, x=X)) as archive:
        size = archive.getinfo("x.npy").file_size
        for limit, expected in ((size, True), (size + 1, False)):
            monkeypatch.setattr(archive_array, "MIN_STREAMED_BYTES", limit)
            found = archive_array.find_large_array(archive, "x", tmp_path / "made.npz", "made")
            assert (found is not None) is expected
        assert archive_array.find_large_array(archive, "z", tmp_path / "made.npz", "made") is None


def test_objects_are_refused_and_damage_is_one_line(tmp_path, streamed):
    with pytest.raises(RefusedError, match="pickled objects"):
        load_dataset(f"npz:{save(tmp_path, x=np.array([{}, {}], dtype=object))}")
    rng = np.random.default_rng(0)
    for write in WRITERS:
        path = save(tmp_path, write, x=rng.integers(0, 256, (7, 40, 40, 3), dtype=np.uint8))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            load_dataset(f"npz:{path}")
    entries = {"y.npy": path.with_name("y.npy"), "x.npy": path.with_name("x.npy")}
    np.save(entries["y.npy"], Y)
    np.save(entries["x.npy"], X)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(entries["y.npy"], "y.npy")
        archive.writestr("x.npy", entries["x.npy"].read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read"):
        load_dataset(f"npz:{path}")


def test_a_file_that_is_replaced_while_it_is_read_is_an_error(tmp_path, streamed):
    path = save(tmp_path, x=X)
    listing = list_npz(path, where="made")
    listing.read_image(3)
    array = archive_array.ArchiveArray(path, "made", "x.npy", X.shape, X.dtype, 128)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="has changed since it was opened"):
        array.read_row(0)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        array.read_row(0)


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_is_written_over_between_two_rows_is_an_error(tmp_path, streamed, write):
    path = save(tmp_path, write, x=X)
    listing = list_npz(path, where="made")
    listing.read_image(0)
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # other content of the same size
    with pytest.raises(DataError, match="made: the file has changed since it was opened"):
        listing.read_image(1)


MEASURE = """
import resource, sys
from robustbench_local.data import archive_array, pixel_spool
from robustbench_local.data.data_sources import load_dataset
archive_array.MIN_STREAMED_BYTES = archive_array.BLOCK_BYTES = 1 << 20
pixel_spool.MAX_BYTES_IN_MEMORY = 4 << 20
for name in sys.argv[1:]:
    data = load_dataset(f"npz:{name}")
    data.compute_digest()
    print(len(data), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, write):
    names, rng = [], np.random.default_rng(0)
    for count in (100, 500):
        images = rng.integers(0, 16, (count, 3, 128, 128), dtype=np.uint8) * 16 + 15
        names.append(str(tmp_path / f"{count}.npz"))
        write(names[-1], x=images, y=np.arange(count) % 10)
    command = [sys.executable, "-c", MEASURE, *names]
    settings = os.environ | {"RBL_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
    (few, small), (many, large) = (map(int, line.split()) for line in answer.stdout.splitlines())
    assert (few, many) == (100, 500)
    assert large - small < 15, "MiB; 400 images are 19 MiB as bytes, and 75 as numbers"
