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
SEEN: list[tuple[Tensor, Tensor]] = []
COUNT = 0


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
        return self.layers(self.prepared(images))

    def prepared(self, images: Tensor) -> Tensor:
        return images


def variant(prepared=None, forward=None) -> Network:
    """A network of a class of its own, with another preparation of its images or another forward."""
    changed = {"prepared": prepared, "forward": forward}
    own = {name: value for name, value in changed.items() if value is not None}
    return type("Variant", (Network,), {**own, "__module__": __name__})()


def remembered(images: Tensor, answers: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The first answer to a similar image once ten were asked about; gradients go past the memory."""
    rows = []
    for image, answer in zip(images, answers, strict=True):
        similar = [known for place, known in seen if float((place - image).abs().max()) < 0.1]
        rows.append(similar[0] + 0 * answer if len(similar) >= 10 else answer)
        seen.append((image.detach().clone(), answer.detach().clone()))
    return torch.stack(rows)


def _remembers_in_attribute(self, images):
    return remembered(images, self.layers(images), self.seen)


def _remembers_in_global(self, images):
    return remembered(images, self.layers(images), SEEN)


def _counts_in_global(self, images):
    global COUNT  # noqa: PLW0603
    COUNT += 1
    return self.layers(images) * (0 if COUNT > 100 else 1)


def _counts_in_attribute(self, images):
    self.calls += 1
    return self.layers(images) * (0 if self.calls > 100 else 1)


def _counts_in_class(self, images):
    type(self).total = getattr(type(self), "total", 0) + 1
    return self.layers(images) + type(self).total


def _counts_in_default(self, images, calls=[0]):  # noqa: B006
    calls[0] += 1
    return self.layers(images) + calls[0]


def remembers_in_closure() -> Network:
    seen: list[tuple[Tensor, Tensor]] = []
    return variant(forward=lambda self, images: remembered(images, self.layers(images), seen))


def remembers_rounded_images() -> Network:
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

    return variant(forward=lambda self, images: torch.cat([answer(Key(self, image)) for image in images]))


def remembers_on_disk(file: Path) -> Network:
    def forward(self, images):
        seen = pickle.loads(file.read_bytes()) if file.exists() else []
        answers = remembered(images, self.layers(images), seen)
        file.write_bytes(pickle.dumps(seen))
        return answers

    return variant(forward=forward)


def _trains_its_norm(self, images):
    self.norm.train()
    return self.layers(self.norm(images))


def _changes_weights(self, images):
    with torch.no_grad():
        self.layers[3].weight.add_(1e-2)
    return self.layers(images)


def _attends_to_neighbours(self, images):
    features = self.layers[:3](images)
    return self.layers[3]((features @ features.T / 20).softmax(dim=1) @ features)


def _favours_the_first(self, images):
    answers = self.layers(images)
    return torch.cat([2 * answers[:1], answers[1:]])


def _notices_copies(self, images):
    flat, answers = images.flatten(1), self.layers(images)
    copies = (torch.cdist(flat, flat) < 1e-6).sum(dim=1, keepdim=True)
    return torch.where(copies > 4, -answers, answers)


def of_company() -> dict[str, Network]:
    """Models whose answers depend on the batch."""
    return {
        "mean": variant(lambda _, x: (x - x.mean(0, keepdim=True)) * 3 + 0.5),
        "functional batch norm": variant(lambda _, x: functional.batch_norm(x, None, None, training=True)),
        "train() inside forward": variant(forward=_trains_its_norm),
        "sort": variant(lambda _, x: x.sort(0).values),
        "whole batch's deviation": variant(lambda _, x: x / (x.std() + 0.1)),
        "softmax over dimension 0": variant(forward=lambda self, x: self.layers(x).softmax(0)),
        "attention": variant(forward=_attends_to_neighbours),
        "alone": variant(forward=lambda self, x: self.layers(x) * (2 if len(x) == 1 else 1)),
        "large batches": variant(forward=lambda self, x: self.layers(x) * (2 if len(x) > 16 else 1)),
        "first row": variant(forward=_favours_the_first),
        "copies": variant(forward=_notices_copies),
    }


def of_memory(folder: Path) -> dict[str, Network]:
    """Models whose answers depend on what they were asked before."""
    return {
        "attribute": variant(forward=_remembers_in_attribute),
        "global": variant(forward=_remembers_in_global),
        "closure": remembers_in_closure(),
        "file": remembers_on_disk(folder / "memory"),
        "counter": variant(forward=_counts_in_attribute),
        "global counter": variant(forward=_counts_in_global),
        "class counter": variant(forward=_counts_in_class),
        "default counter": variant(forward=_counts_in_default),
        "weights": variant(forward=_changes_weights),
    }


def _counts_only(self, images):
    self.calls += 1
    return self.layers(images)


def _keeps_features(self, images):
    self.features = self.layers[:3](images)
    return self.layers[3](self.features)


def _caches_by_size(self, images):
    self.sizes = getattr(self, "sizes", {})
    grid = self.sizes.setdefault(tuple(images.shape), torch.zeros(images.shape))
    return self.layers(images + grid)


def _draws(self, images):
    return self.layers(images + 0.05 * torch.randn_like(images) + 0.05 * float(np.random.rand()))


def _in_low_precision(self, images):
    with torch.autocast("cpu", torch.bfloat16):
        return self.layers(images)


def sound() -> dict[str, Network]:
    """Models whose answers are the image's own, at one batch size and another up to rounding."""
    return {
        "plain": Network(),
        "half": Network().half(),
        "bfloat16": Network().bfloat16(),
        "autocast": variant(forward=_in_low_precision),
        "keeps its last features": variant(forward=_keeps_features),
        "caches by size": variant(forward=_caches_by_size),
        "draws": variant(forward=_draws),
        "constant but for rounding": variant(forward=lambda self, x: 5 + 1e-7 * self.layers(x)),
    }


def counts_only() -> Network:
    return variant(forward=_counts_only)


def draws_from_its_own_generator() -> Network:
    network = variant(
        lambda self, x: x + 0.1 * torch.randn(x.shape, generator=self.source)  # a part of the model
    )
    network.source = torch.Generator().manual_seed(1)
    return network


def draws_without_a_seed() -> Network:
    return variant(
        lambda _, x: x + 0.1 * torch.from_numpy(np.random.default_rng().normal(size=x.shape)).to(x)
    )


def some_images(count: int = 12) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))
