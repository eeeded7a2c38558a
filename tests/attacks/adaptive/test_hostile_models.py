"""Models that mask gradients by other means than layers: hooks, scripts, compilers, precision, loops."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from adaptive_samples import CLASSES, build_images, inspect_sample, wrap_model
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from robustbench_local.attacks.adaptive.gradient_views import build_view, list_views

pytestmark = pytest.mark.slow


def build_network() -> nn.Sequential:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, CLASSES)
        )


class Behind(nn.Module):
    def __init__(self, front: Callable[[Tensor], Tensor], network: nn.Module | None = None) -> None:
        super().__init__()
        self.front, self.network = front, build_network() if network is None else network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.front(images))


def round_coarsely(images: Tensor) -> Tensor:
    return (images * 8).round() / 8


class Rounding(nn.Module):
    """Scriptable."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(torch.round(images * 8.0) / 8.0)


@torch.jit.ignore
def compress_images(images: Tensor) -> Tensor:
    results = []
    for image in images.detach():
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype("uint8")
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
        results.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255)
    return torch.stack(results)


def build_hooked_network() -> nn.Module:
    network = build_network()
    network[0].register_forward_hook(lambda _module, _inputs, output: output.detach())
    return network


def build_network_with_backward_hook() -> nn.Module:
    network = build_network()
    network[1].register_full_backward_hook(lambda _module, slopes, _outer: (torch.zeros_like(slopes[0]),))
    return network


def disturb_gradients(images: Tensor) -> Tensor:
    moved = images * 1.0
    if moved.requires_grad:
        moved.register_hook(torch.randn_like)
    return moved


def purify_with_adam(images: Tensor) -> Tensor:
    with torch.enable_grad():
        steps = images.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([steps], lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            loss = steps.diff(dim=-1).square().sum() + (steps - images.detach()).square().sum()
            loss.backward()
            optimizer.step()
    return steps.detach()


class HalfPrecision(Rounding):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(round_coarsely(images)).float()


class Checkpointed(Rounding):
    def forward(self, images: Tensor) -> Tensor:
        return checkpoint(lambda values: self.network(round_coarsely(values)), images, use_reentrant=False)


class OneByOne(Rounding):
    def forward(self, images: Tensor) -> Tensor:
        return torch.vmap(lambda image: self.network(round_coarsely(image[None]))[0])(images)


def build_weight_normalized() -> nn.Module:
    network = build_network()
    network[4] = nn.utils.parametrizations.weight_norm(network[4])
    return Behind(round_coarsely, network)


class Vote:
    """A plain object whose members give labels only."""

    def __init__(self) -> None:
        self.members = {"first": build_network(), "second": build_network()}

    def __call__(self, images: Tensor) -> Tensor:
        labels = torch.stack([member(images).argmax(dim=1) for member in self.members.values()])
        return F.one_hot(labels, CLASSES).float().sum(dim=0)


def floor_in_place(images: Tensor) -> Tensor:
    pixels = images.clone()
    pixels.mul_(8).floor_().div_(8)
    return pixels


def keep_strong_frequencies(images: Tensor) -> Tensor:
    spectrum = torch.fft.rfft2(images)
    kept = torch.where(spectrum.abs() > 1, spectrum, torch.zeros((), dtype=spectrum.dtype))
    return torch.fft.irfft2(kept, s=images.shape[-2:])


MODELS = {
    "scripted module": (lambda: torch.jit.script(Rounding()), 0.7),
    "traced module": (lambda: torch.jit.trace(Rounding(), build_images()), 0.7),
    "scripted function": (lambda: Behind(torch.jit.script(_floor_scripted)), 0.6),
    "compiled module": (lambda: torch.compile(Rounding(), backend="eager"), 0.7),
    "compiled function": (lambda: Behind(torch.compile(round_coarsely, backend="eager")), 0.7),
    "forward hook": (build_hooked_network, 0.99),
    "backward hook": (build_network_with_backward_hook, 0.7),
    "hook on a tensor": (lambda: Behind(disturb_gradients), 0.99),
    "autocast": (HalfPrecision, 0.7),
    "checkpoint": (Checkpointed, 0.7),
    "vmap": (OneByOne, 0.7),
    "weight norm": (build_weight_normalized, 0.7),
    "in place": (lambda: Behind(floor_in_place), 0.6),
    "JPEG in a loop": (lambda: Behind(compress_images), 0.5),
    "Adam inside": (lambda: Behind(purify_with_adam), 0.7),
    "vote": (Vote, 0.5),
    "frequencies": (lambda: Behind(keep_strong_frequencies), 0.2),
    "plain lists": (lambda: Behind(lambda images: torch.tensor(images.tolist())), 0.99),
}


def _floor_scripted(images: Tensor) -> Tensor:
    return torch.floor(images * 8.0) / 8.0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_masks_gradients_gets_a_view_that_resembles_the_sound_one(name: str) -> None:
    build, least = MODELS[name]
    classifier, images = wrap_model(build()), build_images()
    findings = inspect_sample(classifier)
    assert findings.operators or findings.layers
    leaf = images.clone().requires_grad_()
    (sound,) = torch.autograd.grad(build_network()(leaf)[:, 0].sum(), leaf)
    view = build_view(classifier, next(spec for spec in list_views(findings) if spec.kind == "bpda"))
    with classifier.evaluation_mode():
        logits, _, gradient = view.compute_gradient(images, lambda logits: logits[:, 0])
        with torch.no_grad():
            assert torch.equal(logits, classifier(images))
    similarity = F.cosine_similarity(gradient.flatten(1), sound.flatten(1), dim=1)
    assert float(similarity.mean()) > least


def test_a_random_member_is_one_of_an_ensemble() -> None:
    class RandomMember(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.members = nn.ModuleList([build_network() for _ in range(3)])

        def forward(self, images: Tensor) -> Tensor:
            return self.members[int(torch.randint(3, ()))](images)

    findings = inspect_sample(wrap_model(RandomMember()))
    assert sorted(part.path for part in findings.parts) == ["members.0", "members.1", "members.2"]
    assert {part.role for part in findings.parts} == {"member"}


def test_a_stateful_model_has_views_of_fresh_copies() -> None:
    class Cached(nn.Module):
        """Answers from its memory, which has no graph."""

        def __init__(self) -> None:
            super().__init__()
            self.network, self.memory = Rounding(), {}

        def forward(self, images: Tensor) -> Tensor:
            key = float(images.sum())
            if key not in self.memory:
                self.memory[key] = self.network(images).detach().clone()
            return self.memory[key]

    classifier, images = wrap_model(Cached()), build_images()
    classifier.configure(uses_fresh_copies=True)
    with classifier.evaluation_mode():
        view = build_view(classifier, list_views(inspect_sample(classifier))[0])
        for _ in range(2):
            assert view.compute_gradient(images, lambda logits: logits[:, 0])[2].any()
