"""What the runtimes of exported files share: scores from probabilities, layouts, hidden log lines."""

from __future__ import annotations

import os

import numpy as np
import pytest

from robustbench_local.errors import ModelError
from robustbench_local.models.flatbuffer import FlatBufferError, Table
from robustbench_local.models.image_layout import find_layout, format_shape
from robustbench_local.models.native_output import hide_log_lines
from robustbench_local.models.probability_scores import (
    MAX_SUM_ERROR,
    convert_probabilities,
    convert_where_probabilities,
)
from robustbench_local.models.runtime_model import flatten_rows


def test_logarithms_have_the_margins_of_the_logits_and_keep_every_order():
    logits = np.random.default_rng(0).normal(scale=6, size=(50, 7))
    parts = np.exp(logits - logits.max(1, keepdims=True))
    scores = convert_probabilities((parts / parts.sum(1, keepdims=True)).astype(np.float32))
    np.testing.assert_allclose(scores, logits - logits.max(1, keepdims=True), rtol=1e-4, atol=1e-5)
    close = np.array([[0.3, np.nextafter(np.float32(0.3), np.float32(0)), 0.4]], np.float32)
    assert convert_probabilities(close)[0, 0] > convert_probabilities(close)[0, 1]
    assert convert_probabilities(np.array([[1.0, 0.0]], np.float32))[0, 1] < -80
    assert np.isnan(convert_probabilities(np.array([[np.nan, 0.5]]))).any()
    np.testing.assert_array_equal(convert_probabilities(np.zeros((1, 3))), np.zeros((1, 3)))


def test_a_quantized_zero_counts_as_half_a_step():
    scores = convert_probabilities(np.array([[1 / 256, 0, 2 / 256]]), 1 / 256)
    np.testing.assert_allclose(scores, np.log([[0.5, 0.25, 1]]), rtol=1e-6)


@pytest.mark.parametrize(("row", "is_converted"), [
    ([0.2, 0.8], True),
    ([0.2, 0.8 + 0.9 * MAX_SUM_ERROR], True),
    ([0.2, 0.8 + 1.1 * MAX_SUM_ERROR], False),
    ([-0.1, 1.1], False),
    ([np.nan, 1.0], False),
])  # fmt: skip
def test_rows_that_are_no_probabilities_stay(row: list[float], is_converted: bool):
    values = np.array([row, [3.0, -2.0]], np.float32)
    scores = convert_where_probabilities(values)
    np.testing.assert_array_equal(scores[1], values[1])
    assert (scores[0].max() == 0) == is_converted
    if not is_converted:
        np.testing.assert_array_equal(scores[0], values[0])


@pytest.mark.parametrize(
    ("shape", "prefers_last", "expected"),
    [
        ((1, 224, 224, 3), False, (3, (224, 224), True)),
        ((1, 3, 224, 224), True, (3, (224, 224), False)),
        ((1, 3, 4, 4), True, (3, (4, 4), False)),
        ((1, 4, 4, 3), False, (3, (4, 4), True)),
        ((1, 1, 28, 1), True, (1, (1, 28), True)),
        ((1, 1, 28, 1), False, (1, (28, 1), False)),
        ((1, 3, 3, 3), True, (3, (3, 3), True)),
        ((1, 64, 64, 12), False, (12, (64, 64), True)),
        ((None, None, None, 3), False, (3, None, True)),
        ((1, 5, 6, 7), False, (5, (6, 7), False)),
    ],
)
def test_the_layout_follows_from_the_shape(shape, prefers_last, expected):
    layout = find_layout(shape, where="net", prefers_last=prefers_last)
    assert (layout.channels, layout.size, layout.is_channels_last) == expected
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert layout.arrange_images(images).shape == ((2, 4, 5, 3) if expected[2] else (2, 3, 4, 5))
    assert layout.arrange_images(images).flags.c_contiguous


def test_other_numbers_of_axes_are_refused():
    with pytest.raises(ModelError, match=r"net: takes \(\?, 48\), not images"):
        find_layout((None, 48), where="net", prefers_last=True)
    assert format_shape((None, 3)) == "(?, 3)"


def test_scores_with_further_axes_become_rows():
    assert flatten_rows(np.zeros((2, 1, 1, 5))).shape == (2, 5)
    assert flatten_rows(np.zeros((2, 5, 1, 1))).shape == (2, 5)
    assert flatten_rows(np.zeros((2, 5, 7))).shape == (2, 5, 7)
    assert flatten_rows(np.zeros((2,))).shape == (2,)


def test_log_lines_of_native_code_are_hidden_and_others_are_not(capfd: pytest.CaptureFixture[str]):
    with hide_log_lines("INFO: "):
        os.write(2, b"INFO: created\nERROR: broken\n")
    os.write(2, b"INFO: after\n")
    assert capfd.readouterr().err == "ERROR: broken\nINFO: after\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\x08\0\0\0TEST",
        b"\xff\xff\xff\x7fTEST",
        b"\x08\0\0\0TEST\xff\xff\xff\xff",
        b"\x08\0\0\0TEST\0\0",
    ],
)
def test_bytes_that_are_no_table_are_refused(content: bytes):
    with pytest.raises(FlatBufferError):
        Table.read_root(content, b"TEST").read_bytes(0)


def test_vectors_that_end_behind_the_file_are_refused():
    layout = b"\x06\0\x08\0\x04\0"  # a table of one field, at offset 4 of it
    vector = (200).to_bytes(4, "little") + b"abc"
    content = b"\x10\0\0\0TEST" + b"\0\0" + layout + b"\x06\0\0\0" + b"\x04\0\0\0" + vector
    table = Table.read_root(content, b"TEST")
    assert table.has_field(0)
    assert not table.has_field(1)
    for read in (
        table.read_bytes,
        lambda field: table.read_numbers(field, "i"),
        lambda field: list(table.iterate_tables(field)),
    ):
        with pytest.raises(FlatBufferError):
            read(0)
    assert (table.read_number(3, "i", 7), table.read_text(3), table.read_table(3)) == (7, "", None)
