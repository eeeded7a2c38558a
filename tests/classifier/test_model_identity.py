"""Whatever changes a model's answers changes its identity, and nothing else does."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Namespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.model_identity import describe_model, digest_network, digest_parts


class Scaled(nn.Module):
    """A network with settings that are no tensors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(12, 3)
        self.eps, self.mode = 0.1, "soft"
        self.__dict__.update(settings)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits * 2 if self.mode == "soft" else logits + self.eps


class Holder:
    def __init__(self, scale: float) -> None:
        self.scale = scale


class Callable_:  # noqa: N801
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, images: Tensor) -> Tensor:
        return images.mean((2, 3)) * self.scale

    def scores(self, images: Tensor) -> Tensor:
        return self(images)


def digest(model: Any) -> str:
    return digest_parts(describe_model(model))


def double(_module: nn.Module, _images: Any, logits: Tensor) -> Tensor:
    return logits * 2


def hooked(hook: Callable[..., Any]) -> nn.Module:
    model = Scaled()
    model.register_forward_hook(hook)
    return model


def patched(forward: Callable[..., Any]) -> nn.Module:
    model = Scaled()
    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
    return model


def buffered(value: float) -> nn.Module:
    model = Scaled()
    model.register_buffer("shift", torch.tensor(value), persistent=False)
    return model


def scripted(factor: int) -> nn.Module:
    class Net(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            if factor == 2:
                return images.mean((2, 3)) * 2
            return images.mean((2, 3)) * 3

    return torch.fx.symbolic_trace(Net())


def torchscript(eps: float) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.eps = eps

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3)) + self.eps

    with warnings.catch_warnings(action="ignore"):  # torch calls it deprecated; users have such files
        program: nn.Module = torch.jit.script(Net())
    return program


def add(weight: float, images: Tensor) -> Tensor:
    return images.mean((2, 3)) + weight


def closure(value: float) -> Callable[[Tensor], Tensor]:
    return lambda images: images.mean((2, 3)) * value


def with_attribute(scale: float) -> Callable[[Tensor], Tensor]:
    def scores(images: Tensor) -> Tensor:
        return images.mean((2, 3)) * scores.scale  # type: ignore[attr-defined]

    scores.scale = scale  # type: ignore[attr-defined]
    return scores


class Stubborn:
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("look away")


def test_an_object_that_cannot_be_looked_at_stops_nothing() -> None:
    assert digest(Scaled(held=Stubborn())) == digest(Scaled(held=Stubborn())) != digest(Scaled())


def hidden(seed: int) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(seed)
    network = nn.Linear(12, 3)
    return lambda images: network(images.flatten(1))


def in_a_notebook(body: str, name: str = "net") -> Any:
    """What an interactive session defines: no file, no source."""
    space: dict[str, Any] = {"__name__": "__main__", "nn": nn}
    exec(compile(body, "<stdin>", "exec"), space)
    return space[name]


NET = """
SCALE = {}
class Net(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * {}
net = Net()
"""
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "number": (Scaled, lambda: Scaled(eps=0.2)),
    "text": (Scaled, lambda: Scaled(mode="hard")),
    "new setting": (Scaled, lambda: Scaled(extra=None)),
    "list": (lambda: Scaled(sizes=[1, 2]), lambda: Scaled(sizes=[1, 3])),
    "object": (lambda: Scaled(held=Holder(1.0)), lambda: Scaled(held=Holder(2.0))),
    "namespace": (lambda: Scaled(held=Namespace(a=1)), lambda: Scaled(held=Namespace(a=2))),
    "hidden module": (lambda: Scaled(parts=[nn.ReLU()]), lambda: Scaled(parts=[nn.ReLU6()])),
    "function in a list": (lambda: Scaled(parts=[closure(1)]), lambda: Scaled(parts=[closure(2)])),
    "buffer": (lambda: buffered(1.0), lambda: buffered(2.0)),
    "hook": (Scaled, lambda: hooked(double)),
    "hooks": (lambda: hooked(lambda _m, _i, out: out + 1), lambda: hooked(lambda _m, _i, out: out + 2)),
    "method": (lambda: patched(lambda self, x: self.head(x)), lambda: patched(lambda self, x: self.head(-x))),
    "scripted": (lambda: scripted(2), lambda: scripted(3)),
    "TorchScript": (lambda: torchscript(0.1), lambda: torchscript(0.2)),
    "compiled": (lambda: torch.compile(Scaled()), lambda: torch.compile(Scaled(eps=0.2))),
    "partial": (lambda: functools.partial(add, 1.0), lambda: functools.partial(add, 2.0)),
    "closure": (lambda: closure(1.0), lambda: closure(2.0)),
    "network in a closure": (lambda: hidden(1), lambda: hidden(2)),
    "bound method": (lambda: Callable_(1).scores, lambda: Callable_(2).scores),
    "attribute of a function": (lambda: with_attribute(1), lambda: with_attribute(2)),
    "instance": (lambda: Callable_(1), lambda: Callable_(2)),
    "lambda": (lambda: lambda x: x + 1, lambda: lambda x: x + 2),
    "notebook": (lambda: in_a_notebook(NET.format(1, 2)), lambda: in_a_notebook(NET.format(1, 3))),
    "notebook's global": (
        lambda: in_a_notebook(NET.format(1, "SCALE")), lambda: in_a_notebook(NET.format(2, "SCALE")),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "compiled" else kind for kind in CHANGES]
)
def test_what_changes_the_answers_changes_the_identity(kind: str) -> None:
    one, other = CHANGES[kind]
    assert digest(one()) == digest(one())
    assert digest(one()) != digest(other())


