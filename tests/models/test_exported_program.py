"""Files of torch.export: the original's answers and gradients, for every batch that the export allows."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from program_samples import IMAGES, Head, build_network
from torch import Tensor, nn
from torch.export import Dim, export, save

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError, RefusedError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.program_operators import keeps_state
from robustbench_local.models.program_results import is_channels_last

pytestmark = pytest.mark.slow  # the first export imports torch's compiler
NETWORK = build_network()


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, *, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.network(pixel_values)}


class Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.permute(0, 3, 1, 2))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.count.view(-1).add_(1)
        return self.network(images) + self.count


def save_exported(
    path: Path,
    module: nn.Module,
    images: Tensor = IMAGES[:2],
    *,
    batch: Any = None,
    keyword: str | None = None,
) -> Path:
    arguments = {keyword: images} if keyword else {}
    shapes = {keyword: {0: batch}} if keyword else ({0: batch},)
    save(export(module, () if keyword else (images,), arguments, dynamic_shapes=batch and shapes), path)
    return path


def load(folder: Path, **options: Any) -> Classifier:
    return load_classifier("export:net.pt2", base_folder=folder, allow_code=True, **options)


@pytest.mark.parametrize(
    ("batch", "count", "note"),
    [
        (None, 2, "takes exactly 2 images at a time"),
        (Dim("n"), 2, ""),
        (Dim("n", min=2, max=3), 2, "takes 2 to 3 images at a time"),
        (Dim("n", min=4), 4, "takes at least 4 images at a time"),
        (4 * Dim("n"), 8, "takes exactly 8 images at a time"),
    ],
    ids=["static", "free", "limited", "many", "multiple"],
)
def test_answers_and_gradients_are_the_originals(tmp_path: Path, batch: Any, count: int, note: str) -> None:
    images = IMAGES[torch.arange(count) % len(IMAGES)]
    save_exported(tmp_path / "net.pt2", build_network(), images, batch=batch)
    classifier, original = load(tmp_path), Classifier(NETWORK, num_classes=4)
    assert (classifier.num_classes, classifier.access, classifier.channels) == (4, "gradients", 3)
    assert classifier.input_size == (8, 8)
    assert any(note in text for text in classifier.notes)
    assert any("images at a time" in text for text in classifier.notes) == bool(note)
    with classifier.evaluation_mode(), original.evaluation_mode():
        for some in (IMAGES, IMAGES[:1]):
            answers = [
                each.compute_gradient(some, lambda logits: logits.exp().sum(dim=1))
                for each in (classifier, original)
            ]
            for found, expected in zip(*answers, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        with classifier.open_fresh_copy() as twin:
            torch.testing.assert_close(twin(IMAGES), classifier(IMAGES), rtol=0, atol=0)
            assert twin is not classifier
            assert twin.model.program is classifier.model.program  # it keeps nothing, and copies cost time
    assert not any(part.training for part in classifier.module.modules())


def test_named_arguments_channels_last_and_precisions_are_those_of_the_export(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", Keyword(), batch=Dim("n"), keyword="pixel_values")
    torch.testing.assert_close(load(tmp_path, output="logits")(IMAGES), NETWORK(IMAGES))
    save_exported(tmp_path / "net.pt2", Last(), IMAGES[:2].permute(0, 2, 3, 1))
    torch.testing.assert_close(load(tmp_path)(IMAGES), NETWORK(IMAGES))
    save_exported(tmp_path / "net.pt2", build_network().double(), IMAGES[:2].double())
    torch.testing.assert_close(load(tmp_path)(IMAGES), NETWORK(IMAGES))


@pytest.mark.parametrize(
    ("shape", "is_last"),
    [
        ((2, 5, 5, 4), True),
        ((2, 5, 5, 5), False),
        ((2, 4, 5, 4), False),
        ((2, None, None, 3), True),
        ((2, 3, 8, 8), False),
    ],
)
def test_up_to_four_of_the_last_size_are_channels(shape: tuple[int | None, ...], is_last: bool) -> None:
    assert is_channels_last(shape) is is_last


def test_a_training_mode_that_was_exported_is_refused(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", build_network().train())
    with pytest.raises(ModelError, match="exported in training mode, which fixes 1 batch norm"):
        load(tmp_path)


def test_a_program_that_counts_is_copied_with_its_buffers(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", Counter(), batch=Dim("n"))
    classifier = load(tmp_path)
    assert keeps_state(classifier.module.program)
    first = load(tmp_path)(IMAGES)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as twin:
        classifier(IMAGES)
        torch.testing.assert_close(twin(IMAGES), first, rtol=0, atol=0)


def test_without_a_gradient_the_access_is_scores(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", Head(lambda logits: logits.detach()))
    classifier = load(tmp_path)
    assert classifier.access == "scores"
    assert any("gives no gradients" in note for note in classifier.notes)


class Levels(nn.Module):
    """A network whose pixels are rounded to integers and back, as torchao exports it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, images: Tensor) -> Tensor:
        rounding = torch.ops.quantized_decomposed
        levels = (1 / 127, 0, -128, 127, torch.int8)
        rounded = rounding.quantize_per_tensor(images, *levels)
        return self.network(rounding.dequantize_per_tensor(rounded, *levels))


