"""Every operator computes what onnxruntime computes, in each variant, and gradients pass it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_samples import onnx

from robustbench_local.models.onnx_graph.graph_reader import read_graph
from robustbench_local.models.onnx_graph.network import OnnxNetwork, list_operators
from robustbench_local.models.onnx_graph.operator_table import UnsupportedOperatorError

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra .[onnx]")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 6, 7)).astype(np.float32)
POSITIVE = np.abs(X) + 0.5
UNIT = np.tanh(X) * 0.9
LINE = RNG.normal(size=(2, 3, 9)).astype(np.float32)
ROWS = RNG.normal(size=(4, 5)).astype(np.float32)
BYTES = RNG.integers(0, 255, size=(2, 3, 6, 7)).astype(np.uint8)
CUBES = RNG.normal(size=(1, 2, 4, 5, 6)).astype(np.float32)


def f(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def scalar(value: float, kind: type = np.float32) -> np.ndarray:
    return np.array(value, dtype=kind)


UNARY = "Abs Ceil Cos Elu Celu Selu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Mish Neg Relu "
UNARY += (
    "Round Sigmoid Sign Sin Sinh Cosh Softplus Softsign Tan Tanh ThresholdedRelu Shrink IsInf IsNaN Gelu "
)
UNARY += "Asinh Atan GlobalAveragePool GlobalMaxPool Softmax LogSoftmax Hardmax Flatten Transpose Shape Size "
UNARY += "Dropout MeanVarianceNormalization ArgMax ArgMin LpNormalization"
BINARY = "Add Sub Mul Div Max Min Mean Sum Equal Greater GreaterOrEqual Less LessOrEqual PRelu"
REDUCTIONS = "L1 L2 LogSumExp Max Mean Min Prod Sum SumSquare"
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    *[(name, [X], {}) for name in UNARY.split()],
    *[(name, [POSITIVE], {}) for name in ("Log", "Sqrt", "Reciprocal", "GlobalLpPool")],
    ("Acosh", [POSITIVE + 1], {}),
    *[(name, [UNIT], {}) for name in ("Acos", "Asin", "Atanh")],
    *[(name, [X, f(3, 1, 7)], {}) for name in BINARY.split()],
    *[(f"Reduce{name}", [X, i(1, -1)], {"keepdims": 0}) for name in REDUCTIONS.split()],
    ("ReduceLogSum", [POSITIVE], {"opset": 13, "axes": [2]}),
    ("ReduceMean", [X], {}),
    ("ReduceSum", [X, i()], {"noop_with_empty_axes": 1}),
    ("Celu", [X], {"alpha": 2.0}),
    ("Selu", [X], {"alpha": 1.2, "gamma": 1.1}),
    ("IsInf", [np.array([1, np.inf, -np.inf], np.float32)], {"detect_negative": 0}),
    ("Softmax", [X], {"axis": 1}),
    ("Softmax", [X], {"opset": 11}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Pow", [POSITIVE, scalar(2.5)], {}),
    ("Pow", [X, f(7) * 0 + 2], {}),
    ("Div", [i(7, -7, 9), i(2, 2, -4)], {}),
    ("Mod", [i(7, -7, 9), i(2, 2, -4)], {}),
    ("Mod", [X, f(7)], {"fmod": 1}),
    ("Clip", [X, scalar(-0.5), scalar(0.5)], {}),
    ("Clip", [X, None, scalar(0.5)], {}),
    ("Clip", [X], {"opset": 6, "min": -0.5, "max": 0.25}),
    ("Where", [X > 0, X, f(7)], {}),
    *[(name, [X > 0, X < 0.5], {}) for name in ("And", "Or", "Xor")],
    ("Not", [X > 0], {}),
    ("MatMul", [X, f(7, 4)], {}),
    ("Gemm", [ROWS, f(3, 5), f(3)], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [ROWS, f(4, 3)], {"transA": 1}),
    ("Einsum", [X, f(7, 4)], {"equation": "nchw,wk->nkch"}),
    ("Conv", [X, f(4, 3, 3, 3), f(4)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [X, f(6, 1, 3, 2)], {"group": 3, "dilations": [2, 1]}),
    ("Conv", [X, f(4, 3, 3, 4)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X, f(4, 3, 2, 2)], {"auto_pad": "SAME_LOWER"}),
    ("Conv", [X, f(4, 3, 2, 2)], {"auto_pad": "VALID"}),
    ("Conv", [LINE, f(4, 3, 3)], {"pads": [1, 1]}),
    ("Conv", [CUBES, f(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", [X, f(3, 2, 3, 3), f(2)], {"strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("ConvTranspose", [X, f(3, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "pads": [1] * 4}),
    ("ConvTranspose", [X, f(3, 2, 3, 3)], {"strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", [X, f(3, 1, 2, 2)], {"group": 3, "dilations": [2, 1]}),
    *[
        (name, [X], {"kernel_shape": [3, 2], **more})
        for name in ("MaxPool", "AveragePool", "LpPool")
        for more in (
            {},
            {"strides": [2, 2], "pads": [1, 0, 1, 1]},
            {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        )
    ],
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 1, 0, 0]}),
    ("MaxPool", [X], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", [BYTES], {"kernel_shape": [2, 2], "outtype": np.uint8}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    (
        "AveragePool",
        [X],
        {"kernel_shape": [3, 3], "strides": [3, 3], "ceil_mode": 1, "pads": [1] * 4, "count_include_pad": 1},
    ),
    ("AveragePool", [LINE], {"kernel_shape": [3], "strides": [2]}),
    ("BatchNormalization", [X, f(3), f(3), f(3), np.abs(f(3)) + 0.1], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X, f(3), f(3)], {}),
    ("LayerNormalization", [X, f(7), f(7)], {}),
    ("LayerNormalization", [X, f(6, 7)], {"axis": 2, "epsilon": 1e-3}),
    ("GroupNormalization", [f(2, 6, 4, 4), f(6), f(6)], {"num_groups": 2, "opset": 21}),
    ("GroupNormalization", [f(2, 6, 4, 4), f(2), f(2)], {"num_groups": 2, "opset": 18}),
    ("RMSNormalization", [X, f(7)], {"opset": 23}),
    ("LRN", [X], {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    ("LpNormalization", [X], {"axis": 1, "p": 1}),
    ("Reshape", [X, i(0, -1, 7)], {}),
    ("Reshape", [scalar(3.0).reshape(1, 1), i()], {}),
    ("Flatten", [X], {"axis": -2}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("Squeeze", [f(1, 3, 1), i(-1)], {}),
    ("Squeeze", [f(1, 3, 1)], {}),
    ("Unsqueeze", [X, i(0, -1)], {}),
    ("Unsqueeze", [X], {"axes": [1], "opset": 11}),
    ("Concat", [X, X[:, :1]], {"axis": 1}),
    ("Expand", [f(3, 1), i(2, 1, 4)], {}),
    ("Tile", [ROWS, i(2, 3)], {}),
    ("Pad", [X, i(0, 0, 1, 2, 0, 0, 2, 0), scalar(0.5)], {}),
    ("Pad", [X, i(1, -1, 1, 2), None, i(2, 3)], {}),
    *[("Pad", [X, i(0, 0, 1, 2, 0, 0, 2, 3)], {"mode": mode}) for mode in ("reflect", "edge", "wrap")],
    ("Pad", [X], {"opset": 10, "pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0}),
    ("Slice", [X, i(1, -1), i(100, -100), i(2, 3), i(2, -2)], {}),
    ("Slice", [X], {"opset": 9, "starts": [1], "ends": [3], "axes": [2]}),
    ("Gather", [X, np.array([[0, -1], [1, 0]])], {"axis": 2}),
    ("Gather", [X, scalar(1, np.int64)], {"axis": 1}),
    ("GatherElements", [ROWS, np.array([[0, -1], [1, 0]])], {"axis": 1}),
    ("GatherND", [X, np.array([[0, 1], [1, 2]])], {}),
    ("GatherND", [X, np.array([[0], [2]])], {"batch_dims": 1}),
    ("ScatterElements", [ROWS, np.array([[0, 2]]), f(1, 2)], {"axis": 1}),
    ("ScatterElements", [ROWS, np.array([[0, 2]]), f(1, 2)], {"axis": 1, "reduction": "add"}),
    ("ScatterND", [ROWS, np.array([[0], [3]]), f(2, 5)], {}),
    ("ScatterND", [ROWS, np.array([[0], [3]]), f(2, 5)], {"reduction": "add"}),
    ("NonZero", [(X > 0).astype(np.float32)], {}),
    ("CumSum", [X, scalar(2, np.int64)], {"exclusive": 1}),
    ("CumSum", [X, scalar(2, np.int64)], {"reverse": 1}),
    ("Cast", [X * 3], {"to": 7}),
    ("CastLike", [X, i(1)], {}),
    ("Range", [scalar(1.0), scalar(4.0), scalar(0.5)], {}),
    ("ConstantOfShape", [i(2, 3)], {}),
    ("EyeLike", [ROWS], {"k": 1}),
    ("Trilu", [ROWS, scalar(1, np.int64)], {"upper": 0}),
    ("Trilu", [ROWS], {}),
    ("OneHot", [i(0, -1, 7), scalar(4, np.int64), np.array([0.5, 2.0], np.float32)], {"axis": 0}),
    ("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [f(1, 2, 4, 6)], {"blocksize": 2}),
    ("ArgMax", [np.array([[1, 3, 3, 0]], np.float32)], {"axis": 1, "select_last_index": 1, "keepdims": 0}),
    ("Upsample", [X, np.array([1, 1, 2, 3], np.float32)], {"opset": 9}),
    *[
        ("Resize", [X, None, np.array([1, 1, 0.6, 2.3], np.float32)], {"mode": mode, **more})
        for mode in ("nearest", "linear", "cubic")
        for more in (
            {},
            {"coordinate_transformation_mode": "asymmetric"},
            {"coordinate_transformation_mode": "pytorch_half_pixel"},
        )
    ],
    *[
        ("Resize", [X, None, None, i(2, 3, 4, 9)], {"opset": 19, **more})
        for more in (
            {"mode": "nearest", "nearest_mode": "ceil"},
            {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
            {"mode": "linear", "antialias": 1},
            {"mode": "cubic", "antialias": 1, "exclude_outside": 1},
            {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
        )
    ],
    (
        "Resize",
        [X, None, None, i(12, 9)],
        {"axes": [2, 3], "keep_aspect_ratio_policy": "not_larger", "mode": "linear", "opset": 19},
    ),
    ("Resize", [X, np.array([1, 1, 2, 2], np.float32)], {"opset": 10, "mode": "linear"}),
    *[
        ("GridSample", [X, np.tanh(f(2, 4, 5, 2)) * 1.2], {"opset": 16, **more})
        for more in (
            {},
            {"mode": "nearest", "padding_mode": "border"},
            {"mode": "bicubic", "align_corners": 1},
            {"padding_mode": "reflection"},
        )
    ],
    ("AffineGrid", [f(2, 2, 3), i(2, 3, 4, 5)], {"align_corners": 1}),
    ("Attention", [f(2, 4, 3, 8), f(2, 2, 5, 8), f(2, 2, 5, 8)], {"opset": 23}),
    ("Attention", [f(2, 3, 8), f(2, 3, 8), f(2, 3, 8)], {"opset": 23, "q_num_heads": 2, "kv_num_heads": 2}),
    ("Attention", [f(1, 2, 4, 8), f(1, 2, 4, 8), f(1, 2, 4, 8), f(4, 4)], {"opset": 23, "scale": 0.5}),
    ("Attention", [f(1, 2, 4, 8), f(1, 2, 4, 8), f(1, 2, 4, 8)], {"opset": 23, "is_causal": 1}),
    ("QuantizeLinear", [X, scalar(0.02), scalar(3, np.int8)], {"outtype": np.int8}),
    ("QuantizeLinear", [X, np.abs(f(3)) / 9, np.array([1, 2, 3], np.uint8)], {"outtype": np.uint8}),
    ("DequantizeLinear", [BYTES, scalar(0.02), scalar(99, np.uint8)], {}),
    (
        "MatMulInteger",
        [BYTES, BYTES[0, 0].T.copy(), scalar(3, np.uint8), scalar(5, np.uint8)],
        {"outtype": np.int32},
    ),
    (
        "ConvInteger",
        [BYTES, BYTES[:, :, :3, :3], scalar(3, np.uint8)],
        {"pads": [1] * 4, "outtype": np.int32},
    ),
    ("com.microsoft.QuickGelu", [X], {}),
    ("com.microsoft.FastGelu", [X], {}),
    ("com.microsoft.BiasGelu", [X, f(7)], {}),
    ("com.microsoft.FusedMatMul", [ROWS, f(3, 5)], {"transB": 1, "alpha": 0.3}),
    ("com.microsoft.FusedConv", [X, f(4, 3, 3, 3), f(4)], {"activation": "Relu"}),
]


def build_node(
    operator: str,
    arrays: list[np.ndarray | None],
    outputs: int = 1,
    opset: int = 20,
    first: int = 0,
    inner: dict[str, Any] | None = None,
    **attributes: Any,
) -> tuple[bytes, dict[str, np.ndarray]]:
    """Build a file of one node, whose first input is an input and the others are constants."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(attributes.pop("outtype", np.float32)))
    domain, _, name = operator.rpartition(".")
    names = ["" if array is None else f"input{place}" for place, array in enumerate(arrays)]
    results = [f"output{place}" for place in range(outputs)]
    node = helper.make_node(name, names, results, domain=domain, **attributes, **(inner or {}))
    name, given = names[first], arrays[first]
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(given.dtype), given.shape)]
    others = [(n, a) for n, a in zip(names, arrays, strict=True) if a is not None and n != name]
    constants = [to_tensor(array, n) for n, array in others]
    wanted = [helper.make_tensor_value_info(result, kind, None) for result in results]
    graph = helper.make_graph([node], "node", inputs, wanted, constants)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString(), {name: given}


