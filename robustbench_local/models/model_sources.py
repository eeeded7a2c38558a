"""Model sources: one line that names a classifier's origin, and the classifier loaded from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.classifier.abstention_declaration import (
    AbstainDeclaration,
    Abstention,
    parse_abstention,
)
from robustbench_local.classifier.binary_output import parse_output_key
from robustbench_local.classifier.input_contract import InputContract, override_contract
from robustbench_local.config.strict_yaml import validate
from robustbench_local.errors import ConfigError, did_you_mean
from robustbench_local.extensions.entry_points import find_entry_point, list_entry_points
from robustbench_local.models.endpoint_options import EndpointOptions, is_url, remove_credentials
from robustbench_local.models.exported_program import load_export
from robustbench_local.models.http_model import load_endpoint
from robustbench_local.models.hugging_face.classifiers import load_hugging_face
from robustbench_local.models.hugging_face.zero_shot import load_zero_shot
from robustbench_local.models.library_networks import load_torchvision
from robustbench_local.models.litert_model import load_litert
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest, build_with_weights
from robustbench_local.models.maite_model import load_maite
from robustbench_local.models.networks.network_registry import ARCHITECTURES, find_architecture
from robustbench_local.models.onnx_source import load_onnx
from robustbench_local.models.openvino_model import load_openvino
from robustbench_local.models.quantized_models import ask_one_by_one, find_quantized_access
from robustbench_local.models.timm_networks import load_timm
from robustbench_local.models.torchscript_model import load_torchscript
from robustbench_local.models.user_code import load_from_entry_point, load_python
from robustbench_local.models.weights_card import WeightsCard, find_card
from robustbench_local.models.zoo import ZOO_FOLDER, find_zoo_card

_REVISED_SOURCES = ("hf:", "clip:", "timm:hf-hub:")
"""How the sources begin that come from repositories with revisions."""


def load_classifier(
    source: str,
    *,
    weights: str | None = None,
    entry: str | None = None,
    architecture: str | None = None,
    num_classes: int | None = None,
    normalize: tuple[Sequence[float], Sequence[float]] | str | None = None,
    input_size: tuple[int, int] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    access: Access | None = None,
    output: str | int | None = None,
    abstain: AbstainDeclaration | None = None,
    name: str | None = None,
    device: str = "cpu",
    sha256: str | None = None,
    allow_code: bool = False,
    trust_pickle: str | None = None,
    default_classes: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    sample_images: Tensor | None = None,
    base_folder: Path | None = None,
    endpoint: EndpointOptions | Mapping[str, Any] | None = None,
    revision: str | None = None,
    templates: Sequence[str] | None = None,
    default_class_names: Sequence[str] | None = None,
) -> Classifier:
    """Load a classifier; no code in a weights file is run, and its values must be finite.

    Args:
        source: ``torchvision:NAME``, ``timm:NAME``, ``hf:FOLDER``, ``clip:FOLDER``, ``checkpoint:FILE``,
            ``zoo:NAME``, ``python:FILE.py:NAME``, ``maite:FILE.py:NAME``, ``torchscript:FILE``,
            ``export:FILE``, ``onnx:FILE``, ``litert:FILE``, ``openvino:FILE``, the URL of a service, or the
            name of an entry point of an installed distribution, with ``:REST`` if it takes a reference.
        weights: A file, or the name of published weights such as ``"DEFAULT"``; None for random ones.
        entry: Dotted path of the part of a weights file to use, such as ``"state_dict_ema"``, if several
            parts fit; ``"."`` for the outermost mapping itself.
        architecture: For a checkpoint: one of our networks, or ``torchvision:NAME``, ``timm:NAME``,
            ``hf:FOLDER``, ``python:FILE.py:NAME``.
        num_classes: By default the number in the weights, then ``default_classes``.
        normalize: Overrides the source's normalization; ``"none"`` switches it off.
        input_size: (H, W), overrides the source's input size.
        preprocessing: Overrides other fields of the source's `InputContract`: ``resize`` (length of the
            shorter side, (H, W) or ``"stretch"``), ``interpolation``, ``antialias``, ``crop_rounding``,
            ``channel_order``, ``value_scale``.
        class_names: Overrides the source's class names.
        access: The output that an attacker may use; see `Classifier`.
        output: The entry of the model's output with the logits, or ``"sigmoid"``, ``"logit"`` for a model
            with one output for two classes; see `Classifier`.
        abstain: How the model rejects images; see `Classifier`. ``num_classes`` and ``class_names`` are
            without the rejecting output.
        name: Name of the classifier; by default the source.
        device: Device of the computation; ``"auto"`` means CUDA if available.
        sha256: Required SHA-256 of the weights file.
        allow_code: Allow a Python file, or the program in an exported file, to be run.
        trust_pickle: ``"sha256:<hash>"`` of a weights file or program that may run code while it is loaded.
        default_classes: Number of classes of the data.
        image_shape: (C, H, W) of the data's images, on which a model is tried whose file does not state its
            input.
        sample_images: Some of the data's images, (N, C, H, W) in [0, 1], on which a conversion is compared
            with its file.
        base_folder: The folder in which relative paths are looked up before the working directory.
        endpoint: Options of a service: format, key, batch, timeout, retries, rate, token.
        revision: Commit, branch or tag of a repository on the Hugging Face hub.
        templates: Prompts of ``clip:``, each with ``{}`` for the name of a class; by default CLIP's own.
        default_class_names: Names of the data's classes, for ``clip:`` without ``class_names``.

    Raises:
        ConfigError: If the source, or a name in it, is unknown.
        ModelError: If the file is unusable or does not fit.
        RefusedError: If loading could run code that was not allowed.
    """
    head = _parse_output_kind(output, num_classes)
    abstention = parse_abstention(abstain)
    extra = 0 if abstention is None else abstention.extra_outputs
    # The network has one output, whatever it means; a user's own code is not given this number.
    output_count = None if source.startswith("python:") else 1
    request = ModelRequest(
        weights=weights,
        entry=entry,
        architecture=architecture,
        num_classes=output_count if head else num_classes and num_classes + extra,
        default_classes=1 if head else default_classes and default_classes + extra,
        sha256=sha256,
        trust_pickle=trust_pickle,
        allow_code=allow_code,
        base_folder=base_folder,
        access=access,
        output=output,
        endpoint=_parse_endpoint(source, endpoint),
        image_shape=_find_input_shape(image_shape, input_size),
        revision=revision,
        templates=templates,
        class_names=class_names,
        default_class_names=default_class_names,
        declares_preprocessing=normalize is not None and input_size is not None,
        input_size=input_size,
        sample_images=sample_images,
    )
    _check_special_options(source, request)
    loaded = load_model(source, request)
    find_quantized_access(loaded, request, where=name or remove_credentials(source))
    if entry is not None and "weights" not in loaded.provenance:
        raise ConfigError(
            f"there is no weights file with an entry {entry!r}", where=name, remedy="leave entry out"
        )
    loaded.check_normalization(normalize)
    names, rejecting_name = _split_rejecting_name(loaded, abstention)
    classifier = Classifier(
        loaded.model,
        num_classes=2 if head else loaded.num_classes - extra,
        preprocessing=override_contract(
            loaded.contract,
            normalize=normalize,
            input_size=input_size,
            preprocessing=preprocessing,
            channels=loaded.channels,
        ),
        channels=loaded.channels,
        class_names=class_names or names,
        access=access or loaded.access,
        output=output,
        abstain=abstention,
        name=name or remove_credentials(source),
        device=device,
        provenance={"source": remove_credentials(source), **loaded.provenance},
    )
    for note in loaded.notes:
        classifier.add_note(note)
    if rejecting_name is not None:
        # a class of the data here would protect every image that is classified as it
        classifier.add_note(
            f"its output {rejecting_name!r} counts as rejecting an image, as abstain says; if that is a "
            "class of the data, leave abstain out"
        )
    if loaded.is_unnormalized and normalize is None:
        classifier.add_note("no normalization declared: images are passed on in [0, 1]")
    classifier.check_finite_weights()
    ask_one_by_one(classifier)
    return classifier


def _split_rejecting_name(
    loaded: LoadedModel, abstention: Abstention | None
) -> tuple[list[str] | None, str | None]:
    """Return the source's class names without that of the rejecting output, and that name."""
    names = None if loaded.class_names is None else list(loaded.class_names)
    if names and abstention and abstention.extra_outputs and len(names) == loaded.num_classes:
        index = abstention.index if abstention.index < len(names) else -1  # the classifier refuses others
        return names, names.pop(index)
    return names, None


