"""A test for each row of the fault matrix that a model can cause: class, exit code, one line, no harm."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError, ModelError, RefusedError, RobustbenchError
from robustbench_local.models.model_sources import load_classifier
from robustbench_local.models.networks.network_registry import build_network


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "payload-ran"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.safetensors"
    save_file(build_network("mnist_fast").state_dict(), path)
    return path


def load(path: Path, **options: object) -> Classifier:
    return load_classifier(f"checkpoint:{path}", **{"architecture": "mnist_fast", **options})  # type: ignore[arg-type]


def refused(caught: pytest.ExceptionInfo[RobustbenchError], code: int, *words: str) -> None:
    assert caught.value.exit_code == code
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    for word in words:
        assert word in line


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def images(count: int = 3, channels: int = 1, size: int = 28) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def asked(
    model: nn.Module | Callable[[Tensor], Tensor], x: Tensor, classes: int = 3, **options: object
) -> Tensor:
    classifier = Classifier(model, num_classes=classes, **options)  # type: ignore[arg-type]
    with classifier.evaluation_mode():
        return classifier(x)


class Custom(nn.Module):
    """A user's own class, which a restricted unpickler does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


# Files


def test_f1_a_pickle_with_a_payload_is_refused_and_not_run(tmp_path: Path, witness: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"state_dict": Payload(witness)}, path)
    with pytest.raises(RefusedError) as caught:
        load(path)
    refused(caught, 5, "evil.pt", "system", "can run code")
    assert not witness.exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_f2_a_legacy_pickle_with_a_payload_is_refused_and_not_run(
    tmp_path: Path, witness: Path, protocol: int
) -> None:
    legacy, bare = tmp_path / "legacy.pt", tmp_path / "bare.pth"
    if protocol == 2:
        torch.save(Payload(witness), legacy, _use_new_zipfile_serialization=False)
    legacy_or_bare = legacy if legacy.exists() else bare
    bare.write_bytes(pickle.dumps(Payload(witness), protocol=protocol))
    with pytest.raises(RefusedError) as caught:
        load(legacy_or_bare)
    refused(caught, 5, legacy_or_bare.name)
    assert not witness.exists()


