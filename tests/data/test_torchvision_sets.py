"""torchvision's data sets, end to end on made-up files in the layout that torchvision expects."""

from __future__ import annotations

import pickle
import socket
import struct
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
import torchvision
from pictures import build_pixels, save_picture

from robustbench_local.data.data_sources import load_dataset
from robustbench_local.data.torchvision_sets import TORCHVISION_NAMES, list_torchvision
from robustbench_local.errors import ConfigError, DataError, RefusedError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise urllib.error.URLError("Temporary failure in name resolution")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def save_gtsrb(root, *, labels=(14, 1, 14, 0), sizes=None):
    folder = root / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for index, label in enumerate(labels):
        size = (sizes or {}).get(index, (30 + index, 33))
        save_picture(folder / f"{index:05d}.ppm", size=size, seed=index)
        rows.append(f"{index:05d}.ppm;{size[0]};{size[1]};5;5;25;25;{label}")
    (root / "gtsrb" / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_gtsrb_test_photographs(tmp_path):
    save_gtsrb(tmp_path)
    data = load_dataset("torchvision:GTSRB", root=tmp_path, download=False)
    assert data.name == "GTSRB"
    assert data.images.shape == (4, 3, 32, 32)
    assert data.labels.tolist() == [14, 1, 14, 0]
    assert data.ids == ("GTSRB/0", "GTSRB/1", "GTSRB/2", "GTSRB/3")
    assert len(data.class_names) == 43
    assert data.class_names[14] == "Stop"
    assert data.label_map == {"0": 0, "1": 1, "14": 14}
    assert data.notes == ("images of many sizes, stretched to 32x32 as is usual for this data set",)


def test_gtsrb_training_photographs(tmp_path):
    folder = tmp_path / "gtsrb" / "GTSRB" / "Training"
    for label in (0, 1, 14):
        for index in range(3):
            save_picture(
                folder / f"{label:05d}" / f"00000_{index:05d}.ppm", size=(40, 40), seed=index + 3 * label
            )
    data = load_dataset("torchvision:gtsrb", split="train", limit=3, root=tmp_path, download=False)
    assert sorted(data.labels.tolist()) == [0, 1, 2]  # torchvision numbers the folders that are there
    assert data.images.shape == (3, 3, 32, 32)


def test_gtsrb_at_another_size_and_only_one_class(tmp_path):
    save_gtsrb(tmp_path)
    data = load_dataset("torchvision:GTSRB", root=tmp_path, download=False, size=[24, 20], classes=["stop"])
    assert data.images.shape == (2, 3, 24, 20)
    assert data.ids == ("GTSRB/0", "GTSRB/2")
    assert data.notes == ()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchvision leaves it open
def test_damaged_photographs_are_set_aside_and_bombs_refused(tmp_path):
    folder = save_gtsrb(tmp_path)
    (folder / "00001.ppm").write_bytes(b"P6\n30 33\n255\nshort")
    data = load_dataset("torchvision:GTSRB", root=tmp_path, max_bad=1)
    assert data.quarantined[0][0] == "GTSRB/1"
    (folder / "00001.ppm").write_bytes(b"P6\n30000 33000\n255\n")
    with pytest.raises(RefusedError, match=r"torchvision:GTSRB, image 1: .*decompression bomb"):
        load_dataset("torchvision:GTSRB", root=tmp_path)


def save_mnist(root, name="MNIST", total=30):
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    images, labels = build_pixels(total, 28, 28), np.arange(total, dtype=np.uint8) % 10
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, total, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, total) + labels.tobytes())
    return images


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_and_its_relatives(tmp_path, name, split):
    images = save_mnist(tmp_path, name)
    data = load_dataset(f"torchvision:{name}", split=split, root=tmp_path, limit=20, download=False)
    assert data.images.shape == (20, 1, 28, 28)
    assert np.bincount(data.labels).tolist() == [2] * 10
    row = int(data.ids[7].split("/")[1])
    assert np.array_equal((data.images[7, 0] * 255).round().byte(), images[row])
    assert data.has_class_names == (name != "MNIST")
    assert len(data.class_names) == 10


def save_cifar(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = build_pixels(20, 3072)
    batch = {"data": images, "labels": [row % 10 for row in range(20)]}
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "test_batch").write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: True)
    return images


def test_cifar10(tmp_path, monkeypatch):
    images = save_cifar(tmp_path, monkeypatch)
    data = load_dataset("torchvision:CIFAR10", root=tmp_path, limit=3, choose="first", download=False)
    assert data.ids == ("CIFAR10/0", "CIFAR10/1", "CIFAR10/2")
    assert data.class_names[9] == "truck"
    assert np.array_equal((data.images[2] * 255).round().byte().numpy(), images[2].reshape(3, 32, 32))


def save_imagenet(root):
    names = {"n01440764": ("tench", "Tinca tinca"), "n01443537": ("goldfish", "Carassius auratus")}
    for wnid in names:
        for index in range(2):
            path = root / "val" / wnid / f"ILSVRC2012_val_{index:08d}.JPEG"
            save_picture(path, size=(50 + index, 40), seed=index, format="JPEG")
    torch.save((names, ["n01440764"]), root / "meta.bin")


