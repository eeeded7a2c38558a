"""The kinds of sources that models come from; reading the list needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

MODEL_SOURCES: Mapping[str, str] = {
    "torchvision:NAME": "any classifier of torchvision",
    "timm:NAME": "any classifier of timm (extra); also timm:hf-hub:OWNER/NAME and timm:local-dir:FOLDER",
    "hf:FOLDER": "an image classifier of Hugging Face transformers (extra), or hf:OWNER/NAME from the hub",
    "clip:FOLDER": "CLIP or SigLIP by class names (extra), or clip:OWNER/NAME from the hub",
    "onnx:FILE.onnx": "a file with gradients, or an int8 file as a black box, by onnxruntime (extra)",
    "litert:FILE.tflite": "a black box that gives scores, by LiteRT (extra)",
    "openvino:FILE.xml": "a black box that gives scores, by OpenVINO (extra)",
    "torchscript:FILE.pt": "a TorchScript archive, only with --allow-code",
    "export:FILE.pt2": "a program of torch.export, only with --allow-code",
    "http://HOST/PATH": "a service that gives scores or labels",
    "python:FILE.py:NAME": "your own code, only with --allow-code",
    "maite:FILE.py:NAME": "a model that follows MAITE's protocol, only with --allow-code",
}
"""How each kind is written in a grid file, and what it is; ``zoo:`` and ``checkpoint:`` besides."""