def _find_input_shape(
    image_shape: tuple[int, int, int] | None, input_size: tuple[int, int] | None
) -> tuple[int, int, int] | None:
    """Return the shape of the images that reach the model, where it is known."""
    if image_shape is None or input_size is None:
        return image_shape
    return (image_shape[0], *input_size)


def _check_special_options(source: str, request: ModelRequest) -> None:
    """Refuse options that only some sources have."""
    if request.templates is not None and not source.startswith("clip:"):
        raise ConfigError(f"{source} reads no prompts", where="templates", remedy="leave templates out")
    if request.revision is not None and not source.startswith(_REVISED_SOURCES):
        raise ConfigError(f"{source} has no revisions", where="revision", remedy="leave revision out")


def _parse_output_kind(output: str | int | None, num_classes: int | None) -> str | None:
    """Return the declared kind of a single output for two classes, or None."""
    _, head = parse_output_key(output)
    if head is not None and num_classes not in (None, 2):
        message = f"output: {head} stands for 2 classes, but num_classes is {num_classes}"
        raise ConfigError(message, remedy="leave num_classes out, or set it to 2")
    return head


def load_model(source: str, request: ModelRequest) -> LoadedModel:
    """Load a model without a `Classifier` around it; a module is ready to be trained.

    Args:
        source: As for `load_classifier`.
        request: The user's options.

    Raises:
        RobustbenchError: As `load_classifier` does.
    """
    return _find_loader(source)(source.partition(":")[2], request)