def run_onnxruntime(content: bytes, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, options).run(None, feed)


def find_output_type(operator: str, arrays: list[np.ndarray | None], attributes: dict[str, Any]) -> Any:
    """Return the type of an operator's output where it is neither float nor stated."""
    if "outtype" in attributes:
        return attributes["outtype"]
    truths = "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsInf IsNaN"
    if operator in truths.split():
        return np.bool_
    integers = "Shape Size ArgMax ArgMin NonZero Cast CastLike"
    is_integer = operator in integers.split() or (operator in ("Div", "Mod") and arrays[0].dtype == np.int64)
    return np.int64 if is_integer else np.float32


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_an_operator_computes_what_onnxruntime_computes(case: tuple[str, list, dict[str, Any]]):
    operator, arrays, attributes = case
    attributes = {**attributes, "outtype": find_output_type(*case)}
    content, feed = build_node(operator, arrays, **attributes)
    (expected,) = run_onnxruntime(content, feed)
    inputs = torch.from_numpy(feed["input0"].copy())
    leaf = inputs.requires_grad_() if inputs.is_floating_point() else inputs
    (found,) = OnnxNetwork(read_graph(content, Path()))(leaf)
    assert tuple(found.shape) == expected.shape
    np.testing.assert_allclose(found.detach().double(), expected.astype(np.float64), rtol=2e-4, atol=2e-5)
    if found.requires_grad:
        (slope,) = torch.autograd.grad(found.sum(), leaf, allow_unused=True)
        assert slope is None or bool(slope.isfinite().all())


