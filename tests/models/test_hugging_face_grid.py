"""A trained network of transformers through a whole grid: as accurate as by hand, and attacked as by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

import robustbench_local as rbl
from robustbench_local.evaluation.options import Options
from robustbench_local.run import run_grid

pytestmark = [pytest.mark.slow, pytest.mark.extra]

CLASSES = ["Stop", "Yield", "Priority road", "No entry"]
GRID = """\
data: {source: signs, classes: [Stop, Yield, Priority road, No entry], limit: 24}
models:
  - {id: net, source: "hf:net"}
attacks: [fgsm-linf-8, {card: square-linf-8, queries: 30}]
"""


def _train_network(folder: Path) -> Any:
    """Train a small residual network on images of 48x48, and save it."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(1)
    signs = rbl.load_dataset("signs", classes=CLASSES, limit=160, seed=7)
    numbers = {label: index for index, label in enumerate(sorted(set(signs.labels.tolist())))}
    labels = torch.tensor([numbers[label] for label in signs.labels.tolist()])
    names = {index: signs.class_names[label] for label, index in numbers.items()}
    configuration = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 32, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=names,
    )
    network = transformers.ResNetForImageClassification(configuration)
    images = functional.interpolate(signs.images, (48, 48), mode="bicubic", antialias=True).clamp(0, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for _ in range(8):
        for rows in torch.randperm(len(images)).split(32):
            logits = network(pixel_values=(images[rows] - 0.5) / 0.5).logits
            optimizer.zero_grad()
            functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
    network.eval().save_pretrained(folder)
    size = {"height": 48, "width": 48}
    transformers.ViTImageProcessor(size=size, resample=3).save_pretrained(folder)
    return network


def test_a_grid_repeats_what_is_computed_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    monkeypatch.chdir(tmp_path)
    network = _train_network(tmp_path / "net")
    Path("grid.yaml").write_text(GRID)
    run = run_grid("grid.yaml", out="out", options=Options(device="cpu"))
    assert run.is_complete
    fgsm, square = run.results["cells"]
    model = run.results["models"][0]
    assert model["class_names"] == list(network.config.id2label.values())
    assert model["preprocessing"]["interpolation"] == "bicubic"

    signs = rbl.load_dataset("signs", classes=CLASSES, limit=24, seed=0)
    processor = transformers.AutoImageProcessor.from_pretrained("net")
    pixels = (signs.images * 255).round().byte()
    with torch.no_grad():
        guesses = network(**processor(images=list(pixels), return_tensors="pt")).logits.argmax(1).tolist()
    names = [network.config.id2label[guess] for guess in guesses]
    right = sum(
        name == signs.class_names[label] for name, label in zip(names, signs.labels.tolist(), strict=True)
    )
    assert fgsm["counts"]["clean_correct"] == right
    assert right >= 18
    assert fgsm["counts"]["robust"] <= square["counts"]["clean_correct"]
    assert fgsm["counts"]["robust"] < right
    again = run_grid("grid.yaml", out="again", options=Options(device="cpu", workers=2))
    assert [cell["counts"] for cell in again.results["cells"]] == [fgsm["counts"], square["counts"]]
