from __future__ import annotations

import pytest
import torch

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.normalizations import NORMALIZATIONS, parse_normalization
from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.errors import ConfigError

CPU = torch.device("cpu")


def test_names_and_none() -> None:
    assert parse_normalization("ImageNet") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert parse_normalization("none") is None
    assert parse_normalization(None) is None
    assert parse_normalization(([0.5], [0.25])) == ((0.5,), (0.25,))


def test_every_known_one_is_plausible() -> None:
    for mean, std in NORMALIZATIONS.values():
        assert len(mean) == len(std)
        assert all(0 < value < 1 for value in (*mean, *std))


@pytest.mark.parametrize(
    ("normalize", "channels", "message"),
    [
        ("imagnet", None, "Did you mean imagenet"),
        (([0.5, 0.5], [0.5]), None, "2 means and 1 standard deviations"),
        (([0.5] * 3, [0.5] * 3), 1, "3 means"),
        (([0.5], [0.0]), None, "above 0"),
        (([0.5], [float("nan")]), None, "above 0"),
        (("a", "b"), None, "cannot read normalize"),
        (0.5, None, "cannot read normalize"),
        (([], []), None, "0 means"),
    ],
)
def test_what_cannot_be_a_normalisation(normalize: object, channels: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_normalization(normalize, channels)  # type: ignore[arg-type]


def test_with_nothing_to_do_the_images_pass_without_a_copy() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert Preprocessing(InputContract(), CPU, torch.float32)(images) is images


def test_one_mean_serves_every_channel_and_the_dtype_is_the_models() -> None:
    contract = InputContract(normalization=((0.5,), (0.25,)))
    given = Preprocessing(contract, CPU, torch.bfloat16)(torch.ones(1, 3, 2, 2))
    assert given.dtype == torch.bfloat16
    assert given.unique().tolist() == [2.0]


def test_resizing_comes_before_normalising_and_leaves_the_right_size_alone() -> None:
    prepare = Preprocessing(
        InputContract(normalization=((0.5,), (0.5,)), input_size=(2, 3)), CPU, torch.float32
    )
    assert prepare(torch.ones(1, 1, 8, 8)).shape == (1, 1, 2, 3)
    images = torch.rand(1, 1, 2, 3)
    torch.testing.assert_close(prepare(images), images * 2 - 1)