def test_every_operator_of_the_table_has_a_case():
    special = {"Constant", "If", "Split", "TopK", "DynamicQuantizeLinear", "Swish", "Scatter"}
    same = {
        "com.microsoft.Gelu",
        "com.microsoft.FusedGemm",
        "SimplifiedLayerNormalization",
        "ConcatFromSequence",
    }
    quantized = {name for name in list_operators() if "QLinear" in name or "QGemm" in name}
    twice = {"com.microsoft.QuantizeLinear", "com.microsoft.DequantizeLinear"}
    assert set(list_operators()) - {case[0] for case in CASES} == special | same | quantized | twice


@pytest.mark.parametrize(
    ("operator", "arrays", "outputs", "attributes"),
    [
        ("Split", [X, i(1, 2)], 2, {"axis": 1}),
        ("Split", [X], 3, {"axis": 3, "num_outputs": 3}),
        ("Split", [X], 2, {"axis": 2, "opset": 11}),
    ],
)
def test_a_split_has_all_its_parts(operator: str, arrays: list, outputs: int, attributes: dict):
    content, feed = build_node(operator, arrays, outputs, **attributes)
    found = OnnxNetwork(read_graph(content, Path()))(torch.from_numpy(feed["input0"]))
    for part, expected in zip(found, run_onnxruntime(content, feed), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes", "message"),
    [
        ("MaxPool", [f(1, 1, 2, 2, 2, 2)], {"kernel_shape": [2] * 4}, "MaxPool with 4 dimensions of space"),
        ("Conv", [f(1, 1, 2, 2, 2, 2), f(1, 1, 1, 1, 1, 1)], {}, "Conv with 4 dimensions of space"),
        ("AveragePool", [X], {"kernel_shape": [2, 2], "dilations": [2, 2]}, "AveragePool with dilations"),
        ("BatchNormalization", [X, *[f(3)] * 4], {"training_mode": 1}, "with training_mode"),
        ("Dropout", [X, scalar(0.5), np.array(True)], {}, "with training_mode, so that answers are random"),
        ("ScatterND", [ROWS, np.array([[0]]), f(1, 5)], {"reduction": "mul"}, "with the reduction mul"),
        ("Attention", [X, X, X], {"softcap": 1.0}, "capped scores"),
        ("com.microsoft.FusedConv", [X, f(1, 3, 1, 1)], {"activation": "Own"}, "the activation Own"),
        ("Bernoulli", [X], {}, "Bernoulli"),
    ],
)
def test_what_is_not_computed_is_named(operator: str, arrays: list, attributes: dict, message: str):
    content, feed = build_node(operator, arrays, **attributes)
    with pytest.raises(UnsupportedOperatorError, match=message):
        OnnxNetwork(read_graph(content, Path()))(torch.from_numpy(feed["input0"]))


