"""Modules that are not plain: compiled, exported, frozen, refusing; used, or one line says why not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
JIT = [
    pytest.mark.filterwarnings(f"ignore:.*{word}") for word in ("torch.jit", "TorchScript", "script", "trace")
]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 3)).eval()


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, images):
        return self.inner(images)


class Checkpointed(Around):
    def forward(self, images):
        return self.inner[4:](checkpoint(self.inner[:4], images, use_reentrant=True))


class EvalRaises(Around):
    def eval(self):
        raise NotImplementedError("no eval")


class TrainRaises(Around):
    def train(self, mode=True):
        raise NotImplementedError("no train")


class Frozen(Around):
    def __init__(self) -> None:
        super().__init__()
        self.__dict__["frozen"] = True

    def __setattr__(self, name, value):
        if self.__dict__.get("frozen"):
            raise AttributeError(f"{name} is frozen")
        super().__setattr__(name, value)


class IntegerParameter(Around):
    def __init__(self) -> None:
        super().__init__()
        self.sizes = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)


class SparseWeight(Around):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)


class Slots(Around):
    __slots__ = ("extra",)

    def __init__(self) -> None:
        super().__init__()
        self.extra = 3


class NoCopy(Around):
    def __deepcopy__(self, memory):
        raise RuntimeError("no copies of me")


class Squeezed(Around):
    def forward(self, images):
        return self.inner[5](self.inner[:5](images).squeeze())


def exported() -> nn.Module:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(network(), (IMAGES,), dynamic_shapes=({0: batch},)).module()


KINDS = {
    "script": lambda: torch.jit.script(network()),
    "traced": lambda: torch.jit.trace(network(), IMAGES),
    "frozen script": lambda: torch.jit.freeze(torch.jit.script(network())),
    "script inside": lambda: nn.Sequential(torch.jit.script(network()), nn.Identity()),
    "fx": lambda: torch.fx.symbolic_trace(network()),
    "half": lambda: network().double(),
} | {
    kind.__name__: kind
    for kind in (
        Checkpointed,
        EvalRaises,
        TrainRaises,
        Frozen,
        IntegerParameter,
        SparseWeight,
        Slots,
        NoCopy,
        Squeezed,
    )
}
SLOW = {"compiled": lambda: torch.compile(network(), backend="eager"), "exported": exported}


def jit(test):
    for mark in JIT:
        test = mark(test)
    return test


@jit
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
@pytest.mark.parametrize(
    "name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)], ids=str
)
def test_it_answers_as_it_does_by_itself_and_stays_as_it_was(name):
    module = (KINDS | SLOW)[name]()
    training = [bool(getattr(part, "training", False)) for part in module.modules()]
    frozen = [parameter.requires_grad for parameter in module.parameters()]
    classifier = Classifier(module, num_classes=3)
    expected = network()
    with classifier.evaluation_mode():
        assert not any(getattr(part, "training", False) for part in module.modules())
        for count in (6, 1):
            torch.testing.assert_close(classifier(IMAGES[:count]), expected(IMAGES[:count]).detach())
        _, _, found = classifier.compute_gradient(IMAGES, lambda logits: logits[:, 0])
    leaf = IMAGES.clone().requires_grad_()
    expected(leaf)[:, 0].sum().backward()
    torch.testing.assert_close(found, leaf.grad)
    assert [bool(getattr(part, "training", False)) for part in module.modules()] == training
    assert [parameter.requires_grad for parameter in module.parameters()] == frozen
    assert not any("cannot be put back" in note for note in classifier.notes)


@pytest.mark.parametrize("kind", [EvalRaises, TrainRaises, Frozen])
def test_an_eval_that_fails_is_noted(kind):
    classifier = Classifier(kind(), num_classes=3)
    with classifier.evaluation_mode():
        pass
    assert any("its eval() raises" in note for note in classifier.notes)


def test_a_single_image_that_is_squeezed_away_is_given_twice():
    classifier = Classifier(Squeezed(), num_classes=3)
    with classifier.evaluation_mode():
        classifier(IMAGES)
        assert classifier.settings.min_batch_size == 1
        _, _, found = classifier.compute_gradient(IMAGES[:1], lambda logits: logits[:, 0])
        _, _, both = classifier.compute_gradient(IMAGES[:2], lambda logits: logits[:, 0])
    assert classifier.settings.min_batch_size == 2
    torch.testing.assert_close(found, both[:1])
    assert any("fails on a single image (squeeze()" in note for note in classifier.notes)


def test_an_image_that_fails_twice_as_well_is_its_own_fault():
    class Picky(Around):
        def forward(self, images):
            if images.amax() > 0.9999:
                raise ValueError("too bright")
            return super().forward(images)

    classifier = Classifier(Picky(), num_classes=3)
    with pytest.raises(ModelError, match=r"\(1, 3, 8, 8\): too bright"):
        classifier(torch.ones(1, 3, 8, 8))
    assert classifier.settings.min_batch_size == 1


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(context, images):
        return images.clone()

    @staticmethod
    def backward(context, gradient):
        raise ValueError("I only go forward")


class BrokenBackward(Around):
    def forward(self, images):
        return super().forward(Broken.apply(images))


class Lazy(Around):
    def __init__(self) -> None:
        super().__init__()
        self.late = nn.LazyLinear(3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (BrokenBackward, "backward pass raised ValueError: I only go forward"),
        (Lazy, "parameters and buffers cannot be copied: Attempted to use an uninitialized parameter"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_what_cannot_be_used_is_explained_in_one_line(kind, words):
    classifier = Classifier(kind(), num_classes=3)
    with pytest.raises(ModelError, match=words) as caught, classifier.evaluation_mode():
        classifier.compute_gradient(IMAGES, lambda logits: logits[:, 0])
    assert "\n" not in str(caught.value)
