"""ONNX files for tests: a linear network, built node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs onnx, a test dependency, to build a file")
pytest.importorskip("onnxruntime", reason="needs the extra .[onnx]")


def build_matrix(classes: int = 4, size: int = 48) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(size, classes)).astype(np.float32)


def write_linear_model(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("N", 3, 4, 4),
    dtype: int | None = None,
    with_label: bool = False,
    external: str | None = None,
    weights: np.ndarray | None = None,
) -> Path:
    """A graph from images to ``compute_scores`` = (flattened images) @ weights, and ``label`` if asked for.

    Args:
        path: Where to write it.
        shape: Of its input.
        dtype: Of its input, by default float.
        with_label: Whether there is a second output, the class with the largest score.
        external: What the file says its weights are in; nothing is written there.
        weights: (pixel values, classes).
    """
    helper, kind = onnx.helper, dtype or onnx.TensorProto.FLOAT
    values = build_matrix() if weights is None else weights
    tensor = onnx.numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), "weights")
    if external is not None:
        onnx.external_data_helper.set_external_data(tensor, location=external)
        tensor.ClearField("raw_data")
    batch, classes = shape[0], values.shape[1]
    outputs = [helper.make_tensor_value_info("scores", kind, [batch, classes])]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    if with_label:
        nodes.append(helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("label", onnx.TensorProto.INT64, [batch]))
    inputs = [helper.make_tensor_value_info("images", kind, list(shape))]
    graph = helper.make_graph(nodes, "linear", inputs, outputs, [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path
