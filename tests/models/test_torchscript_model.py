"""TorchScript archives: the original's answers and gradients, whatever they were made from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from program_samples import IMAGES, Head, build_network, save_scripted, save_traced
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency
from robustbench_local.models.model_sources import load_classifier

NETWORK = build_network()


class Fixed(nn.Module):
    """A network that was traced with its number of images in a view."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.network = count, build_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.view(self.count, 3, 8, 8))


class Channels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 3, 1, 2))


class Rounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(torch.fake_quantize_per_tensor_affine(images, 1 / 16, 0, 0, 16))


class Counter(nn.Module):
    """A module that remembers how often it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.count = build_network(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.count += 1
        return self.network(images) + self.count


def load(folder: Path, name: str = "net.pt", **options) -> Classifier:
    return load_classifier(f"torchscript:{name}", base_folder=folder, allow_code=True, **options)


def compute_gradient(classifier: Classifier) -> Tensor:
    with classifier.evaluation_mode():
        return classifier.compute_gradient(IMAGES, lambda logits: logits.exp().sum(dim=1))[2]


@pytest.mark.parametrize("kind", ["traced", "scripted", "frozen", "in training mode", "double"])
def test_answers_and_gradients_are_the_originals(tmp_path: Path, kind: str) -> None:
    network = build_network()
    if kind == "traced":
        save_traced(tmp_path / "net.pt", network)
    elif kind == "double":
        save_traced(tmp_path / "net.pt", network.double(), IMAGES[:2].double())
    else:
        network.train(kind == "in training mode")
        save_scripted(tmp_path / "net.pt", network, frozen=kind == "frozen")
    classifier = load(tmp_path, image_shape=(3, 8, 8))
    original = Classifier(NETWORK, num_classes=4)
    assert (classifier.num_classes, classifier.access) == (4, "gradients")
    with classifier.evaluation_mode(), original.evaluation_mode():
        torch.testing.assert_close(classifier(IMAGES), original(IMAGES), rtol=1e-5, atol=1e-5)
        with classifier.open_fresh_copy() as twin:
            assert twin is not classifier
            torch.testing.assert_close(twin(IMAGES), classifier(IMAGES), rtol=0, atol=0)
    torch.testing.assert_close(compute_gradient(classifier), compute_gradient(original), rtol=1e-4, atol=1e-5)
    assert ("saved in training mode" in str(classifier.notes)) == (kind == "in training mode")
    assert classifier.input_size == ((8, 8) if kind in ("traced", "double") else None)
    assert classifier.provenance["weights"] == "net.pt"
    assert any("runs the program in net.pt" in note for note in classifier.notes)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_fixed_batch_is_found_and_filled_up(tmp_path: Path, count: int) -> None:
    save_traced(tmp_path / "net.pt", Fixed(count), IMAGES[:count])
    classifier = load(tmp_path)
    assert any(f"exactly {count} image" in note for note in classifier.notes)
    for some in (IMAGES, IMAGES[:1]):
        torch.testing.assert_close(classifier(some), NETWORK(some))
    assert compute_gradient(classifier).flatten(1).any(dim=1).all()


def test_channels_last_are_brought_in_order(tmp_path: Path) -> None:
    save_traced(tmp_path / "net.pt", Channels(), IMAGES[:2].permute(0, 2, 3, 1))
    classifier = load(tmp_path)
    assert (classifier.channels, classifier.input_size) == (3, (8, 8))
    torch.testing.assert_close(classifier(IMAGES), NETWORK(IMAGES))


@pytest.mark.parametrize(
    ("make_head", "options", "access"),
    [
        (lambda logits: {"scores": logits, "norm": logits.norm()}, {"output": "scores"}, "gradients"),
        (lambda logits: (logits.mean(), logits), {"output": 1}, "gradients"),
        (lambda logits: logits.argmax(dim=1), {"num_classes": 4}, "labels"),
        (lambda logits: logits.detach(), {}, "scores"),
        (lambda logits: logits * 2, {"access": "scores"}, "scores"),
    ],
    ids=["dict", "tuple", "labels", "detached", "declared"],
)
def test_outputs_and_access_are_found_by_asking(tmp_path: Path, make_head, options, access) -> None:
    save_traced(tmp_path / "net.pt", Head(make_head))
    classifier = load(tmp_path, **options)
    assert (classifier.num_classes, classifier.access) == (4, access)
    assert torch.equal(classifier(IMAGES).argmax(dim=1), NETWORK(IMAGES).argmax(dim=1))
    assert any(access in note for note in classifier.notes) == (
        access != "gradients" and not options.get("access")
    )


def test_gradients_that_pass_through_a_rounding_are_kept_and_marked(tmp_path: Path) -> None:
    save_traced(tmp_path / "net.pt", Rounded())
    classifier = load(tmp_path)
    assert classifier.access == "gradients"
    assert "imitates rounding in floats: its gradients pass straight through" in classifier.notes


def test_a_dropout_in_training_mode_is_named_and_a_batch_norm_refused(tmp_path: Path) -> None:
    save_traced(tmp_path / "net.pt", build_network().train())
    with pytest.raises(ModelError, match=r"in training mode, which fixes 1 batch norm in it\. Call eval\(\)"):
        load(tmp_path)
    network = build_network()
    network[3].train()
    save_traced(tmp_path / "net.pt", network)
    assert any(note.startswith("1 dropout in it is fixed in training mode") for note in load(tmp_path).notes)


def test_without_a_size_the_usual_ones_are_tried_in_turn(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 26 * 26, 4)).eval()
    save_scripted(tmp_path / "net.pt", network)
    assert load(tmp_path).num_classes == 4
    assert load(tmp_path, input_size=(28, 28)).num_classes == 4
    with pytest.raises(ModelError, match=r"net\.pt: raised RuntimeError on images \(3, 1, 8, 8\): .*shapes"):
        load(tmp_path, input_size=(8, 8))
    save_scripted(tmp_path / "net.pt", build_network())
    with pytest.raises(ModelError, match=r"none of the sizes that were tried \(3x32x32, .*Set input_size"):
        load(tmp_path)
    assert load(tmp_path, num_classes=4)(IMAGES).shape == (
        5,
        4,
    )  # it fails where it is used, with its message


class Pair(nn.Module):
    def forward(self, images: Tensor, other: Tensor) -> Tensor:
        return images.flatten(1) + other


class Nothing(nn.Module):
    @torch.jit.export
    def answer(self, images: Tensor) -> Tensor:
        return images


def test_what_takes_no_batch_of_images_is_refused(tmp_path: Path) -> None:
    save_scripted(tmp_path / "pair.pt", Pair())
    with pytest.raises(ModelError, match=r"takes \(images: Tensor, other: Tensor\), not one batch"):
        load(tmp_path, "pair.pt")
    save_scripted(tmp_path / "none.pt", Nothing())
    with pytest.raises(ModelError, match="has no forward"):
        load(tmp_path, "none.pt")
    save_traced(tmp_path / "flat.pt", nn.Linear(4, 3), torch.rand(2, 4))
    with pytest.raises(ModelError, match=r"traced with torch.float32 \(2, 4\), not floats \(N, C, H, W\)"):
        load(tmp_path, "flat.pt")
    with pytest.raises(ConfigError, match="holds both network and weights"):
        load(tmp_path, "flat.pt", weights="net.safetensors")


def test_memory_between_calls_is_found(tmp_path: Path) -> None:
    save_scripted(tmp_path / "net.pt", Counter())
    found = probe_consistency(load(tmp_path, image_shape=(3, 8, 8)), IMAGES)
    assert found.kind == "memory"
    save_scripted(tmp_path / "net.pt", build_network())
    assert probe_consistency(load(tmp_path, image_shape=(3, 8, 8)), IMAGES).is_consistent


@pytest.mark.slow
def test_the_digest_is_that_of_the_file_in_every_process(tmp_path: Path) -> None:
    digests = []
    for name, seed in (("one", 0), ("other", 1)):
        save_scripted(tmp_path / f"{name}.pt", build_network(seed=seed), frozen=True)
        digests.append(load(tmp_path, f"{name}.pt", image_shape=(3, 8, 8)).compute_digest())
    assert digests[0] != digests[1]
    code = (
        "from pathlib import Path; from robustbench_local.models.model_sources import load_classifier; print("
        f"load_classifier('torchscript:one.pt', base_folder=Path({str(tmp_path)!r}), allow_code=True, "
        "image_shape=(3, 8, 8)).compute_digest())"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == digests[0]


class Writer(nn.Module):
    """A module that writes a file while it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        torch.save(torch.zeros(1), state[0])
        self.path, self.training = state

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def test_an_archive_that_writes_while_it_is_loaded_needs_permission(tmp_path: Path) -> None:
    target = tmp_path / "written"
    file = save_scripted(tmp_path / "net.pt", Writer(str(target)))
    with pytest.raises(RefusedError, match="is a program, which can run code and write files") as refusal:
        load_classifier("torchscript:net.pt", base_folder=tmp_path)
    assert not target.exists()
    trusted = refusal.value.remedy.rpartition("trust_pickle: ")[2]
    load_classifier("torchscript:net.pt", base_folder=tmp_path, trust_pickle=trusted, image_shape=(1, 2, 2))
    assert target.exists()  # which is why
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ModelError, match="is not a complete archive"):
        load(tmp_path)
