"""Photographs of a grid without a size: whose contract prepares them, and who is told that it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.data.dataset import build_class_names
from robustbench_local.data.resize import describe_deviation
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import ModelEntry, load_grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.image_preparation import ContractFinder
from robustbench_local.evaluation.planning.planner import make_plan

BICUBIC: dict[str, Any] = {"resize": 36, "interpolation": "bicubic"}
BLACK_BOX = """
def predict(images):
    return images.mean(dim=(2, 3))
"""


def _entry(name: str, preprocessing: dict[str, Any] | None = None, **keys: Any) -> ModelEntry:
    keys = {"source": "zoo:signs-plain", "input_size": 32, **keys}
    return ModelEntry(id=name, preprocessing=preprocessing, **keys)


def _find(entries: list[ModelEntry], size: tuple[int, int] | None, folder: Path = Path()) -> Any:
    finder = ContractFinder(entries=entries, options=Options(allow_code=True), base_folder=folder)
    found = finder.find_contract(build_class_names(43), size)
    return None if found is None else (found.models, found.contract.resize, found.contract.interpolation)


def test_the_contract_of_most_models_or_of_the_first_prepares_images_of_several_sizes() -> None:
    plain, one, two = _entry("plain"), _entry("one", BICUBIC), _entry("two", BICUBIC)
    three = _entry("three", BICUBIC)
    assert _find([plain], None) == ("plain does", None, "bilinear")
    assert _find([plain, one], None) == ("plain does", None, "bilinear")
    assert _find([plain, one, two], None) == ("one and two do", 36, "bicubic")
    assert _find([one, two, three, plain], None) == ("one, two and three do", 36, "bicubic")
    lost = _entry("lost", source="checkpoint:none.pt", architecture="signs_resnet")
    assert _find([lost, one], None) == ("one does", 36, "bicubic")
    assert _find([lost], None) is None
    with pytest.raises(ConfigError, match="resize 20 is smaller than input_size 32x32"):
        _find([one, _entry("wrong", {"resize": 20})], None)


def test_images_of_one_size_are_prepared_only_where_all_models_say_how_to_shrink_them() -> None:
    plain, one, two = _entry("plain"), _entry("one", BICUBIC), _entry("two", BICUBIC)
    assert _find([one, two], (128, 128)) == ("one and two do", 36, "bicubic")
    assert _find([one], (127, 500)) is None
    assert _find([plain], (128, 128)) is None  # a network without a word about its photographs
    assert _find([one, plain], (128, 128)) is None
    large = _entry("large", {"resize": 300, "interpolation": "bicubic"}, input_size=256)
    assert _find([large], (255, 300)) is None  # it would be enlarged
    assert _find([large], (256, 256)) is None
    assert _find([large], (256, 257)) == ("large does", 300, "bicubic")


@pytest.mark.slow
def test_models_of_a_users_code_are_asked_where_the_grid_says_how(tmp_path: Path) -> None:
    (tmp_path / "box.py").write_text(BLACK_BOX)
    keys: dict[str, Any] = {"source": "python:box.py:predict", "num_classes": 3, "input_size": 32}
    assert _find([_entry("box", BICUBIC, **keys)], (200, 200), tmp_path) == ("box does", 36, "bicubic")
    assert _find([_entry("box", **keys)], (200, 200), tmp_path) is None
    assert _find([_entry("box", **keys)], None, tmp_path) == ("box does", None, "bilinear")


def test_a_model_with_another_preprocessing_is_told() -> None:
    own = InputContract(input_size=(32, 32), resize=36, interpolation="bicubic")
    stated = "its own preprocessing is shorter side 36, bicubic, center 32x32, but the images are prepared"
    lower = "clean accuracy may be lower"
    assert describe_deviation(own, InputContract(input_size=(32, 32))) == (
        f"{stated} otherwise: resized to cover 32x32, bilinear, and center-cropped; {lower}"
    )
    assert describe_deviation(own, InputContract(input_size=(24, 24), resize=30)) == (
        f"{stated} otherwise: shorter side 30, bilinear, center 24x24, and resized again inside the model; "
        f"{lower}"
    )
    same = InputContract(input_size=(32, 32), resize=36, interpolation="bicubic", channel_order="bgr")
    assert describe_deviation(own, same) is None
    assert describe_deviation(own, None) is None
    assert describe_deviation(InputContract(), own) is None
    assert describe_deviation(InputContract(input_size=(32, 32)), own) is None  # its source says nothing


@pytest.mark.slow
def test_a_grid_of_photographs_without_a_size(tmp_path: Path) -> None:
    """Both are prepared as the two models that agree; the third, and the reader, are told."""
    generator = np.random.default_rng(0)
    for name, size in (("14", (60, 80)), ("17", (90, 50))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name / "one.png")
    models = [
        {"id": "one", "source": "zoo:signs-plain", "input_size": 32, "preprocessing": BICUBIC},
        {"id": "two", "source": "zoo:signs-trades", "input_size": 32, "preprocessing": BICUBIC},
        {
            "id": "other",
            "source": "zoo:signs-plain",
            "input_size": 32,
            "preprocessing": {"resize": "stretch"},
        },
    ]
    content = {"data": {"source": "folder:photos"}, "models": models, "attacks": ["fgsm-linf-8"]}
    grid, _ = load_grid(content)
    plan = make_plan(grid, Options(), base_folder=tmp_path, is_dry_run=True)
    assert plan.data.image_shape == (3, 32, 32)
    assert "data: photographs are prepared as one and two do: shorter side 36, bicubic, center 32x32" in (
        plan.warnings
    )
    told = [
        subject.id for subject in plan.subjects if "prepared otherwise" in " ".join(subject.classifier.notes)
    ]
    assert told == ["other"]
    described = [about["preprocessing"] for about in plan.description["models"]]
    assert [one["resize"] for one in described] == [36, 36, [32, 32]]
