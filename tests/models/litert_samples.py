"""LiteRT files for tests: the shipped network of traffic signs by its operators, float and quantized."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_local.models.model_sources import load_classifier

schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="needs the extra .[litert]")
flatbuffers = pytest.importorskip("flatbuffers", reason="needs the extra .[litert]")

TYPES = {np.float32: 0, np.float16: 1, np.int32: 2, np.uint8: 3, np.int64: 4, np.int8: 9}


class FileBuilder:
    """Builds a LiteRT file of one graph: tensors, operators, inputs, outputs, metadata."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.operatorCodes = 3, []
        self.model.buffers, self.model.metadata = [schema.BufferT()], []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]

    def add_tensor(
        self, shape: tuple[int, ...], dtype: Any = np.float32, name: str = "", signature: Any = None
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.name = (
            list(shape),
            TYPES[dtype],
            name or f"t{len(self.graph.tensors)}",
        )
        tensor.shapeSignature = signature
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_constant(self, values: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        number = self.add_tensor(values.shape, values.dtype.type)
        self.graph.tensors[number].buffer = len(self.model.buffers) - 1
        return number

    def set_quantization(self, tensor: int, scale: float, zero_point: int) -> None:
        quantization = schema.QuantizationParametersT()
        quantization.scale, quantization.zeroPoint = [scale], [zero_point]
        self.graph.tensors[tensor].quantization = quantization

    def add_operator(self, kind: str, inputs: list[int], outputs: list[int], options: Any = None) -> None:
        """Add an operator by its name in the schema; a name that it lacks is a custom operator's."""
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        number = getattr(schema.BuiltinOperator, kind, 32)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        if number == 32:
            code.customCode = kind
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        if options is not None:
            operator.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        self.graph.operators.append(operator)

    def add_metadata(self, name: str, content: bytes) -> None:
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(content, np.uint8)
        self.model.buffers.append(buffer)
        entry.name, entry.buffer = name, len(self.model.buffers) - 1
        self.model.metadata.append(entry)

    def pack(self) -> bytes:
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def build_linear_file(
    *,
    matrix: np.ndarray,
    shape: tuple[int, ...] = (1, 4, 4, 3),
    dtype: Any = np.float32,
    quantization: tuple[float, int] | None = None,
    signature: Any = None,
    with_softmax: bool = False,
    with_label: bool = False,
) -> FileBuilder:
    """A graph from images to flattened images @ matrix, (pixel values, classes)."""
    build, count = FileBuilder(), shape[0]
    images = build.add_tensor(shape, dtype, "images", signature)
    build.graph.inputs = [images]
    if dtype is not np.float32:
        build.set_quantization(images, *(quantization or (1 / 255, 0)))
        floats = build.add_tensor(shape)
        build.add_operator("DEQUANTIZE", [images], [floats])
        images = floats
    flat, scores = build.add_tensor((count, matrix.shape[0])), build.add_tensor((count, matrix.shape[1]))
    size = build.add_constant(np.array([-1, matrix.shape[0]], np.int32))
    build.add_operator("RESHAPE", [images, size], [flat])
    options = schema.FullyConnectedOptionsT()
    build.add_operator("FULLY_CONNECTED", [flat, build.add_constant(matrix.T.copy()), -1], [scores], options)
    build.graph.tensors[scores].name = "scores"
    if with_softmax:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        logits, scores = scores, build.add_tensor((count, matrix.shape[1]), name="probabilities")
        build.add_operator("SOFTMAX", [logits], [scores], options)
    build.graph.outputs = [scores]
    if with_label:
        label, axis = build.add_tensor((count,), np.int64, "label"), build.add_constant(np.array(1, np.int32))
        options = schema.ArgMaxOptionsT()
        options.outputType = TYPES[np.int64]
        build.add_operator("ARG_MAX", [scores, axis], [label], options)
        build.graph.outputs.append(label)
    return build


def build_signs_file(*, with_softmax: bool = False) -> bytes:
    """The float network ``zoo:signs-plain``, (1, 32, 32, 3) to (1, 43), as a converter writes it."""
    network = load_classifier("zoo:signs-plain").module
    assert network is not None
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    build = FileBuilder()
    images = build.add_tensor((1, 32, 32, 3), name="images")
    build.graph.inputs = [images]
    layers = _SignsLayers(build, weights)
    features = layers.convolve(images, "stem", stride=2, padding=1)
    for block, stride in (("block1", 1), ("block2", 2), ("block3", 2)):
        features = layers.add_block(features, block, stride)
    active = layers.normalize(features, "norm")
    scores = layers.pool_and_classify(active, "head")
    if with_softmax:
        options = schema.SoftmaxOptionsT()
        options.beta = 1.0
        logits, scores = scores, build.add_tensor((1, 43), name="probabilities")
        build.add_operator("SOFTMAX", [logits], [scores], options)
    build.graph.outputs = [scores]
    return build.pack()


class _SignsLayers:
    def __init__(self, build: FileBuilder, weights: dict[str, np.ndarray]) -> None:
        self.build, self.weights = build, weights

    def _shape(self, tensor: int) -> list[int]:
        return list(self.build.graph.tensors[tensor].shape)

    def convolve(self, features: int, name: str, *, stride: int, padding: int) -> int:
        kernel = self.weights[f"{name}.weight"].transpose(0, 2, 3, 1)  # (out, height, width, in)
        if padding:
            edges = np.array([[0, 0], [padding] * 2, [padding] * 2, [0, 0]], np.int32)
            _, height, width, channels = self._shape(features)
            padded = self.build.add_tensor((1, height + 2 * padding, width + 2 * padding, channels))
            self.build.add_operator("PAD", [features, self.build.add_constant(edges)], [padded])
            features = padded
        options = schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = 1, stride, stride  # 1: none
        side = (self._shape(features)[1] - kernel.shape[1]) // stride + 1
        result = self.build.add_tensor((1, side, side, len(kernel)))
        zeros = np.zeros(len(kernel), np.float32)
        operands = [features, self.build.add_constant(kernel), self.build.add_constant(zeros)]
        self.build.add_operator("CONV_2D", operands, [result], options)
        return result

    def normalize(self, features: int, name: str) -> int:
        """Batch norm and ReLU, as a product and a sum."""
        part = {
            key: self.weights[f"{name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        }
        scale = part["weight"] / np.sqrt(part["running_var"] + 1e-5)
        shift = part["bias"] - part["running_mean"] * scale
        product, result = (self.build.add_tensor(tuple(self._shape(features))) for _ in range(2))
        self.build.add_operator(
            "MUL", [features, self.build.add_constant(scale)], [product], schema.MulOptionsT()
        )
        options = schema.AddOptionsT()
        options.fusedActivationFunction = 1  # ReLU
        self.build.add_operator("ADD", [product, self.build.add_constant(shift)], [result], options)
        return result

    def add_block(self, features: int, name: str, stride: int) -> int:
        active = self.normalize(features, f"{name}.norm1")
        inner = self.convolve(active, f"{name}.conv1", stride=stride, padding=1)
        inner = self.convolve(self.normalize(inner, f"{name}.norm2"), f"{name}.conv2", stride=1, padding=1)
        shortcut = features
        if f"{name}.shortcut.weight" in self.weights:
            shortcut = self.convolve(active, f"{name}.shortcut", stride=stride, padding=0)
        result = self.build.add_tensor(tuple(self._shape(inner)))
        self.build.add_operator("ADD", [inner, shortcut], [result], schema.AddOptionsT())
        return result

    def pool_and_classify(self, features: int, name: str) -> int:
        options = schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW, options.filterHeight, options.filterWidth = (
            1,
            2,
            2,
            2,
            2,
        )
        channels = self._shape(features)[3]
        pooled = self.build.add_tensor((1, 2, 2, channels))
        self.build.add_operator("AVERAGE_POOL_2D", [features], [pooled], options)
        flat = self.build.add_tensor((1, 4 * channels))
        size = self.build.add_constant(np.array([1, 4 * channels], np.int32))
        self.build.add_operator("RESHAPE", [pooled, size], [flat], schema.ReshapeOptionsT())
        matrix = (
            self.weights[f"{name}.weight"]
            .reshape(-1, channels, 4)
            .transpose(0, 2, 1)
            .reshape(-1, 4 * channels)
        )
        result = self.build.add_tensor((1, len(matrix)), name="scores")
        operands = [
            flat,
            self.build.add_constant(matrix),
            self.build.add_constant(self.weights[f"{name}.bias"]),
        ]
        self.build.add_operator("FULLY_CONNECTED", operands, [result], schema.FullyConnectedOptionsT())
        return result


def quantize(content: bytes, images: torch.Tensor, dtype: Any = np.int8) -> bytes:
    """Quantize a float file fully, with input and output of this type, by the runtime's own calibration.

    Args:
        content: The file.
        images: (N, C, H, W), as the network takes them.
        dtype: ``np.int8`` or ``np.uint8``.
    """
    wrapper = pytest.importorskip("ai_edge_litert._pywrap_tensorflow_lite_calibration_wrapper")
    calibration = wrapper.CalibrationWrapper(wrapper.AddIntermediateTensors(content), [], [])
    calibration.Prepare()
    for image in images:
        calibration.FeedTensor([np.ascontiguousarray(image.permute(1, 2, 0).numpy()[None])])
    kind, inner, bias = (np.dtype(each).num for each in (dtype, np.int8, np.int32))
    return calibration.QuantizeModel(kind, kind, False, inner, bias, False, False)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def build_metadata(
    *, mean: list[float] | None = None, std: list[float] | None = None, labels: str | None = None
) -> bytes:
    """Metadata of one input with this normalization and one output with this list of class names."""
    builder = flatbuffers.Builder(256)

    def vector(entries: list[int]) -> int:
        builder.StartVector(4, len(entries), 4)
        for entry in reversed(entries):
            builder.PrependUOffsetTRelative(entry)
        return builder.EndVector()

    def floats(values: list[float]) -> int:
        return builder.CreateNumpyVector(np.array(values, np.float32))

    def table(size: int, **fields: tuple[str, int]) -> int:
        builder.StartObject(size)
        for name, (kind, value) in fields.items():
            place = int(name.removeprefix("f"))
            put = builder.PrependUOffsetTRelativeSlot if kind == "offset" else builder.PrependInt8Slot
            put(place, value, 0)
        return builder.EndObject()

    tensors = {}
    if mean is not None and std is not None:
        parts = floats(mean), floats(std)
        options = table(2, f0=("offset", parts[0]), f1=("offset", parts[1]))
        unit = table(2, f0=("byte", 1), f1=("offset", options))
        units = vector([unit])
        tensors["f2"] = ("offset", vector([table(7, f4=("offset", units))]))
    if labels is not None:
        name = builder.CreateString(labels)
        files = vector([table(5, f0=("offset", name), f2=("byte", 2))])
        tensors["f3"] = ("offset", vector([table(7, f6=("offset", files))]))
    graphs = vector([table(10, **tensors)])
    builder.Finish(table(8, f3=("offset", graphs)), b"M001")
    return bytes(builder.Output())


def append_files(content: bytes, files: dict[str, str]) -> bytes:
    """Append an archive with these files, as the metadata writers do."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()