@pytest.mark.parametrize("folder", ["", "imagenet"])
def test_imagenet(tmp_path, folder):
    root = tmp_path / folder
    root.mkdir(exist_ok=True)
    save_imagenet(root)
    data = load_dataset("torchvision:ImageNet", root=tmp_path, size=32, resize=36)
    assert data.images.shape == (4, 3, 32, 32)
    assert data.class_names == ("tench", "goldfish")
    assert data.notes[0] == "the labels of the test split are not public: the val split is used"
    with pytest.raises(DataError, match=r"sizes differ: ImageNet/0 is 50x40 .* size: 224"):
        load_dataset("torchvision:ImageNet", split="val", root=tmp_path)


def test_a_set_without_splits_says_so(tmp_path):
    for name in ("Forest", "River"):
        save_picture(tmp_path / "eurosat" / "2750" / name / f"{name}_1.jpg", size=(64, 64))
    data = load_dataset("torchvision:EuroSAT", root=tmp_path, download=False)
    assert data.class_names == ("Forest", "River")
    assert "no splits" in data.notes[0]


@pytest.mark.parametrize(
    "name", ["GTSRB", "MNIST", "CIFAR10", "SVHN", "STL10", "Imagenette", "Flowers102", "EuroSAT"]
)
def test_without_files_and_without_a_network(tmp_path, name):
    root = tmp_path / "root"
    with pytest.raises(DataError) as caught:
        load_dataset(f"torchvision:{name}", root=root)
    message = str(caught.value)
    assert message.startswith(f"cannot download {name}: ")
    assert f"Put the files under {root}, or run on a machine with a network" in message
    assert "\n" not in message


def test_the_socket_timeout_is_put_back(tmp_path):
    before = socket.getdefaulttimeout()
    with pytest.raises(DataError):
        load_dataset("torchvision:GTSRB", root=tmp_path)
    assert socket.getdefaulttimeout() == before


def test_no_download_unless_it_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: pytest.fail("downloaded"))
    with pytest.raises(
        DataError, match=r"torchvision:MNIST: cannot be opened: Dataset not found.*Put the files"
    ):
        load_dataset("torchvision:MNIST", root=tmp_path, download=False)


def test_what_torchvision_cannot_download(tmp_path):
    with pytest.raises(DataError, match=r"torchvision:ImageNet: cannot be opened: .*ILSVRC2012_devkit_t12"):
        load_dataset("torchvision:ImageNet", root=tmp_path)


def test_damaged_files_are_not_blamed_on_the_network(tmp_path):
    save_gtsrb(tmp_path)
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;Nothing\n00000.ppm;1\n")
    with pytest.raises(DataError, match="torchvision:GTSRB: cannot be opened: 'ClassId'"):
        load_dataset("torchvision:GTSRB", root=tmp_path)


def test_a_meta_file_that_runs_code_is_not_run(tmp_path):
    save_imagenet(tmp_path)
    (tmp_path / "meta.bin").write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(DataError, match="torchvision:ImageNet: cannot be opened"):
        load_dataset("torchvision:ImageNet", root=tmp_path, size=32)


class _Hostile:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("CIFAR11", "test", r"unknown data set torchvision:CIFAR11\. Did you mean CIFAR1"),
        ("zzz", "test", "use one of CIFAR10, CIFAR100, Caltech101"),
        ("GTSRB", "val", r"torchvision:GTSRB: there is no split 'val'\. Use one of train, test"),
        ("ImageNet", "trial", "Use one of train, val"),
    ],
)
def test_unknown_sets_and_splits(tmp_path, name, split, message):
    with pytest.raises(ConfigError, match=f"(?i){message}"):
        load_dataset(f"torchvision:{name}", split=split, root=tmp_path)


def test_the_root_comes_from_the_environment(tmp_path, monkeypatch):
    save_mnist(tmp_path)
    monkeypatch.setenv("RBL_DATA", str(tmp_path))
    assert len(load_dataset("torchvision:MNIST", limit=5)) == 5
    monkeypatch.delenv("RBL_DATA")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=r"home/\.cache/robustbench_local"):
        load_dataset("torchvision:MNIST")


def test_every_name_is_a_class_of_torchvision():
    assert all(hasattr(torchvision.datasets, name) for name in TORCHVISION_NAMES)
    assert list(TORCHVISION_NAMES) == sorted(TORCHVISION_NAMES)


class _Plain:
    """A data set with nothing but items: labels are read from them."""

    def __init__(self, root, split, items=None):
        self.items = items or [("no image", 0), ("no image", 2)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, position):
        return self.items[position]


def test_a_set_that_hides_its_labels_and_gives_no_images(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "DTD", _Plain)
    listing = list_torchvision("DTD", root=tmp_path)
    assert listing.labels.tolist() == [0, 2]
    assert listing.class_names == ("0", "1", "2")
    with pytest.raises(DataError, match="not an image"):
        load_dataset("torchvision:DTD", root=tmp_path)


def test_a_download_that_works_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: save_mnist(tmp_path))
    assert len(load_dataset("torchvision:MNIST", root=tmp_path, limit=4)) == 4
