"""The model source ``onnx:``: a file with gradients where its conversion equals it, or else a black box."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustbench_local.classifier.binary_output import parse_output_key
from robustbench_local.classifier.foreign_errors import extract_first_line
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.config.file_lookup import find_file
from robustbench_local.config.user_files import read_user_file
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError, RefusedError, format_install_command
from robustbench_local.models.extra_libraries import import_extra
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest
from robustbench_local.models.model_files import read_file
from robustbench_local.models.onnx_check import ConversionCheck, check_conversion, make_check_inputs
from robustbench_local.models.onnx_data import find_external_locations, find_operators
from robustbench_local.models.onnx_graph.final_softmax import (
    find_probability_step,
    find_softmax,
    remove_softmax,
)
from robustbench_local.models.onnx_graph.graph_reader import OnnxGraph, read_graph
from robustbench_local.models.onnx_graph.operator_table import UnsupportedOperatorError
from robustbench_local.models.onnx_metadata import read_metadata
from robustbench_local.models.onnx_model import OnnxModel, build_session
from robustbench_local.models.onnx_module import OnnxModule, OnnxStraightThroughModule

_ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "QGemm", "QLinear")
"""How the names of operators begin that round activations; ``DequantizeLinear`` alone only stores weights."""
_BATCH_ROUNDING = "DynamicQuantizeLinear"
_SMALL_SIDE_PIXELS, _LARGE_SIDE_PIXELS = 32, 224
_MAX_SAMPLES = 8


@dataclass(frozen=True)
class _OnnxFile:
    """A file, run by onnxruntime, and its graph.

    Args:
        path: The file.
        model: Its session.
        graph: Its graph; None where it cannot be read.
        problem: Why it cannot be read, or is not converted; None if it can.
        is_rounded: Whether activations or pixels are rounded.
        depends_on_batch: Whether the rounding depends on the other images of a call.
        probability_output: Name of the chosen output, if it ends in a softmax.
    """

    path: Path
    model: OnnxModel
    graph: OnnxGraph | None
    problem: str | None
    is_rounded: bool
    depends_on_batch: bool
    probability_output: str | None

    @property
    def is_half(self) -> bool:
        """Return whether it computes in half precision."""
        return self.model.input.dtype == np.float16 or (self.graph is not None and self.graph.is_half)


def load_onnx(file: str, request: ModelRequest) -> LoadedModel:
    """Load the model in an ONNX file; external tensors must be in its folder or below.

    Gradients come from a conversion to torch that is compared with onnxruntime first. A file whose
    activations are rounded, such as int8, is a black box unless the user asks for gradients: its own answers
    then have straight-through gradients.

    Raises:
        ConfigError: If onnxruntime is missing, an option does not apply to an ONNX model, or gradients are
            wanted of a file that gives none.
        RefusedError: If the file names data outside its folder.
        ModelError: If it is not an ONNX file, or not a model from images to scores.
    """
    if request.weights is not None or request.architecture is not None:
        raise ConfigError(
            f"onnx:{file} holds both network and weights", remedy="leave weights and architecture out"
        )
    onnx_file, digest = _open_file(file, request)
    model = onnx_file.model
    classes = request.num_classes or model.find_num_classes(request.output) or request.default_classes
    if classes is None:
        raise ModelError(
            "the file does not state its number of classes",
            where=onnx_file.path.name,
            remedy="set num_classes",
        )
    runtime_version = import_module("onnxruntime").__version__
    loaded = LoadedModel(
        model=model,  # type: ignore[arg-type]  # arrays and named outputs are handled like tensors
        num_classes=classes,
        channels=model.input.channels,
        contract=InputContract(
            input_size=model.input.size, value_scale=255 if model.input.takes_bytes else 1, origin="file"
        ),
        is_unnormalized=not model.input.takes_bytes,
        notes=_describe_model(model, onnx_file),
        provenance={"weights": onnx_file.path.name, "sha256": digest, "onnxruntime": runtime_version},
    )
    _add_metadata(loaded, model)
    _add_gradients(loaded, onnx_file, request)
    return loaded


def _open_file(file: str, request: ModelRequest) -> tuple[_OnnxFile, str]:
    """Read a file, build its session, and return both with the SHA-256 of the file."""
    runtime = import_extra("onnxruntime", extra="onnx")
    path = find_file(file, request.base_folder)
    content, digest = read_file(path, sha256=request.sha256)
    hashes = [digest, *_hash_external_files(path, content)]
    operators = find_operators(content)
    build = partial(build_session, runtime, path)
    depends_on_batch = _BATCH_ROUNDING in operators
    build_model = partial(
        OnnxModel, build, where=path.name, identity=" ".join(hashes), depends_on_batch=depends_on_batch
    )
    model = build_model()
    graph, problem = _read_graph(content, path)
    output = _find_output(model, request)
    probability_output = None
    if graph is not None and output is not None and find_softmax(graph, output) is not None:
        probability_output = output
        step = find_probability_step(graph, output)
        model = build_model(probability_output=output, probability_step=step)
    is_rounded = model.input.takes_bytes or any(name.startswith(_ROUNDING) for name in operators)
    return _OnnxFile(path, model, graph, problem, is_rounded, depends_on_batch, probability_output), digest


def _read_graph(content: bytes, path: Path) -> tuple[OnnxGraph | None, str | None]:
    """Return the graph, or why there is none."""
    try:
        return read_graph(content, path.resolve().parent), None
    except ImportError:
        return None, f"the package onnx is not installed; run {format_install_command('onnx')}"
    except UnsupportedOperatorError as error:
        return None, f"no conversion to torch for {error}"
    except Exception as error:  # noqa: BLE001 - onnxruntime has read it: what onnx says is no reason to stop
        return None, f"the package onnx cannot read it: {extract_first_line(error)}"


def _find_output(model: OnnxModel, request: ModelRequest) -> str | None:
    """Return the name of the output with the scores; None where the user has not chosen one of several."""
    entry, head = parse_output_key(request.output)
    names = list(model.outputs)
    if head is not None:
        return None  # its meaning is declared, and it is not touched
    if entry is None:
        return names[0] if len(names) == 1 else None
    if entry not in names and str(entry).isdigit():
        return names[int(entry)] if int(entry) < len(names) else None
    return str(entry)


def _add_metadata(loaded: LoadedModel, model: OnnxModel) -> None:
    """Take class names and preprocessing from what the file says about itself."""
    metadata = read_metadata(model.metadata)
    if len(metadata.class_names) == loaded.num_classes:
        loaded.class_names = metadata.class_names
    if model.input.takes_bytes:
        return
    length = len(metadata.normalization[0]) if metadata.normalization is not None else 1
    if metadata.describes_pixels and length in (1, model.input.channels or length):
        loaded.contract = replace(
            loaded.contract,
            value_scale=metadata.value_scale or 1.0,
            normalization=metadata.normalization,
            channel_order="bgr" if metadata.is_bgr and model.input.channels in (None, 3) else "rgb",
        )
        loaded.is_unnormalized = False
        loaded.provenance["preprocessing"] = "the file's metadata"


def _describe_model(model: OnnxModel, onnx_file: _OnnxFile, module: OnnxModule | None = None) -> list[str]:
    """Return what a reader of the results should know about the file, or about its conversion."""
    runtime = ["run by onnxruntime on the CPU"] if module is None else []
    notes = [*runtime, *model.input.describe_conversion()]
    if module is not None and module.graph_batch_size is None and model.input.batch_size is not None:
        size = format_count(model.input.batch_size, "image")
        notes.append(f"the file takes exactly {size} at a time, and its conversion any number")
    elif model.input.batch_size is not None and model.input.has_batch:
        size = format_count(model.input.batch_size, "image")
        how = "batches are padded with copies" if model.input.batch_size > 1 else "they are given one by one"
        notes.append(f"takes exactly {size} at a time: {how}")
    elif model.batch_size is not None and model.input.has_batch:
        notes.append(
            "its rounding depends on all images of a call (DynamicQuantizeLinear): they are given one by one"
        )
    if onnx_file.probability_output is not None:
        notes.append("its final softmax is undone by a logarithm: attacks see logits, labels stay")
    return notes


def _add_gradients(loaded: LoadedModel, onnx_file: _OnnxFile, request: ModelRequest) -> None:
    """Replace a black box by its conversion, where gradients may be used and the conversion is equal."""
    if request.access not in (None, "gradients"):
        return
    if request.access is None and onnx_file.is_rounded:
        loaded.notes.append(
            "its activations or pixels are rounded: a black box by default; access: gradients follows "
            "straight-through gradients"
        )
        return
    module, problem = _convert_file(onnx_file)
    if module is not None:
        problem = _check_module(loaded, onnx_file, module, request)
    if problem is None:
        return
    if request.access == "gradients":
        raise ConfigError(
            f"gives no gradients: {problem}",
            where=onnx_file.path.name,
            remedy="set access: scores, or labels",
        )
    loaded.notes.append(f"a black box without gradients: {problem}")


def _convert_file(onnx_file: _OnnxFile) -> tuple[OnnxModule | None, str | None]:
    """Convert a file to torch; return the module, or why there is none."""
    if onnx_file.graph is None:
        return None, onnx_file.problem
    graph = onnx_file.graph
    if onnx_file.probability_output is not None:
        graph = remove_softmax(graph, onnx_file.probability_output)
    model = onnx_file.model
    try:
        return OnnxModule(graph, model.input, model.batch_size, model.identity), None
    except UnsupportedOperatorError as error:
        return None, f"no conversion to torch for {error}"
    except Exception as error:  # noqa: BLE001 - of nodes with constants alone, which a strange graph may have
        return None, f"the conversion to torch fails: {extract_first_line(error)}"


def _check_module(
    loaded: LoadedModel, onnx_file: _OnnxFile, module: OnnxModule, request: ModelRequest
) -> str | None:
    """Compare a conversion with its file, and use it if it is equal; return why it is not used."""
    inputs = _make_inputs(onnx_file.model, request)
    try:
        check = _compare_with_file(onnx_file, module, inputs, request)
    except UnsupportedOperatorError as error:
        return f"no conversion to torch for {error}"
    except Exception as error:  # noqa: BLE001 - a strange graph may raise anything
        return f"the conversion to torch fails: {extract_first_line(error)}"
    is_half = onnx_file.is_half
    if onnx_file.is_rounded:
        loaded.model = OnnxStraightThroughModule(module, onnx_file.model).eval()
        how = "straight-through gradients of a conversion to torch, answers of onnxruntime"
    else:
        problem = check.find_problem(is_half=is_half)
        if problem is not None:
            return problem
        loaded.model = module.eval()
        loaded.notes = _describe_model(onnx_file.model, onnx_file, module)
        how = "answers and gradients of a conversion to torch"
    loaded.access = "gradients"
    loaded.notes.append(
        f"{how}; it differs from onnxruntime by at most {check.difference:.1e} on "
        f"{format_count(check.count, 'input')}, with the same label on {check.same_labels}"
    )
    loaded.provenance["gradients"] = how
    return None


def _compare_with_file(
    onnx_file: _OnnxFile, module: OnnxModule, inputs: Tensor, request: ModelRequest
) -> ConversionCheck:
    """Compare a conversion with its file, first without the batch size that the file fixes.

    A conversion often takes any number of images where the file takes one, which is many times faster.
    """
    entry, _ = parse_output_key(request.output)
    is_half = onnx_file.is_half
    check = partial(
        check_conversion,
        module,
        onnx_file.model,
        inputs,
        output=entry,
        is_probability=onnx_file.probability_output is not None,
        should_check_slopes=not onnx_file.is_rounded and not is_half,
    )
    fixed = module.graph_batch_size
    if fixed is not None and not onnx_file.depends_on_batch and module.image_input.has_batch:
        module.graph_batch_size = None
        with suppress(Exception):  # shapes that fit this number of images only may raise anything
            result = check()
            if result.find_problem(is_half=is_half) is None:
                return result
        module.graph_batch_size = fixed
    return check()


def _make_inputs(model: OnnxModel, request: ModelRequest) -> Tensor:
    """Return inputs for the comparison, in the shape of the images that the model will get."""
    samples = request.sample_images
    shape = request.image_shape or (tuple(samples.shape[1:]) if samples is not None else None)
    channels = model.input.channels or (shape[0] if shape else 3)
    size = model.input.size or request.input_size or (shape[1:] if shape else _find_size(model, channels))
    if samples is not None:
        samples = samples[:: max(1, len(samples) // _MAX_SAMPLES)][:_MAX_SAMPLES].float().cpu()
    takes_bytes = model.input.takes_bytes
    inputs = make_check_inputs(samples, (channels, size[0], size[1]), is_unit=takes_bytes)
    return 255 * inputs if takes_bytes else inputs


def _find_size(model: OnnxModel, channels: int) -> tuple[int, int]:
    """Return a size of images that the file takes, where nothing tells it."""
    with suppress(Exception):  # too small for its layers, which raises errors of any kind
        model(torch.zeros(1, channels, _SMALL_SIDE_PIXELS, _SMALL_SIDE_PIXELS))
        return _SMALL_SIDE_PIXELS, _SMALL_SIDE_PIXELS
    return _LARGE_SIDE_PIXELS, _LARGE_SIDE_PIXELS


def _hash_external_files(path: Path, content: bytes) -> list[str]:
    """Return the SHA-256 of each external file with tensors, all of which must be inside the folder."""
    try:
        locations = sorted(find_external_locations(content))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"is not an ONNX file: {extract_first_line(error)}", where=path.name) from error
    folder = path.resolve().parent
    hashes = []
    for location in locations:
        external_file = (folder / location).resolve()
        if not external_file.is_relative_to(folder):
            raise RefusedError(
                f"its tensors are in {location!r}, outside the folder of the model",
                where=path.name,
                remedy="export it again with that file beside the model",
            )
        if not external_file.is_file():
            raise ModelError(f"its tensors are in {location!r}, which does not exist", where=path.name)
        hashes.append(sha256(read_user_file(external_file, where=location, error=ModelError)).hexdigest())
    return hashes
