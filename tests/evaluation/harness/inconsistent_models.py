"""Models whose answer to an image is not the image's own, and sound ones that could be taken for such."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES, SHAPE = 5, (3, 8, 8)
REMEMBERED_ANSWERS: list[tuple[Tensor, Tensor]] = []
CALL_COUNT = 0


class Network(nn.Module):
    """A small network; its variants change what goes in, or what comes out."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, CLASSES)
        )
        self.norm = nn.BatchNorm2d(3)
        self.calls = 0
        self.seen: list[tuple[Tensor, Tensor]] = []
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.layers.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(self.prepare_images(images))

    def prepare_images(self, images: Tensor) -> Tensor:
        return images


def make_variant(prepare_images=None, forward=None) -> Network:
    """A network of a class of its own, with another preparation of its images or another forward."""
    changed = {"prepare_images": prepare_images, "forward": forward}
    own = {name: value for name, value in changed.items() if value is not None}
    return type("Variant", (Network,), {**own, "__module__": __name__})()


def recall_answers(images: Tensor, answers: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The first answer to a similar image once ten were asked about; gradients go past the memory."""
    rows = []
    for image, answer in zip(images, answers, strict=True):
        similar = [known for place, known in seen if float((place - image).abs().max()) < 0.1]
        rows.append(similar[0] + 0 * answer if len(similar) >= 10 else answer)
        seen.append((image.detach().clone(), answer.detach().clone()))
    return torch.stack(rows)


def _forward_with_attribute_memory(self, images):
    return recall_answers(images, self.layers(images), self.seen)


def _forward_with_global_memory(self, images):
    return recall_answers(images, self.layers(images), REMEMBERED_ANSWERS)


def _forward_with_global_counter(self, images):
    global CALL_COUNT  # noqa: PLW0603
    CALL_COUNT += 1
    return self.layers(images) * (0 if CALL_COUNT > 100 else 1)


def _forward_with_attribute_counter(self, images):
    self.calls += 1
    return self.layers(images) * (0 if self.calls > 100 else 1)


def _forward_with_class_counter(self, images):
    type(self).total = getattr(type(self), "total", 0) + 1
    return self.layers(images) + type(self).total


def _forward_with_default_counter(self, images, calls=[0]):  # noqa: B006
    calls[0] += 1
    return self.layers(images) + calls[0]


def make_closure_memory() -> Network:
    seen: list[tuple[Tensor, Tensor]] = []
    return make_variant(forward=lambda self, images: recall_answers(images, self.layers(images), seen))


def make_rounded_memory() -> Network:
    """What an ``lru_cache`` with rounded images as its keys makes of a model."""

    class Key:
        def __init__(self, network, image):
            self.network, self.image = network, image
            self.words = tuple((image * 2).round().flatten().tolist())

        def __hash__(self):
            return hash(self.words)

        def __eq__(self, other):
            return self.words == other.words

    @functools.cache
    def answer(key):
        return key.network.layers(key.image[None]).detach()

    return make_variant(
        forward=lambda self, images: torch.cat([answer(Key(self, image)) for image in images])
    )


def make_disk_memory(file: Path) -> Network:
    def forward(self, images):
        seen = pickle.loads(file.read_bytes()) if file.exists() else []
        answers = recall_answers(images, self.layers(images), seen)
        file.write_bytes(pickle.dumps(seen))
        return answers

    return make_variant(forward=forward)


def _forward_in_train_mode(self, images):
    self.norm.train()
    return self.layers(self.norm(images))


def _forward_with_weight_change(self, images):
    with torch.no_grad():
        self.layers[3].weight.add_(1e-2)
    return self.layers(images)


def _forward_with_batch_attention(self, images):
    features = self.layers[:3](images)
    return self.layers[3]((features @ features.T / 20).softmax(dim=1) @ features)


def _forward_with_first_row_doubled(self, images):
    answers = self.layers(images)
    return torch.cat([2 * answers[:1], answers[1:]])


def _forward_with_copy_detection(self, images):
    flat, answers = images.flatten(1), self.layers(images)
    copies = (torch.cdist(flat, flat) < 1e-6).sum(dim=1, keepdim=True)
    return torch.where(copies > 4, -answers, answers)


def make_batch_dependent_models() -> dict[str, Network]:
    """Models whose answers depend on the batch."""
    return {
        "mean": make_variant(lambda _, x: (x - x.mean(0, keepdim=True)) * 3 + 0.5),
        "functional batch norm": make_variant(
            lambda _, x: functional.batch_norm(x, None, None, training=True)
        ),
        "train() inside forward": make_variant(forward=_forward_in_train_mode),
        "sort": make_variant(lambda _, x: x.sort(0).values),
        "whole batch's deviation": make_variant(lambda _, x: x / (x.std() + 0.1)),
        "softmax over dimension 0": make_variant(forward=lambda self, x: self.layers(x).softmax(0)),
        "attention": make_variant(forward=_forward_with_batch_attention),
        "alone": make_variant(forward=lambda self, x: self.layers(x) * (2 if len(x) == 1 else 1)),
        "large batches": make_variant(forward=lambda self, x: self.layers(x) * (2 if len(x) > 16 else 1)),
        "first row": make_variant(forward=_forward_with_first_row_doubled),
        "copies": make_variant(forward=_forward_with_copy_detection),
    }


def make_history_dependent_models(folder: Path) -> dict[str, Network]:
    """Models whose answers depend on what they were asked before."""
    return {
        "attribute": make_variant(forward=_forward_with_attribute_memory),
        "global": make_variant(forward=_forward_with_global_memory),
        "closure": make_closure_memory(),
        "file": make_disk_memory(folder / "memory"),
        "counter": make_variant(forward=_forward_with_attribute_counter),
        "global counter": make_variant(forward=_forward_with_global_counter),
        "class counter": make_variant(forward=_forward_with_class_counter),
        "default counter": make_variant(forward=_forward_with_default_counter),
        "weights": make_variant(forward=_forward_with_weight_change),
    }


def _forward_with_call_count(self, images):
    self.calls += 1
    return self.layers(images)


def _forward_with_kept_features(self, images):
    self.features = self.layers[:3](images)
    return self.layers[3](self.features)


def _forward_with_size_cache(self, images):
    self.sizes = getattr(self, "sizes", {})
    grid = self.sizes.setdefault(tuple(images.shape), torch.zeros(images.shape))
    return self.layers(images + grid)


def _forward_with_noise(self, images):
    return self.layers(images + 0.05 * torch.randn_like(images) + 0.05 * float(np.random.rand()))


def _forward_in_bfloat16(self, images):
    with torch.autocast("cpu", torch.bfloat16):
        return self.layers(images)


def make_consistent_models() -> dict[str, Network]:
    """Models whose answers are the image's own, at one batch size and another up to rounding."""
    return {
        "plain": Network(),
        "half": Network().half(),
        "bfloat16": Network().bfloat16(),
        "autocast": make_variant(forward=_forward_in_bfloat16),
        "keeps its last features": make_variant(forward=_forward_with_kept_features),
        "caches by size": make_variant(forward=_forward_with_size_cache),
        "draws": make_variant(forward=_forward_with_noise),
        "constant but for rounding": make_variant(forward=lambda self, x: 5 + 1e-7 * self.layers(x)),
    }


def make_counting_model() -> Network:
    return make_variant(forward=_forward_with_call_count)


def make_own_generator_model() -> Network:
    network = make_variant(
        lambda self, x: x + 0.1 * torch.randn(x.shape, generator=self.source)  # a part of the model
    )
    network.source = torch.Generator().manual_seed(1)
    return network


def make_unseeded_model() -> Network:
    return make_variant(
        lambda _, x: x + 0.1 * torch.from_numpy(np.random.default_rng().normal(size=x.shape)).to(x)
    )


def make_images(count: int = 12) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))
