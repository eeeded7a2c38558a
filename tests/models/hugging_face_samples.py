"""Small models of transformers with random weights, saved as their makers save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CLASS_NAMES = ("stop", "yield", "priority_road")
_WORDS = ["<pad>", "<start>", "<unk>", "a", "photo", "of", "the", ".", "sign", "stop", "yield", "priority"]
_WORDS += ["road", "<end>"]  # CLIP takes the features at the token of the highest number
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_MAX_TOKENS = 12


def save_vit(folder: Path, **options: Any) -> Any:
    """Save and return a vision transformer for 3 classes and images of 32x32."""
    import transformers

    transformers.utils.logging.disable_progress_bar()

    settings = {**_TOWER, "image_size": 32, "patch_size": 8, "num_labels": 3, **options}
    network = transformers.ViTForImageClassification(transformers.ViTConfig(**settings))
    _fill(network)
    network.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return network.eval()


def save_clip(folder: Path, *, is_siglip: bool = False) -> tuple[Any, Any]:
    """Save and return a small CLIP or SigLIP, and its tokenizer of words."""
    import transformers as library

    library.utils.logging.disable_progress_bar()

    tokenizer = _build_tokenizer()
    tokenizer.save_pretrained(folder)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": len(_WORDS) - 1}
    text = {**_TOWER, **special, "vocab_size": len(_WORDS), "max_position_embeddings": _MAX_TOKENS}
    vision = {**_TOWER, "image_size": 32, "patch_size": 8}
    kinds = (
        (library.SiglipConfig, library.SiglipModel) if is_siglip else (library.CLIPConfig, library.CLIPModel)
    )
    more = {} if is_siglip else {"projection_dim": 8}
    network: Any = kinds[1](kinds[0](text_config=text, vision_config=vision, **more))
    _fill(network)
    network.save_pretrained(folder)
    processor = library.SiglipImageProcessor if is_siglip else library.CLIPImageProcessor
    sizes = {"size": {"height": 32, "width": 32}}
    if not is_siglip:
        sizes = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}  # type: ignore[dict-item]
    processor(**sizes).save_pretrained(folder)
    return network.eval(), tokenizer


def make_photographs(count: int = 2, height: int = 45, width: int = 61) -> torch.Tensor:
    """Return smooth random images (N, 3, H, W) on the 8-bit grid."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (images * 255).round() / 255


def to_pil(images: torch.Tensor) -> list[Any]:
    """Return images of the 8-bit grid as PIL images."""
    from PIL import Image

    arrays = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def _build_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {word: index for index, word in enumerate(_WORDS)}
    inner = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", numbers["<end>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<end>",
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=_MAX_TOKENS,
    )


def _fill(network: Any) -> None:
    """Fill a network with larger random weights than its own, so that its answers differ between images."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