def is_outside_model(source: str) -> bool:
    """Return True if a source is an entry point of an installed distribution."""
    kind = source.partition(":")[0]
    return not is_url(source) and kind not in _LOADERS and find_entry_point("models", kind) is not None


def _find_loader(source: str) -> Callable[[str, ModelRequest], LoadedModel]:
    if is_url(source):
        return lambda _, request: load_endpoint(source, request)
    kind, colon, rest = source.partition(":")
    if kind in _LOADERS and rest:
        return _LOADERS[kind]
    if kind not in _LOADERS and (record := find_entry_point("models", kind)) is not None:
        return partial(load_from_entry_point, record)
    if kind in _LOADERS:
        raise ConfigError(f"the model source {source!r} names nothing", remedy=f"write {kind}:NAME")
    known = {*_LOADERS, *(record.name for record in list_entry_points("models"))}
    if colon and kind in _OTHER_NAMES:
        raise ConfigError(
            f"unknown model source {source!r}", remedy=f"write {_OTHER_NAMES[kind]}:{rest or 'FILE'}"
        )
    remedy = (
        did_you_mean(kind, known) if colon else f"write where it comes from, such as torchvision:{source}"
    )
    raise ConfigError(f"unknown model source {source!r}", remedy=remedy)


def _parse_endpoint(
    source: str, endpoint: EndpointOptions | Mapping[str, Any] | None
) -> EndpointOptions | None:
    """Validate the options of a service."""
    if endpoint is None or isinstance(endpoint, EndpointOptions):
        options = endpoint
    else:
        options = validate(EndpointOptions, endpoint, where="endpoint", error=ConfigError)
    if options is not None and not is_url(source):
        raise ConfigError(f"{source} is not a service", where="endpoint", remedy="leave endpoint out")
    return options


def _load_checkpoint(file: str, request: ModelRequest) -> LoadedModel:
    """Load a weights file together with its network."""
    if request.weights is not None:
        raise ConfigError(f"checkpoint:{file} is the weights file itself", remedy="leave weights out")
    if request.architecture is None and (card := find_card(file, request.base_folder)) is not None:
        return _load_with_card(card, file, request)
    kind, _, rest = (request.architecture or "").partition(":")
    if kind in ("torchvision", "timm", "hf", "python") and rest:
        inner = _LOADERS[kind](rest, replace(request, weights=file))
        inner.provenance["architecture"] = request.architecture or ""
        return inner
    architecture = find_architecture(request.architecture) if request.architecture else None
    weights = request.read(file)
    if architecture is None and weights.module is not None:
        classes = request.num_classes or request.default_classes
        if classes is None:
            raise ConfigError(
                "a pickled network does not state its number of classes", where=file, remedy="set num_classes"
            )
        loaded = LoadedModel(model=weights.module.eval(), num_classes=classes)
        loaded.record_weights(weights)
        return loaded
    if architecture is None:
        raise ConfigError(
            "a checkpoint needs its network by name",
            where=file,
            remedy=f"set architecture: one of {', '.join(ARCHITECTURES)}, or torchvision:NAME, timm:NAME, "
            "hf:FOLDER, python:FILE.py:NAME",
        )
    loaded = build_with_weights(architecture.build_network, architecture.num_classes, weights, request)
    loaded.channels = architecture.input_shape[0]
    loaded.contract = InputContract(
        normalization=architecture.normalize,
        input_size=architecture.input_shape[1:],
        origin=f"the network {request.architecture}",
    )
    loaded.provenance["architecture"] = request.architecture or ""
    return loaded


def _load_zoo(name: str, request: ModelRequest) -> LoadedModel:
    """Load a network that ships with the package; its file must have the SHA-256 of its card."""
    card = find_zoo_card(name)
    return _load_with_card(card, card.weights, replace(request, base_folder=ZOO_FOLDER, weights=None))


def _load_with_card(card: WeightsCard, file: str, request: ModelRequest) -> LoadedModel:
    """Load weights that have a card, which states their SHA-256."""
    described = replace(request, sha256=card.sha256, architecture=card.architecture)
    loaded = _load_checkpoint(file, replace(described, num_classes=card.num_classes))
    loaded.contract, loaded.is_unnormalized = card.build_contract(), False
    loaded.class_names = card.class_names
    loaded.provenance |= card.provenance
    return loaded


_LOADERS: dict[str, Callable[[str, ModelRequest], LoadedModel]] = {
    "checkpoint": _load_checkpoint,
    "clip": load_zero_shot,
    "export": load_export,
    "hf": load_hugging_face,
    "litert": load_litert,
    "maite": load_maite,
    "onnx": load_onnx,
    "openvino": load_openvino,
    "python": load_python,
    "timm": load_timm,
    "torchscript": load_torchscript,
    "torchvision": load_torchvision,
    "zoo": _load_zoo,
}
_OTHER_NAMES = {"tflite": "litert", "tensorflow-lite": "litert", "ir": "openvino", "ov": "openvino"}
"""Names that a source also goes by, for the message."""
MODEL_SOURCE_KINDS = frozenset(_LOADERS)
"""How our own sources begin: no entry point can take their place."""