def test_shapes_stay_on_the_host_and_numbers_go_to_the_device():
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["same"]),
        helper.make_node("Cast", ["shape"], ["sizes"], to=kind.FLOAT),
        helper.make_node("Mul", ["same", "sizes"], ["scaled"]),
        helper.make_node("Greater", ["sizes", "limits"], ["is_large"]),
        helper.make_node("Where", ["is_large", "scaled", "same"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, [2, 3, 5, 4])]
    outputs = [helper.make_tensor_value_info("y", kind.FLOAT, None)]
    limits = onnx.numpy_helper.from_array(np.full(4, 2.5, np.float32), "limits")
    graph = helper.make_graph(nodes, "mixed", inputs, outputs, [limits])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    network = OnnxNetwork(read_graph(content.SerializeToString(), Path()))
    x = torch.from_numpy(f(2, 3, 5, 4))
    (expected,) = run_onnxruntime(content.SerializeToString(), {"x": x.numpy()})
    np.testing.assert_allclose(network(x)[0].detach(), expected, rtol=1e-6)
    assert network.to("meta")(x.to("meta"))[0].device.type == "meta"  # any device but the host's


def build_branch(is_scaled: bool, condition: str) -> bytes:
    helper, kind = onnx.helper, onnx.TensorProto
    out = [helper.make_tensor_value_info("result", kind.FLOAT, None)]
    factor = onnx.numpy_helper.from_array(np.array(2, np.float32), "factor")
    yes = helper.make_graph([helper.make_node("Mul", ["x", "factor"], ["result"])], "yes", [], out, [factor])
    no = helper.make_graph([helper.make_node("Neg", ["x"], ["result"])], "no", [], out)
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["is_positive"]),
        helper.make_node("If", [condition], ["y"], then_branch=yes, else_branch=no),
    ]
    tensors = [
        onnx.numpy_helper.from_array(np.array(0, np.float32), "zero"),
        onnx.numpy_helper.from_array(np.array(is_scaled), "constant"),
    ]
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("y", kind.FLOAT, None)]
    graph = helper.make_graph(nodes, "branches", inputs, outputs, tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()


@pytest.mark.parametrize(
    ("is_scaled", "condition"), [(True, "constant"), (False, "constant"), (True, "is_positive")]
)
def test_a_branch_is_chosen_by_its_condition(is_scaled: bool, condition: str):
    content = build_branch(is_scaled, condition)
    network = OnnxNetwork(read_graph(content, Path()))
    for x in (f(2, 3), -np.abs(f(2, 3)) - 0.1):
        (expected,) = run_onnxruntime(content, {"x": x})
        np.testing.assert_allclose(network(torch.from_numpy(x))[0].detach(), expected, rtol=1e-6)


def test_functions_of_the_file_are_put_in_their_places():
    helper, kind = onnx.helper, onnx.TensorProto
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = [helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Neg", ["b"], ["c"])]
    function = helper.make_function("own", "NegativeRelu", ["a"], ["c"], body, opsets[:1])
    nodes = [helper.make_node("NegativeRelu", ["x"], ["y"], domain="own")]
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, [2, 3])]
    outputs = [helper.make_tensor_value_info("y", kind.FLOAT, [2, 3])]
    graph = helper.make_graph(nodes, "functions", inputs, outputs)
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)
    x = torch.from_numpy(f(2, 3))
    (found,) = OnnxNetwork(read_graph(model.SerializeToString(), Path()))(x)
    assert torch.equal(found, -x.relu())