def test_f1_the_suffix_is_not_believed(tmp_path: Path, witness: Path) -> None:
    path = tmp_path / "evil.safetensors"
    torch.save(Payload(witness), path)
    with pytest.raises(ModelError) as caught:
        load(path)
    refused(caught, 3, "evil.safetensors")
    assert not witness.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_f3_a_whole_module_is_refused(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "whole.pt"
    torch.save(Custom(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(RefusedError) as caught:
        load(path)
    refused(caught, 5, "whole.pt", "state_dict", "trust_pickle")


def test_f3_unless_its_hash_is_trusted(tmp_path: Path) -> None:
    path, model = tmp_path / "whole.pt", Custom()
    torch.save(model, path)
    found = load_classifier(f"checkpoint:{path}", trust_pickle=sha256(path), num_classes=10)
    assert torch.equal(found.module.head.weight, model.head.weight)  # type: ignore[union-attr]
    assert any("trusted by its SHA-256" in note for note in found.notes)


def test_f3_another_hash_is_no_trust(tmp_path: Path, witness: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save(Payload(witness), path)
    for trust in (f"sha256:{'0' * 64}", "yes", sha256(path).removeprefix("sha256:")):
        with pytest.raises(RefusedError) as caught:
            load(path, trust_pickle=trust)
        refused(caught, 5, "evil.pt", "trust_pickle")
    assert not witness.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_f4_torchscript_is_refused_even_when_trusted(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(build_network("mnist_fast"), images()), path)
    for options in ({}, {"trust_pickle": sha256(path)}):
        with pytest.raises(RefusedError) as caught:
            load(path, **options)
        refused(caught, 5, "script.pt", "TorchScript")


def test_f5_an_old_torch_reads_no_pickles_but_safetensors(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plain.pt"
    torch.save(build_network("mnist_fast").state_dict(), path)
    load(path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(RefusedError) as caught:
        load(path)
    refused(caught, 5, "2.9.1", "Update torch")
    load(good)


def test_f6_a_huge_safetensors_header(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(ModelError) as caught:
        load(path)
    refused(caught, 3, "huge.safetensors", "header too large")


@pytest.mark.parametrize("keep", [0.999, 0.5, 0.01])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_f7_a_truncated_file(tmp_path: Path, good: Path, kind: str, keep: float) -> None:
    path = tmp_path / ("cut.safetensors" if kind == "safetensors" else "cut.pt")
    if kind == "safetensors":
        path.write_bytes(good.read_bytes())
    else:
        torch.save(
            build_network("mnist_fast").state_dict(), path, _use_new_zipfile_serialization=kind == "zip"
        )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(ModelError) as caught:
        load(path)
    refused(caught, 3, path.name, "get it again".capitalize())


@pytest.mark.parametrize("name", ["empty.pt", "empty.safetensors"])
def test_f8_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelError) as caught:
        load(tmp_path / name)
    refused(caught, 3, name, "empty")


@pytest.mark.parametrize(
    "content", [b"hello, world\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(64), bytes(range(256))]
)
def test_f8_a_file_that_is_something_else(tmp_path: Path, content: bytes) -> None:
    for name in ("thing.pt", "thing.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load(tmp_path / name)
        refused(caught, 3, name)


def test_f9_one_flipped_bit_is_caught_by_the_recorded_hash(good: Path) -> None:
    recorded = sha256(good)
    assert load(good, sha256=recorded).provenance["sha256"] == recorded.removeprefix("sha256:")
    data = bytearray(good.read_bytes())
    data[-5] ^= 1
    good.write_bytes(data)
    load(good)  # silently, which is why the hash is recorded
    with pytest.raises(ModelError) as caught:
        load(good, sha256=recorded)
    refused(caught, 3, "good.safetensors", recorded.removeprefix("sha256:"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_f10_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = build_network("mnist_fast").state_dict()
    state["5.weight"][3, 4] = value
    save_file(state, tmp_path / "bad.safetensors")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "bad.safetensors")
    refused(caught, 3, "5.weight", "1 of 156,800")


def test_f11_keys_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    state = build_network("mnist_fast").state_dict()
    state["head.weight"] = state.pop("7.weight")
    state["0.weight"] = torch.zeros(16, 3, 4, 4)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "other.safetensors")
    refused(caught, 3, "1 missing (7.weight)", "1 unexpected (head.weight)")
    refused(caught, 3, "1 of another shape (0.weight (16, 3, 4, 4) instead of (16, 1, 4, 4))")


def test_f11_long_lists_are_cut(tmp_path: Path) -> None:
    save_file({f"layer{n}": torch.zeros(1) for n in range(40)}, tmp_path / "alien.safetensors")
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "alien.safetensors")
    refused(caught, 3, "8 missing", "40 unexpected", ", ...")


def test_f12_a_python_file_runs_only_when_allowed(tmp_path: Path, witness: Path) -> None:
    code = f"open({str(witness)!r}, 'w').close()\ndef net(x):\n    return x.mean(dim=(2, 3))\n"
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(RefusedError) as caught:
        load_classifier("python:mine.py:net", base_folder=tmp_path, num_classes=3)
    refused(caught, 5, "mine.py", "--allow-code")
    assert not witness.exists()
    allowed = load_classifier("python:mine.py:net", base_folder=tmp_path, num_classes=3, allow_code=True)
    assert witness.exists()
    assert any("mine.py" in note and "allowed" in note for note in allowed.notes)


def test_f14_a_link_out_of_the_folder_is_refused(tmp_path: Path, good: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "link.safetensors").symlink_to(good)
    (project / "folder").symlink_to(tmp_path)
    for name in ("link.safetensors", "folder/good.safetensors", str(project / "link.safetensors")):
        with pytest.raises(RefusedError) as caught:
            load_classifier(f"checkpoint:{name}", architecture="mnist_fast", base_folder=project)
        refused(caught, 5, "symbolic link", str(good))
    (project / "real.safetensors").write_bytes(good.read_bytes())
    (project / "inner.safetensors").symlink_to("real.safetensors")
    load_classifier("checkpoint:inner.safetensors", architecture="mnist_fast", base_folder=project)
    load_classifier("checkpoint:../good.safetensors", architecture="mnist_fast", base_folder=project)


# Behaviour


class Answers(nn.Module):
    """A model whose forward is whatever the test says, with a parameter of a given dtype."""

    def __init__(self, function: Callable[[Tensor], object], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.function = function
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x: Tensor) -> object:
        return self.function(x * self.scale)


def means(x: Tensor) -> Tensor:
    return x.mean(dim=(2, 3))


def test_f15_a_dict_needs_to_be_told_which_entry() -> None:
    model, x = Answers(lambda x: {"logits": means(x), "aux": means(x)}), images(channels=3)
    with pytest.raises(ModelError) as caught:
        asked(model, x)
    refused(caught, 3, "logits (3, 3), aux (3, 3)", "output:")
    assert torch.equal(asked(model, x, output="logits"), means(x))


def test_f16_another_number_of_outputs() -> None:
    with pytest.raises(ModelError) as caught:
        asked(Answers(means), images(channels=3), classes=10)
    refused(caught, 3, "has 3 outputs, but 10 classes")


def test_f17_one_class_is_no_classifier_and_two_are() -> None:
    with pytest.raises(ModelError) as caught:
        Classifier(Answers(means), num_classes=1)
    refused(caught, 3, "at least 2 classes, got 1")
    assert asked(Answers(means), images(channels=2), classes=2).shape == (3, 2)


def test_f18_probabilities_are_noted() -> None:
    for function, expected in ((lambda x: means(x).softmax(1), True), (means, False)):
        classifier = Classifier(Answers(function), num_classes=3)
        classifier(images(channels=3))
        assert any("probabilities" in note for note in classifier.notes) is expected


def test_f19_a_model_left_in_training_mode() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9), nn.Flatten(), nn.Linear(48, 3)).train()
    x, before = images(channels=3, size=4), {k: v.clone() for k, v in model.state_dict().items()}
    classifier = Classifier(model, num_classes=3)
    with classifier.evaluation_mode():
        found = classifier(x)
    assert all(part.training for part in model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(found, model.eval()(x))
    assert any("training mode" in note for note in classifier.notes)


def test_f20_batch_norm_sees_no_difference_between_one_and_many() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 3)).train()
    model(images(64, 3, 8))  # running statistics that are not those of any batch
    classifier, x = Classifier(model, num_classes=3), images(64, 3, 8)
    with classifier.evaluation_mode():
        torch.testing.assert_close(torch.cat([classifier(one) for one in x.split(1)]), classifier(x))


def test_f22_nan_logits_are_passed_on() -> None:
    def sometimes(x: Tensor) -> Tensor:
        logits = means(x)
        return torch.where(torch.tensor([[True], [False], [True]]), logits, torch.nan)

    found = asked(Answers(sometimes), images(channels=3))
    assert found.isnan().any(dim=1).tolist() == [False, True, False]


def test_f23_infinite_and_equal_logits_are_passed_on() -> None:
    found = asked(Answers(lambda x: torch.full((len(x), 3), torch.inf)), images(channels=3))
    assert torch.equal(found, torch.full((3, 3), torch.inf))


def test_f24_a_forward_that_raises_says_what_and_on_what() -> None:
    def picky(x: Tensor) -> Tensor:
        raise ValueError("I do not like this image\nat all")

    with pytest.raises(ModelError) as caught:
        asked(Answers(picky), images(channels=3))
    refused(caught, 3, "raised ValueError", "(3, 3, 28, 28)", "I do not like this image")


def test_f25_a_forward_that_changes_its_input() -> None:
    x = images(channels=3)
    before = x.clone()

    class Spoiling(nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return means(given.sub_(0.5))

    classifier = Classifier(Spoiling(), num_classes=3)
    found = classifier(x)
    assert torch.equal(x, before)
    assert torch.equal(found, means(before - 0.5))
    assert any("in place" in note for note in classifier.notes)
    _, _, gradient = classifier.compute_gradient(x, lambda z: z.sum(1))
    torch.testing.assert_close(gradient, torch.full_like(x, 1 / 784))


def test_f26_process_settings_are_put_back_at_once_and_noted() -> None:
    def careless(x: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(3)
        return means(x)

    state = torch.get_rng_state()
    classifier = Classifier(Answers(careless), num_classes=3)
    with classifier.evaluation_mode():
        classifier(images(channels=3))
        assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert any("default_dtype" in note for note in classifier.notes)
    assert any("random" in note for note in classifier.notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_f29_half_precision_models_get_their_own_dtype(dtype: torch.dtype) -> None:
    seen = []

    def watch(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return means(x)

    classifier = Classifier(Answers(watch, dtype), num_classes=3)
    logits, _, gradient = classifier.compute_gradient(images(channels=3), lambda z: z.sum(1))
    assert set(seen) == {dtype}
    assert logits.dtype == gradient.dtype == torch.float32
    assert any(str(dtype).removeprefix("torch.") in note for note in classifier.notes)


def test_f30_a_device_that_is_not_here() -> None:
    absent = "mps" if not torch.backends.mps.is_available() else "xpu"
    with pytest.raises(ConfigError) as caught:
        Classifier(Answers(means), num_classes=3, device=absent)
    refused(caught, 2, absent, "cpu or auto")


@pytest.mark.gpu
def test_f30_a_model_on_another_device_is_moved() -> None:
    model = Answers(means).to("cuda")
    found = asked(model, images(channels=3), device="cpu")
    assert found.device.type == "cpu"
    assert asked(model, images(channels=3), device="cuda").device.type == "cuda"


@pytest.mark.parametrize(
    "cut",
    [
        torch.no_grad()(means),
        lambda x: means(x.detach()),
        lambda x: torch.from_numpy(x.detach().numpy().mean(axis=(2, 3))),
    ],
)
def test_f31_no_gradient_path(cut: Callable[[Tensor], Tensor]) -> None:
    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cut(x)

    classifier = Classifier(Cut(), num_classes=3)
    with pytest.raises(ModelError) as caught:
        classifier.compute_gradient(images(channels=3), lambda z: z.sum(1))
    refused(caught, 3, "no gradient path", "access: scores")


def test_f31_a_graph_that_ends_in_the_parameters_is_no_path_either() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias.expand(len(x), 3)

    classifier = Classifier(Constant(), num_classes=3)
    with pytest.raises(ModelError, match="no gradient path"):
        classifier.compute_gradient(images(channels=3), lambda z: z.sum(1))


def test_every_torch_load_is_restricted_but_two_that_ask_for_trust() -> None:
    package = Path(__file__).parents[2] / "robustbench_local"
    calls = [
        (path.name, line.strip())
        for path in package.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "torch.load(" in line or "jit.load(" in line
    ]
    unrestricted = [call for call in calls if "weights_only=True" not in call[1]]
    assert sorted(name for name, _ in unrestricted) == ["torchscript_model.py", "weight_files.py"]
