"""ONNX files for tests: a linear network, built node by node."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

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
    is_batch: bool = True,
) -> Path:
    """A graph from images to ``compute_scores`` = (flattened images) @ weights, and ``label`` if asked for.

    Args:
        path: Where to write it.
        shape: Of its input.
        dtype: Of its input, by default float.
        with_label: Whether there is a second output, the class with the largest score.
        external: What the file says its weights are in; nothing is written there.
        weights: (pixel values, classes).
        is_batch: Whether the first axis is the batch.
    """
    helper, kind = onnx.helper, dtype or onnx.TensorProto.FLOAT
    values = build_matrix() if weights is None else weights
    tensor = onnx.numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), "weights")
    if external is not None:
        onnx.external_data_helper.set_external_data(tensor, location=external)
        tensor.ClearField("raw_data")
    batch, classes = shape[0], values.shape[1]
    outputs = [helper.make_tensor_value_info("scores", kind, [batch if is_batch else 1, classes])]
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1 if is_batch else 0),
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


def build_network() -> torch.nn.Module:
    """The torch network of `write_network`, (N, 3, 8, 8) to (N, 4): convolution, ReLU, pooling, linear."""
    torch.manual_seed(3)
    layers = [torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AvgPool2d(2), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(128, 4)).eval().requires_grad_(False)


def write_network(
    path: Path,
    *,
    layout: str = "first",
    batch: int | str = "N",
    has_softmax: bool = False,
    has_rounded_end: bool | None = None,
    takes_bytes: bool = False,
    flag: str | None = None,
    dtype: int | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write `build_network` as a file.

    Args:
        path: Where to write it.
        layout: ``"first"`` or ``"last"``, where the channels are.
        batch: Number of images, or a name for any.
        has_softmax: Whether it ends in a softmax.
        has_rounded_end: Whether a rounding to 1/255 or, if False, the identity follows.
        takes_bytes: Whether its input is uint8.
        flag: Name of a second input, a truth value that does nothing.
        dtype: Of its input and weights, by default float.
        metadata: Entries of ``metadata_props``.
    """
    helper, kind, network = onnx.helper, dtype or onnx.TensorProto.FLOAT, build_network()
    values = dict(network.state_dict())
    numpy_type = helper.tensor_dtype_to_np_dtype(kind)
    tensors = [onnx.numpy_helper.from_array(v.numpy().astype(numpy_type), k) for k, v in values.items()]
    shape = [batch, 3, 8, 8] if layout == "first" else [batch, 8, 8, 3]
    input_kind = onnx.TensorProto.UINT8 if takes_bytes else kind
    nodes, last = [], "images"
    if takes_bytes:
        tensors.append(onnx.numpy_helper.from_array(np.array(255, np.float32), "white"))
        nodes += [
            helper.make_node("Cast", ["images"], ["floats"], to=kind),
            helper.make_node("Div", ["floats", "white"], ["unit"]),
        ]
        last = "unit"
    if layout == "last":
        nodes.append(helper.make_node("Transpose", [last], ["first"], perm=[0, 3, 1, 2]))
        last = "first"
    nodes += [
        helper.make_node("Conv", [last, "0.weight", "0.bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("AveragePool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "4.weight", "4.bias"], ["logits"], transB=1),
        helper.make_node("Softmax" if has_softmax else "Identity", ["logits"], ["end"]),
    ]
    if has_rounded_end:
        tensors.append(onnx.numpy_helper.from_array(np.array(1 / 255, np.float32), "step"))
        nodes.append(helper.make_node("QuantizeLinear", ["end", "step"], ["whole"]))
        nodes.append(helper.make_node("DequantizeLinear", ["whole", "step"], ["scores"]))
    elif has_rounded_end is False:
        nodes.append(helper.make_node("Identity", ["end"], ["scores"]))
    else:
        nodes[-1].output[0] = "scores"
    inputs = [helper.make_tensor_value_info("images", input_kind, shape)]
    if flag is not None:
        inputs.append(helper.make_tensor_value_info(flag, onnx.TensorProto.BOOL, []))
    outputs = [helper.make_tensor_value_info("scores", kind, [batch, 4])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def quantize_network(folder: Path, way: str) -> Path:
    """Write `build_network` in int8: ``"static"`` (QDQ), ``"operators"`` (QLinear) or ``"dynamic"``."""
    quantization = pytest.importorskip("onnxruntime.quantization", reason="needs the extra .[onnx]")
    source, target = write_network(folder / "float.onnx"), folder / f"{way}.onnx"
    if way == "dynamic":
        quantization.quantize_dynamic(str(source), str(target))
        return target
    images = np.random.default_rng(0).uniform(size=(16, 3, 8, 8)).astype(np.float32)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            row = next(self.rows, None)
            return None if row is None else {"images": row[None]}

    form = quantization.QuantFormat.QDQ if way == "static" else quantization.QuantFormat.QOperator
    quantization.quantize_static(str(source), str(target), Reader(), quant_format=form, per_channel=True)
    return target