def test_nodes_are_computed_in_any_order_and_unused_ones_not_at_all():
    helper, kind = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Bernoulli", ["x"], ["unused"]),
        helper.make_node("Neg", ["exp"], ["y"]),
        helper.make_node("Exp", ["x"], ["exp"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, [2])]
    graph = helper.make_graph(nodes, "mixed", inputs, [helper.make_tensor_value_info("y", kind.FLOAT, [2])])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    x = torch.from_numpy(f(2))
    assert torch.equal(OnnxNetwork(read_graph(content, Path()))(x)[0], -x.exp())
    nodes[2].input[0] = "y"
    graph = helper.make_graph(nodes, "circle", inputs, graph.output)
    with pytest.raises(ValueError, match="cycle"):
        OnnxNetwork(read_graph(helper.make_model(graph).SerializeToString(), Path()))


STEP, ZERO = scalar(0.02), scalar(120, np.uint8)
OUT = [scalar(0.03), scalar(110, np.uint8)]
SIGNED = RNG.integers(-100, 100, size=(4, 7)).astype(np.int8)
CHANNEL_STEPS = np.abs(f(4)) / 99 + 0.001
MICROSOFT = "com.microsoft."


@pytest.mark.parametrize(
    ("operator", "arrays", "attributes"),
    [
        (f"{MICROSOFT}QLinearAdd", [BYTES, STEP, ZERO, BYTES[0], STEP, ZERO, *OUT], {}),
        (f"{MICROSOFT}QLinearMul", [BYTES, STEP, ZERO, BYTES[0], STEP, ZERO, *OUT], {}),
        (f"{MICROSOFT}QLinearSigmoid", [BYTES, STEP, ZERO, *OUT], {}),
        (f"{MICROSOFT}QLinearLeakyRelu", [BYTES, STEP, ZERO, *OUT], {"alpha": 0.2}),
        (f"{MICROSOFT}QLinearGlobalAveragePool", [BYTES, STEP, ZERO, *OUT], {"channels_last": 0}),
        (f"{MICROSOFT}QLinearAveragePool", [BYTES, STEP, ZERO, *OUT], {"kernel_shape": [2, 2]}),
        (f"{MICROSOFT}QLinearSoftmax", [BYTES, STEP, ZERO, scalar(1 / 256), scalar(0, np.uint8)], {}),
        (f"{MICROSOFT}QLinearConcat", [*OUT, BYTES, STEP, ZERO, BYTES, scalar(0.04), ZERO], {"axis": 1}),
        ("QLinearMatMul", [BYTES, STEP, ZERO, SIGNED.T.copy(), STEP, scalar(3, np.int8), *OUT], {}),
        (
            f"{MICROSOFT}QGemm",
            [
                BYTES[0, 0],
                STEP,
                ZERO,
                SIGNED,
                CHANNEL_STEPS,
                np.zeros(4, np.int8),
                np.arange(4, dtype=np.int32),
                *OUT,
            ],
            {"transB": 1},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_quantized_operator_is_at_most_one_step_off(operator: str, arrays: list, attributes: dict):
    first = 2 if operator.endswith("QLinearConcat") else 0  # the others describe its output
    inner = {"inner": {"opset": 13}} if operator.endswith("QLinearSoftmax") else {}
    content, feed = build_node(operator, arrays, outtype=np.uint8, first=first, **inner, **attributes)
    (expected,) = run_onnxruntime(content, feed)
    (found,) = OnnxNetwork(read_graph(content, Path()))(*(torch.from_numpy(value) for value in feed.values()))
    assert tuple(found.shape) == expected.shape
    difference = np.abs(found.numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05  # halves are rounded up by some and to even by others
    assert len(np.unique(expected)) > 3


@pytest.mark.parametrize(("largest", "axis"), [(1, -1), (0, 2)])
def test_the_largest_values_and_their_places(largest: int, axis: int):
    helper, kind = onnx.helper, onnx.TensorProto
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], axis=axis, largest=largest)
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, X.shape)]
    outputs = [
        helper.make_tensor_value_info(n, t, None) for n, t in (("values", kind.FLOAT), ("places", kind.INT64))
    ]
    graph = helper.make_graph([node], "top", inputs, outputs, [onnx.numpy_helper.from_array(i(3), "k")])
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    found = OnnxNetwork(read_graph(content, Path()))(torch.from_numpy(X))
    for part, expected in zip(found, run_onnxruntime(content, {"x": X}), strict=True):
        np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("value_float", 2.5), ("value_floats", [1.0, 2.0]), ("value_int", 2), ("value_ints", [1, 2])],
)
def test_constants_however_they_are_written(name: str, value: object):
    helper, kind = onnx.helper, onnx.TensorProto
    number = kind.FLOAT if "float" in name else kind.INT64
    nodes = [
        helper.make_node("Constant", [], ["c"], **{name: value}),
        helper.make_node("Cast", ["c"], ["f"], to=kind.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind.FLOAT, [2])]
    outputs = [helper.make_tensor_value_info("y", kind.FLOAT, [2])]
    graph = helper.make_graph(nodes, f"constant {number}", inputs, outputs)
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    x = f(2)
    np.testing.assert_allclose(
        OnnxNetwork(read_graph(content, Path()))(torch.from_numpy(x))[0], x + np.array(value)
    )
