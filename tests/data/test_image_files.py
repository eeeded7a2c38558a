"""Images in formats that are not read: listed, counted where a gate is judged, never a class in silence."""

from __future__ import annotations

import os

import numpy as np
import pytest
from pictures import save_folder
from PIL import Image

from robustbench_local.cli.main import run_command
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, find_unread_format
from robustbench_local.errors import DataError


@pytest.fixture
def pets(tmp_path):
    save_folder(tmp_path / "pets", {"cat": 2, "dog": 2})
    return tmp_path / "pets"


@pytest.mark.parametrize(
    "name",
    ["a.tif", "b.TIFF", "c.gif", "d.webp", "e.heic", "f.avif", "g.svg", "h.jxl", "i.jp2", "j.ico", "k.dng"],
)
def test_they_are_listed_and_count_where_a_gate_is_judged(pets, name):
    (pets / "dog" / name).write_bytes(b"whatever")
    data = load_dataset("folder:pets", base_folder=pets.parent)
    assert [one for one, _ in data.quarantined] == [f"dog/{name}"]
    assert len(data) == 4
    with pytest.raises(DataError, match=rf"1 image cannot be used: dog/{name} .*max_bad: 1"):
        load_dataset("folder:pets", base_folder=pets.parent, count_unread=True)
    assert len(load_dataset("folder:pets", base_folder=pets.parent, count_unread=True, max_bad=1)) == 4
    only_cats = load_dataset("folder:pets", base_folder=pets.parent, count_unread=True, classes=["cat"])
    assert only_cats.quarantined == ()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("name", ["image", "image.bak", "a.png~", "a.jpg_large"])
def test_images_that_lost_their_ending_are_found_by_their_first_bytes(pets, kind, name):
    Image.new("RGB", (4, 4)).save(pets / "cat" / name, format=kind)
    data = load_dataset("folder:pets", base_folder=pets.parent)
    assert [one for one, _ in data.quarantined] == [f"cat/{name}"]
    assert kind in data.quarantined[0][1]


@pytest.mark.parametrize("name", ["notes.txt", "Thumbs.db", "labels.csv", ".hidden.tif", "data.bin", "empty"])
def test_other_files_are_no_images(pets, name):
    (pets / "cat" / name).write_bytes(b"")
    assert find_unread_format(pets / "cat" / name) is None
    assert load_dataset("folder:pets", base_folder=pets.parent, count_unread=True).quarantined == ()


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.npy", "a.zip", "a.mp4", "deep/a.gif"])
def test_a_class_with_nothing_that_is_read_stops_the_run(pets, name):
    path = pets / "owl" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"the class owl has no readable image, only 1 \.") as raised:
        load_dataset("folder:pets", base_folder=pets.parent)
    assert raised.value.exit_code == 3


@pytest.mark.parametrize("name", ["readme.txt", ".DS_Store", None])
def test_a_class_folder_with_nothing_at_all_is_noted(pets, name):
    (pets / "owl").mkdir()
    if name:
        (pets / "owl" / name).write_text("x")
    data = load_dataset("folder:pets", base_folder=pets.parent)
    assert "class folders without images: owl" in data.notes


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPG", "pbm"])
def test_other_endings_of_formats_that_are_read_are_read(pets, ending):
    kind = "PPM" if ending == "pbm" else "JPEG"
    content = np.random.default_rng(1).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    image = Image.fromarray(content)
    image = image.convert("1") if ending == "pbm" else image
    image.save(pets / "cat" / f"x.{ending}", format=kind)
    data = load_dataset("folder:pets", base_folder=pets.parent, gray_to_rgb=True)
    assert f"cat/x.{ending}" in data.ids
    assert not IMAGE_SUFFIXES & UNREAD_SUFFIXES


@pytest.mark.parametrize(("gates", "code"), [("[{metric: clean_accuracy, min: 0}]", 3), ("[]", 0)])
def test_a_gate_makes_the_difference(workplace, capsys, gates, code):
    save_folder(workplace / "digits", {str(index): 2 for index in range(10)}, mode="L", size=(28, 28))
    (workplace / "digits" / "3" / "lost.tif").write_bytes(b"II*\0")
    (workplace / "g.yaml").write_text(
        "data: {source: 'folder:digits'}\nmodels:\n"
        "  - {id: first, source: 'checkpoint:first.safetensors', architecture: mnist_fast}\n"
        f"attacks: [fgsm-linf-8]\ngates: {gates}\n"
    )
    assert run_command(["run", "g.yaml", "--dry-run", "--batch-size", "8", "--device", "cpu"]) == code
    if code:
        assert "3/lost.tif (a .tif image" in capsys.readouterr().err


def test_linked_folders_are_not_followed_in_silence(pets):
    save_folder(pets.parent / "elsewhere", {"more": 2})
    (pets / "cat" / "more").symlink_to(pets.parent / "elsewhere" / "more")
    data = load_dataset("folder:pets", base_folder=pets.parent)
    assert [one for one, _ in data.quarantined] == ["cat/more"]
    with pytest.raises(DataError, match="a link to a folder"):
        load_dataset("folder:pets", base_folder=pets.parent, count_unread=True)


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "link to a device", "sparse", "folder"])
def test_what_only_looks_like_an_image_file_is_listed_and_never_opened(pets, kind):
    path = pets / "cat" / "x.png"
    if kind == "folder":
        path.mkdir()
        assert len(load_dataset("folder:pets", base_folder=pets.parent)) == 4
        return
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(pets.parent / "pipe")
        path.symlink_to(pets.parent / "pipe")
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(2**30 + 1)
    if kind == "fifo":
        assert load_dataset("folder:pets", base_folder=pets.parent).quarantined == (
            ("cat/x.png", "no regular file"),
        )
        with pytest.raises(DataError, match="no regular file"):
            load_dataset("folder:pets", base_folder=pets.parent, count_unread=True)
        return
    with pytest.raises(DataError, match=r"x\.png"):
        load_dataset("folder:pets", base_folder=pets.parent)
