"""``check_dataset``: planted faults are found, named, and left out; clean data have none."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.cli.main import run_command
from robustbench_local.data.checks import class_checks, image_survey
from robustbench_local.data.checks.check_dataset import check_dataset
from robustbench_local.data.checks.data_finding import CHECKS
from robustbench_local.data.checks.findings_file import format_table
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, DataError, ModelError
from robustbench_local.evaluation.training import frozen_features
from robustbench_local.models.loaded_model import LoadedModel


def _draw(generator, kind, side=40):
    """A smooth random photograph with a bright disk or bar, which is its class."""
    coarse = generator.integers(0, 160, (8, 8, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    down, across = np.mgrid[:side, :side] - side // 2
    shape = down**2 + across**2 < 120 if kind == "disk" else abs(down) < 5
    image[shape] = (250, 40, 40) if kind == "disk" else (40, 60, 250)
    return image


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two splits of two classes, 14 and 6 images of each, no two alike."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 14), ("test", 6)):
        for kind in ("disk", "bar"):
            place = tmp_path / "photos" / split / kind
            place.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(_draw(generator, kind)).save(place / f"{'abcdefghijklmn'[index]}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def _check(folder, capsys, *words):
    code = run_command(["check-data", f"folder:{folder}", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def _pairs(content, check):
    rows = [row for row in content["findings"] if row["check"] == check]
    return {
        (f"{row['split']}/{row['image']}", row.get("other_split"), row.get("other_image")) for row in rows
    }


@pytest.mark.slow
def test_clean_photographs_have_no_error(folder, capsys):
    code, content = _check(folder, capsys)
    assert (code, content["passed"]) == (0, True)
    assert content["images"] == {"train": 28, "test": 12}
    assert content["counts"] == {"error": {}, "warning": {"few-images": 2}, "note": {}}
    assert content["label_accuracy"]["n"] == 40


def test_planted_copies_and_labels_are_named_and_left_out(folder, capsys, tmp_path):
    image = Image.open(folder / "train/disk/b.png")
    changed = {
        "big": image.resize((90, 90), Image.Resampling.BICUBIC),
        "dark": ImageEnhance.Brightness(Image.open(folder / "train/disk/c.png")).enhance(0.6),
        "crop": Image.open(folder / "train/disk/d.png").crop((2, 1, 38, 37)),
    }
    for name, picture in changed.items():
        picture.save(folder / f"test/disk/{name}.jpg", quality=85)
    (folder / "test/disk/same.png").write_bytes((folder / "train/disk/a.png").read_bytes())
    (folder / "train/disk/e.png").rename(folder / "train/bar/wrong.png")
    code, content = _check(folder, capsys, "--out", "out")
    assert (code, content["passed"]) == (1, False)
    assert _pairs(content, "same-image-across-splits") == {("train/disk/a.png", "test", "disk/same.png")}
    near = _pairs(content, "near-duplicate-across-splits") | _pairs(
        content, "possible-duplicate-across-splits"
    )
    assert near == {
        ("train/disk/b.png", "test", "disk/big.jpg"),
        ("train/disk/c.png", "test", "disk/dark.jpg"),
        ("train/disk/d.png", "test", "disk/crop.jpg"),
    }
    [wrong] = [row for row in content["findings"] if row["check"] == "likely-wrong-label"]
    assert (wrong["image"], wrong["class"], wrong["likelier_class"]) == ("bar/wrong.png", "bar", "disk")
    assert wrong["probability"] > 0.8
    left = load_dataset("folder:photos", split="train", size=32, exclude="out/findings.csv")
    assert {"disk/a.png", "disk/b.png", "bar/wrong.png"}.isdisjoint(left.ids)
    assert left.exclusion.file == "findings.csv"
    assert set(left.exclusion.images) >= {"disk/a.png", "disk/b.png", "bar/wrong.png"}
    assert any("left out by findings.csv" in note for note in left.notes)
    assert left.compute_digest() != load_dataset("folder:photos", split="train", size=32).compute_digest()
    code, content = _check(folder, capsys, "--exclude", "out/findings.csv", "--no-labels")
    assert "same-image-across-splits" not in content["counts"]["error"]
    assert (
        load_dataset("folder:photos", split="test", size=32, exclude="out/findings.csv").exclusion.images
        == ()
    )


def test_files_that_cannot_be_used_and_odd_classes_are_findings(folder, capsys):
    disk = folder / "train/disk"
    (disk / "zero.png").write_bytes(b"")
    (disk / "cut.png").write_bytes((disk / "a.png").read_bytes()[:200])
    Image.new("RGB", (30, 30)).save(disk / "moving.gif")
    Image.new("RGB", (30, 30), (9, 9, 9)).save(disk / "blank.png")
    Image.new("RGB", (90, 20)).save(disk / "long.png")
    Image.open(disk / "b.png").convert("CMYK").save(disk / "[bold]x\n\u202e.jpg", quality=95)
    clear = Image.open(disk / "c.png").convert("RGBA")
    clear.putalpha(128)
    clear.save(disk / "clear.png")
    (disk / "loop").symlink_to("..")
    (folder / "train/Disk ").mkdir()
    Image.open(disk / "a.png").save(folder / "train/Disk /x.png")
    (folder / "train/only_gifs").mkdir()
    Image.new("RGB", (30, 30)).save(folder / "train/only_gifs/x.gif")
    (folder / "test/new").mkdir()
    Image.fromarray(_draw(np.random.default_rng(9), "bar")).save(folder / "test/new/x.png")
    code, content = _check(folder, capsys, "--no-labels")
    assert code == 1
    unusable = {row["image"] for row in content["findings"] if row["check"] == "unreadable"}
    assert unusable == {
        "disk/zero.png", "disk/cut.png", "disk/moving.gif", "disk/clear.png", "disk/loop", "only_gifs/x.gif",
    }  # fmt: skip
    assert content["counts"]["error"]["class-missing-in-training"] == 1
    assert content["counts"]["error"]["contradictory-labels"] == 2
    warnings = content["counts"]["warning"]
    assert (warnings["similar-class-names"], warnings["blank-image"], warnings["extreme-shape"]) == (1, 2, 1)
    assert warnings["empty-class"] == 1
    assert any("CMYK" in row["detail"] for row in content["findings"] if row["check"] == "conversion")
    assert run_command(["check-data", f"folder:{folder}", "--no-labels"]) == 1
    printed = capsys.readouterr().out
    assert "\u202e" not in printed
    assert "6 files that cannot be used" in printed


def _build_data(images, labels, **fields):
    tensor = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    ids = fields.pop(
        "ids", tuple(f"x{index:c}" if False else f"image {index}" for index in range(len(images)))
    )
    names = ("bar", "disk")
    return Dataset(
        images=tensor, labels=torch.tensor(labels), ids=ids, class_names=names, name="drawn", **fields
    )


def test_objects_in_two_splits_are_found_by_groups_and_by_names():
    generator = np.random.default_rng(1)
    images = [_draw(generator, ("bar", "disk")[index % 2]) for index in range(24)]
    labels = [index % 2 for index in range(24)]
    groups = tuple(f"{index % 2}/{index // 4}" for index in range(24))
    data = _build_data(images, labels, groups=groups)
    parts = {"train": data.select_images(range(14)), "test": data.select_images(range(14, 24))}
    leaks = [
        row
        for row in check_dataset(parts, are_labels_checked=False).findings
        if row.check == "object-across-splits"
    ]
    assert {row.image for row in leaks} == {"image 12", "image 13"}
    assert all(row.is_exclusion_suggested for row in leaks)
    alone = check_dataset(parts, are_labels_checked=False, splits_of_groups=["train"])
    assert "object-across-splits" not in alone.count_checks()
    ids = tuple(f"{index % 2}/{index // 4:05}_{index % 4:05}.ppm" for index in range(24))
    named = _build_data(images, labels, ids=ids)
    parts = {"train": named.select_images(range(14)), "test": named.select_images(range(14, 24))}
    check = check_dataset(parts, are_labels_checked=False)
    assert check.count_checks("warning")["names-across-splits"] == 2
    assert "names-across-splits" in format_table(check)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((100, 100), {}),
        (
            (99, 100),
            {"few-images": 1},
        ),
        ((100, 1000), {}),
        ((100, 1001), {"imbalance": 1}),
        ((100, 0), {"imbalance": 1, "empty-class": 1}),
    ],
)
def test_classes_are_counted(counts, expected):
    labels = ["bar"] * counts[0] + ["disk"] * counts[1]
    empty = torch.empty(0)
    surveyed = image_survey.SurveyedImages(
        ids=list(map(str, range(len(labels)))), splits=["train"] * len(labels), labels=labels, digests=[],
        groups=[], thumbnails=empty, features=None, is_blank=[],
    )  # fmt: skip
    found = class_checks.check_classes(surveyed, {"train": ("bar", "disk")})
    assert {
        check: sum(row.check == check for row in found) for check in {row.check for row in found}
    } == expected


@pytest.mark.parametrize(
    ("side", "length", "is_extreme"), [(8, 32, False), (8, 33, True), (7, 20, True), (40, 160, False)]
)
def test_shapes_that_a_crop_loses_are_named(side, length, is_extreme):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 255, (side, length, 3), dtype=np.uint8)
    found = check_dataset({"all": _build_data([image], [0])}, are_labels_checked=False).count_checks()
    assert ("extreme-shape" in found) == is_extreme


def test_contrast_below_which_an_image_is_blank():
    def count(spread):
        image = np.full((20, 20, 3), 100, dtype=np.uint8)
        image[:, ::2] += spread
        found = check_dataset({"all": _build_data([image], [0])}, are_labels_checked=False)
        return found.count_checks().get("blank-image", 0)

    assert [count(1), count(2)] == [1, 0]  # standard deviations of 0.5 and 1


def test_tables_of_images_to_leave_out(folder, tmp_path):
    table = tmp_path / "out.csv"

    def load(text, split="train"):
        table.write_text(text)
        return load_dataset("folder:photos", split=split, exclude="out.csv", size=32)

    assert len(load("image\ndisk/a.png\n")) == 27
    assert (
        len(load("image,exclude,split\ndisk/a.png,No,\ndisk/b.png,YES,training\ndisk/c.png,yes,test\n")) == 27
    )
    assert len(load("image\ndisk/gone.png\ndisk/a.png\n")) == 27
    with pytest.raises(DataError, match="none of the 1 image that it names is in the data"):
        load("image\nnowhere.png\n")
    with pytest.raises(DataError, match=r"row 2: exclude is 'maybe'\. Write yes or no"):
        load("image,exclude\ndisk/a.png,maybe\n")
    with pytest.raises(DataError, match="has no column image: its columns are a, b"):
        load("a,b\n1,2\n")
    every = "\n".join(load("image\ndisk/a.png\n").ids)
    with pytest.raises(DataError, match="leaves out every image"):
        load(f"image\ndisk/a.png\n{every}\n")
    rows = list(
        csv.DictReader(io.StringIO(format_table(check_dataset({"all": load("image\ndisk/a.png\n")}))))
    )
    assert {row["exclude"] for row in rows} == {"no"}


def test_arguments_that_are_wrong(folder, capsys):
    with pytest.raises(ConfigError, match="nothing to check"):
        check_dataset({})
    assert run_command(["check-data", "photos"]) == 2
    assert "Write folder:photos" in capsys.readouterr().err
    assert run_command(["check-data", "folder:photos", "--fail-on", "warn"]) == 2
    assert "Did you mean warning?" in capsys.readouterr().err
    assert run_command(["check-data", "folder:photos", "--split", "dev"]) == 3
    assert run_command(["check-data", "folder:photos", "--fail-on", "warning", "--no-labels"]) == 1
    for place in folder.rglob("*.png"):
        place.write_bytes(b"")
    assert run_command(["check-data", "folder:photos"]) == 3
    assert "no image can be read" in capsys.readouterr().err


def test_a_folder_without_splits_is_one_part_and_a_test_of_another_source_is_the_other(folder, capsys):
    code, content = _check(folder / "train", capsys, "--no-labels")
    assert content["images"] == {"all": 28}
    code, content = _check(
        folder / "train", capsys, "--no-labels", "--test", f"folder:{folder / 'train'}", "--limit", "6"
    )
    assert (code, content["images"]) == (1, {"train": 6, "test": 6})
    assert content["counts"]["error"] == {"same-image-across-splits": 6}


def test_every_check_has_a_severity_and_nouns():
    assert all(len(row) == 3 and row[0] in ("error", "warning", "note") for row in CHECKS.values())
    data = _build_data([_draw(np.random.default_rng(2), "bar")] * 2, [0, 1])
    check = check_dataset({"all": replace(data, label_map={})})
    assert "checked 2 images in 2 classes: 2 images with the label" in check.summary


def test_features_of_a_network_judge_labels(folder, capsys):
    (folder / "train/disk/e.png").rename(folder / "train/bar/wrong.png")
    code, content = _check(folder, capsys, "--features", "zoo:signs-plain", "--device", "cpu")
    assert code == 0
    assert content["label_accuracy"]["value"] > 0.9
    assert "bar/wrong.png" in {row["image"] for row in content["findings"] if "likelier_class" in row}
    assert run_command(["check-data", f"folder:{folder}", "--features", "zoo:sings-plain"]) == 2
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 32), torch.nn.Flatten())
    with pytest.MonkeyPatch.context() as patch:
        for model, reason in (
            (network, "has no linear layer"),
            (lambda images: images, "is not a torch module"),
        ):
            loaded = LoadedModel(model=model, num_classes=2, contract=InputContract())
            patch.setattr(frozen_features, "load_model", lambda *_, loaded=loaded: loaded)
            with pytest.raises(ModelError, match=reason):
                frozen_features.load_embedding("mine", device="cpu")


def test_networks_get_the_channels_that_they_take():
    gray, color = np.zeros((40, 30, 1), dtype=np.uint8), np.zeros((40, 30, 3), dtype=np.float32)
    for channels, pixels, expected in ((3, gray, 3), (1, color, 1), (None, color, 3), (1, gray, 1)):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
        network(torch.zeros(1, expected, 32, 32))
        loaded = LoadedModel(model=network, num_classes=4, contract=InputContract(), channels=channels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frozen_features, "load_model", lambda *_, loaded=loaded: loaded)
            embed = frozen_features.load_embedding("mine", device="cpu")
        assert embed([pixels, pixels]).shape == (2, expected * 32 * 32)
