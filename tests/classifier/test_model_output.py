from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from robustbench_local.classifier.model_output import read_labels, read_logits
from robustbench_local.errors import ModelError

LOGITS = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, 5.0]])


class Pair(NamedTuple):
    logits: Tensor
    aux: Tensor


def read(output: object, key: str | int | None = None) -> Tensor:
    return read_logits(output, 2, 3, key=key, name="net")


@pytest.mark.parametrize(
    ("output", "key"),
    [
        (LOGITS, None),
        (LOGITS, "logits"),
        (LOGITS.double(), None),
        (LOGITS.numpy(), None),
        ({"logits": LOGITS, "features": torch.zeros(2, 7)}, "logits"),
        (OrderedDict(logits=LOGITS), "logits"),
        ((torch.zeros(2, 7), LOGITS), 1),
        ([torch.zeros(2, 7), LOGITS], "1"),
        (Pair(LOGITS, torch.zeros(2, 3)), 0),
    ],
)
def test_logits_are_found(output: object, key: str | int | None) -> None:
    found = read(output, key)
    assert found.dtype == torch.float32
    assert found.tolist() == LOGITS.tolist()


@pytest.mark.parametrize(
    ("output", "key", "message"),
    [
        (
            {"logits": LOGITS, "aux": LOGITS},
            None,
            r"returned a dict .*not declared; it has logits \(2, 3\), aux \(2, 3\)",
        ),
        ((LOGITS, LOGITS), None, r"not declared; it has 0 \(2, 3\), 1 \(2, 3\)"),
        ({"logits": LOGITS}, "logit", "there is no output 'logit'"),
        ((LOGITS,), 4, "there is no output 4"),
        ("cat", None, "returned str, not a tensor"),
        (None, None, "returned NoneType"),
        ({"logits": [1.0]}, "logits", "returned list, not a tensor"),
        (LOGITS[0], None, r"returned torch.float32 \(3,\) for 2 images"),
        (LOGITS.long(), None, "torch.int64"),
        (LOGITS[:1], None, r"\(1, 3\) for 2 images"),
        (LOGITS[:, :2], None, "has 2 outputs, but 3 classes are declared. Set num_classes: 2"),
    ],
)
def test_what_is_no_logits_says_so_in_one_line(output: object, key: str | int | None, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read(output, key)
    assert str(caught.value).startswith("net: ")
    assert "\n" not in str(caught.value)


def test_labels_and_winners_become_rows() -> None:
    for output in (torch.tensor([1, 2]), np.array([1, 2]), LOGITS):
        assert read_labels(output, 2, 3, key=None, name="net").tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_winner_among_nan_is_no_answer() -> None:
    scores = LOGITS.clone()
    scores[1, 0] = torch.nan
    rows = read_labels(scores, 2, 3, key=None, name="net")
    assert rows[0].tolist() == [0, 1, 0]
    assert rows[1].isnan().all()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.tensor([1.0, 2.0]), "not labels"),
        (torch.tensor([True, False]), "not labels"),
        (torch.tensor([1, 2, 0]), "for 2 images"),
        (torch.tensor([1, 3]), "labels from 1 to 3 with 3 classes"),
        (torch.tensor([-1, 1]), "labels from -1 to 1"),
    ],
)
def test_what_is_no_label_says_so(output: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read_labels(output, 2, 3, key=None, name="net")