def test_operators_of_quantization_are_found_without_the_library_that_exported_them(tmp_path: Path) -> None:
    import torch.ao.quantization.fx._decomposed  # noqa: F401 - registers them here

    save_exported(tmp_path / "net.pt2", Levels(), batch=Dim("n"))
    code = (
        "from pathlib import Path; from robustbench_local.models.model_sources import load_classifier; print("
        f"load_classifier('export:net.pt2', base_folder=Path({str(tmp_path)!r}), allow_code=True).access)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "scores"
    with zipfile.ZipFile(tmp_path / "net.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"quantize_per_tensor", b"kwantize_per_tensor"))
    with pytest.raises(ModelError, match=r"torch cannot load it: (?!RuntimeError: We ran)"):
        load(tmp_path)


def test_a_fork_computes_gradients_after_programs_were_loaded(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", build_network())
    code = (
        "import os, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from robustbench_local.models.model_sources import load_classifier\n"
        f"model = load_classifier('export:net.pt2', base_folder=Path({str(tmp_path)!r}), allow_code=True)\n"
        "def ask():\n"
        "    with model.evaluation_mode():\n"
        "        return model.compute_gradient(torch.rand(2, 3, 8, 8), lambda logits: logits.sum(dim=1))[2]\n"
        "ask()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if bool(ask().any()) else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "0", answer.stderr


def test_what_is_no_batch_of_float_images_is_refused(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", nn.Linear(4, 3), torch.rand(2, 4))
    with pytest.raises(ModelError, match=r"takes torch.float32 \[2, 4\], not floats \(N, C, H, W\)"):
        load(tmp_path)
    save(export(nn.Bilinear(4, 4, 3), (torch.rand(2, 4), torch.rand(2, 4))), tmp_path / "net.pt2")
    with pytest.raises(ModelError, match=r"takes 2 inputs \(input1, input2\)"):
        load(tmp_path)


def test_it_needs_permission_and_a_whole_file(tmp_path: Path) -> None:
    save_exported(tmp_path / "net.pt2", build_network())
    with pytest.raises(RefusedError, match="is a program, which can run code"):
        load_classifier("export:net.pt2", base_folder=tmp_path)
    with pytest.raises(ModelError, match=r"is a program of torch.export\. Write export:net.pt2"):
        load_classifier("torchscript:net.pt2", base_folder=tmp_path, allow_code=True)
    content = (tmp_path / "net.pt2").read_bytes()
    start = content.index(b'"graph_module"')
    (tmp_path / "net.pt2").write_bytes(content[:start] + b'"graph_nodule"' + content[start + 14 :])
    with pytest.raises(ModelError, match=r"is damaged: .* does not have its checksum"):
        load(tmp_path)
    shutil.copy(__file__, tmp_path / "net.pt2")
    with pytest.raises(ModelError, match="is not a complete archive"):
        load(tmp_path)
