"""Zero-shot classifiers: CLIP and SigLIP with frozen text features of class names in prompt templates.

The features of a class are the mean of the normalized features of its prompts, normalized again, as in
Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, section 3.1.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.models.hugging_face.classifiers import (
    check_options,
    find_channels,
    read_input_contract,
)
from robustbench_local.models.hugging_face.model_folder import ModelFolder, find_model_folder
from robustbench_local.models.hugging_face.transformers_loading import (
    load_network,
    quiet_transformers,
    read_config,
)
from robustbench_local.models.loaded_model import LoadedModel, ModelRequest

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""CLIP's own template."""
_NEEDED = ("get_text_features", "get_image_features", "logit_scale")
_PROMPTS_PER_BATCH = 64
_TEXT_PARTS = ("text_model", "text_projection")


class ZeroShotNetwork(nn.Module):
    """Images to their scaled cosine similarity with the text features of each class.

    Args:
        network: A network of transformers with images and texts; its text part is removed.
        text_features: (K, D), normalized.
        prompts: The prompts of each class, for the identity.
    """

    text_features: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, network: Any, text_features: Tensor, prompts: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.prompts = tuple(map(tuple, prompts))
        scale = network.logit_scale.detach().clone().exp()
        bias = getattr(network, "logit_bias", None)
        for part in _TEXT_PARTS:
            if hasattr(network, part):
                delattr(network, part)
        self.network: Any = network
        self.register_buffer("text_features", text_features)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", torch.zeros_like(scale) if bias is None else bias.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K) of normalized images (N, C, H, W)."""
        features = _select_features(self.network.get_image_features(pixel_values=images))
        features = functional.normalize(features, dim=-1)
        logits: Tensor = features @ self.text_features.T * self.scale + self.bias
        return logits


def load_zero_shot(reference: str, request: ModelRequest) -> LoadedModel:
    """Load a zero-shot classifier of the user's class names, or of the data's.

    Args:
        reference: A folder that ``save_pretrained`` has written, or ``OWNER/NAME`` on the Hugging Face hub.
        request: The user's options; ``templates`` are ensembled.

    Raises:
        ConfigError: If transformers is not installed, there are no class names, or an option does not fit.
        ModelError: If it is no such model, or its files do not fit or cannot be obtained.
        RefusedError: If it is pickled or needs code of its own.
    """
    check_options(f"clip:{reference}", request)
    prompts, notes = _write_prompts(reference, request)
    folder = find_model_folder(reference, request)
    with quiet_transformers(folder) as transformers:
        config = read_config(transformers, folder)
        _check_task(transformers, config, folder)
        network, remarks, provenance = load_network(transformers.AutoModel, config, folder, request)
        if not all(hasattr(network, name) for name in _NEEDED):
            raise _explain_task(config, folder)
        contract, more = read_input_contract(transformers, folder, request)
        features = _encode_prompts(transformers, network, prompts, folder)
    names = request.class_names or request.default_class_names
    return LoadedModel(
        model=ZeroShotNetwork(network, features, prompts).eval(),
        num_classes=len(prompts),
        contract=contract or InputContract(),
        is_unnormalized=contract is None,
        channels=find_channels(config),
        class_names=names,
        notes=[*remarks, *more, *notes],
        provenance=provenance | {"templates": list(request.templates or DEFAULT_TEMPLATES)},
    )


def _check_task(transformers: Any, config: Any, folder: ModelFolder) -> None:
    kinds = transformers.models.auto.modeling_auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES
    if config.model_type not in kinds:
        raise _explain_task(config, folder)


def _explain_task(config: Any, folder: ModelFolder) -> ModelError:
    return ModelError(
        f"{config.model_type} is no model of images and texts such as CLIP or SigLIP",
        where=folder.name,
        remedy="write hf: instead of clip: for an image classifier",
    )


def _write_prompts(reference: str, request: ModelRequest) -> tuple[list[list[str]], list[str]]:
    """Return the prompts of each class, and notes on where names and templates come from."""
    names = request.class_names or request.default_class_names
    if not names:
        raise ConfigError(
            f"clip:{reference} needs the names of the classes, and the data has none",
            remedy="set class_names: one name for each class, in the order of the labels",
        )
    keys = [" ".join(name.replace("_", " ").split()) for name in names]
    counts = Counter(keys)
    twice = next((name for name, key in zip(names, keys, strict=True) if not key or counts[key] > 1), None)
    if twice is not None:
        what = f"the class name {twice!r} occurs twice" if twice.strip() else "a class name is empty"
        raise ConfigError(what, where="class_names", remedy="give each class a name of its own")
    if request.num_classes not in (None, len(names)):
        raise ConfigError(
            f"{format_count(len(names), 'class name')} and num_classes {request.num_classes}",
            where="class_names",
            remedy="leave num_classes out",
        )
    templates = request.templates or DEFAULT_TEMPLATES
    for template in templates:
        if "{}" not in template:
            raise ConfigError(
                f"the template {template!r} has no place for the class name",
                where="templates",
                remedy="write {} where it belongs, as in 'a photo of a {}.'",
            )
    prompts = [[template.replace("{}", key) for template in templates] for key in keys]
    origin = "class names" if request.class_names else "the data's class names"
    example = f"{templates[0]!r}" + (f" and {len(templates) - 1} more" if len(templates) > 1 else "")
    return prompts, [f"zero-shot from {origin} in {example}"]


@torch.no_grad()
def _encode_prompts(
    transformers: Any, network: Any, prompts: Sequence[Sequence[str]], folder: ModelFolder
) -> Tensor:
    """Return the normalized text features of each class, (K, D)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(folder.path), local_files_only=True, trust_remote_code=False
    )
    config = network.config.text_config
    # SigLIP is trained on prompts that are padded to its full length.
    is_padded = "siglip" in network.config.model_type
    padding, limit = ("max_length", config.max_position_embeddings) if is_padded else (True, None)
    flat = [prompt for group in prompts for prompt in group]
    parts = []
    for first in range(0, len(flat), _PROMPTS_PER_BATCH):
        texts = flat[first : first + _PROMPTS_PER_BATCH]
        _check_tokens(tokenizer(texts)["input_ids"], texts, config, folder)
        tokens = tokenizer(texts, padding=padding, max_length=limit, return_tensors="pt")
        inputs = {key: tokens[key] for key in ("input_ids", "attention_mask") if key in tokens}
        parts.append(functional.normalize(_select_features(network.get_text_features(**inputs)), dim=-1))
    features = torch.cat(parts).view(len(prompts), len(prompts[0]), -1)
    return functional.normalize(features.mean(dim=1), dim=-1)


def _check_tokens(
    tokens: Sequence[Sequence[int]], texts: Sequence[str], config: Any, folder: ModelFolder
) -> None:
    """Refuse prompts that are too long, and tokenizers that belong to another model."""
    for text, numbers in zip(texts, tokens, strict=True):
        if len(numbers) > config.max_position_embeddings:
            raise ConfigError(
                f"the prompt {text!r} has {len(numbers)} tokens, "
                f"and the model takes {config.max_position_embeddings}",
                where=folder.name,
                remedy="shorten the class name or the template",
            )
    if max(map(max, tokens)) >= config.vocab_size:
        raise ModelError(
            "its tokenizer does not belong to its network", where=folder.name, remedy="get it again"
        )


def _select_features(output: Any) -> Tensor:
    """Return the features of images or texts, which some versions of transformers wrap in an output."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features