def test_comments_and_formatting_of_code_in_memory_change_nothing() -> None:
    one = in_a_notebook("def net(x):\n    return x * 2")
    assert digest(one) == digest(in_a_notebook("# doubles\n\n\ndef net(x):\n    return (x   * 2)  # yes"))
    assert digest(one) != digest(in_a_notebook("def net(x):\n    return x * 3"))


def test_a_method_put_into_a_class_or_into_a_librarys_class_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(Scaled())
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: nn.functional.linear(x, self.weight))
    changed = digest(Scaled())
    assert changed != before
    monkeypatch.undo()
    monkeypatch.setattr(Scaled, "forward", lambda self, x: self.head(x.flatten(1)))
    assert digest(Scaled()) not in (before, changed)


def test_a_counter_that_code_keeps_for_itself_changes_nothing() -> None:
    body = "calls = 0\ndef net(x):\n    global calls\n    calls += 1\n    return x"
    model = in_a_notebook(body)
    before = digest(model)
    model(torch.zeros(1))
    assert digest(model) == before


def test_a_library_that_computes_is_there_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Classifier(Scaled(), num_classes=3).describe_parts()
    assert parts["version of torch"] == torch.__version__.partition("+")[0]
    monkeypatch.setattr(torch, "__version__", "9.9.1+cu999")
    changed = Classifier(Scaled(), num_classes=3).describe_parts()
    assert {name for name in parts if parts[name] != changed[name]} == {"version of torch"}


def test_networks_are_told_apart_by_everything_but_their_weights() -> None:
    def describe(model: Any) -> str:
        return digest_network(Classifier(model, num_classes=3).describe_parts())

    first, second, wider = (nn.Sequential(nn.Flatten(), nn.Linear(size, 3)) for size in (12, 12, 27))
    assert describe(first) == describe(second) != ""
    assert describe(wider) != describe(first)
    assert describe(lambda images: images.flatten(1)[:, :3]) == ""


def test_preprocessing_is_a_part_of_its_own() -> None:
    one, other = (
        Classifier(Scaled(), num_classes=3, normalize=name).describe_parts() for name in (None, "half")
    )
    assert {name for name in one if one[name] != other[name]} == {"preprocessing and access"}


NET_FILE = """
import torch
from pathlib import Path
from torch import nn
HERE = Path(__file__).parent
KINDS = {'a', 'b', 'c', 'd'}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.kinds = {'x', 'y', 'z'}
        self.head = nn.Linear(4, 2)
        self.act = torch.relu
        self.place = (HERE / 'w').name
    def forward(self, x):
        return self.head(x.flatten(1)) if 'a' in {'a', 'b', 'c'} or KINDS else x
net = Net()
"""


@pytest.mark.slow
def test_the_identity_is_the_same_in_every_process(tmp_path: Path) -> None:
    code = (
        "from robustbench_local.models.model_sources import load_classifier\n"
        "print(load_classifier('python:net.py:net', num_classes=2, allow_code=True).compute_digest())"
    )
    found = set()
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "net.py").write_text(NET_FILE)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(done.stdout)
    assert len(found) == 1
