"""Models of transformers: what is loaded, what is refused, and identities that belong to content alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hugging_face_samples import CLASS_NAMES, make_photographs, save_clip, save_vit, to_pil
from safetensors.torch import load_file, save_file

from robustbench_local.classifier import Classifier
from robustbench_local.defenses.training.initial_networks import load_initial_network
from robustbench_local.errors import ConfigError, ModelError, RefusedError
from robustbench_local.models.model_sources import load_classifier

pytestmark = pytest.mark.extra


@pytest.fixture(autouse=True)
def library() -> Any:
    return pytest.importorskip("transformers", reason="needs the extra hf")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_vit(tmp_path / "vit")
    return tmp_path / "vit"


def _load(folder: Path, **options: Any) -> Classifier:
    return load_classifier(f"hf:{folder.name}", base_folder=folder.parent, **options)


def _change_json(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_folder_answers_as_transformers_does(library: Any, folder: Path) -> None:
    network = save_vit(folder, id2label=dict(enumerate(CLASS_NAMES)))
    found = _load(folder)
    assert (found.num_classes, found.channels, found.input_size) == (3, 3, (32, 32))
    assert found.class_names == CLASS_NAMES
    assert found.notes == []
    assert set(found.provenance) == {"source", "weights", "sha256", "configuration"}
    images = make_photographs(4)
    processor = library.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        wanted = network(**processor(images=to_pil(images), return_tensors="pt")).logits
    answers = found(images)
    assert torch.allclose(answers, wanted, atol=0.02)
    assert torch.equal(answers.argmax(1), wanted.argmax(1))
    assert len(set(answers.argmax(1).tolist())) > 1 or wanted.std() > 0.1


def test_gradients_are_those_of_the_eager_attention(library: Any, folder: Path) -> None:
    found = _load(folder)
    images = make_photographs(1, 32, 32)
    _, _, gradient = found.compute_gradient(images, lambda logits: logits[:, 0])
    eager = library.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    assert found.module.network.config._attn_implementation == "sdpa"  # type: ignore[union-attr]
    leaf = images.clone().requires_grad_()
    eager(pixel_values=(leaf - 0.5) / 0.5).logits[:, 0].sum().backward()
    assert gradient.abs().max() > 0
    assert torch.allclose(gradient, leaf.grad, rtol=1e-3, atol=1e-6)  # type: ignore[arg-type]


def test_the_identity_belongs_to_the_content(folder: Path, tmp_path: Path) -> None:
    digest = _load(folder).compute_digest()
    assert _load(folder).compute_digest() == digest
    moved = folder.rename(tmp_path / "elsewhere")
    assert _load(moved).compute_digest() == digest
    processor = moved / "preprocessor_config.json"
    _change_json(processor, resample=3)
    assert _load(moved).compute_digest() != digest
    _change_json(processor, resample=2)
    tensors = load_file(moved / "model.safetensors")
    tensors["classifier.bias"][0] += 1
    save_file(tensors, moved / "model.safetensors", {"format": "pt"})
    assert _load(moved).compute_digest() != digest


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_computed_in_float32(folder: Path, kind: torch.dtype) -> None:
    network = save_vit(folder)
    network.to(kind).save_pretrained(folder)
    found = _load(folder)
    assert found.notes == [f"its weights are stored in {str(kind)[6:]}; computed in float32"]
    assert next(found.module.parameters()).dtype == torch.float32  # type: ignore[union-attr]


def test_weights_in_several_files(folder: Path) -> None:
    digest = _load(folder).compute_digest()
    network = save_vit(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="5KB")
    found = _load(folder)
    assert found.compute_digest() == digest
    assert len(found.provenance["sha256"]) > 1
    with pytest.raises(ConfigError, match="sha256 stands for one file"):
        _load(folder, sha256="0" * 64)
    index = folder / "model.safetensors.index.json"
    _change_json(index, weight_map={"classifier.bias": "../outside.safetensors"})
    with pytest.raises(RefusedError, match="which is not in its folder"):
        _load(folder)
    _change_json(index, weight_map={"classifier.bias": "gone.safetensors"})
    with pytest.raises(ModelError, match=r"gone\.safetensors: there is no such file"):
        _load(folder)


def test_a_pickle_needs_its_hash(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    digest = _load(folder).compute_digest()
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(RefusedError, match=r"only in pytorch_model.bin, a pickle") as caught:
        _load(folder)
    assert "python -c" in str(caught.value)
    with pytest.raises(RefusedError, match="trust_pickle is") as caught:
        _load(folder, trust_pickle="sha256:" + "0" * 64)
    trusted = str(caught.value).partition("sha256:" + "0" * 64)[2].partition("sha256:")[2][:64]
    found = _load(folder, trust_pickle=f"sha256:{trusted}")
    assert found.compute_digest() == digest
    assert found.notes == ["pytorch_model.bin was unpickled, trusted by its SHA-256"]


def test_the_conversion_that_is_proposed_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = _load(folder).compute_digest()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RefusedError) as caught:
        _load(folder)
    monkeypatch.chdir(folder)
    exec(str(caught.value.remedy).split('"')[1], {})
    assert _load(folder).compute_digest() == digest


def test_parameters_that_would_stay_random_are_refused(library: Any, folder: Path) -> None:
    library.ViTModel(library.ViTConfig.from_pretrained(folder)).save_pretrained(folder)
    with pytest.raises(
        ModelError, match=r"lacks classifier\.bias, classifier\.weight, which would be random"
    ):
        _load(folder)


def test_surplus_tensors_are_noted(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"extra": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert _load(folder).notes == ["ignored extra, which the network does not have"]


def test_without_a_processor_nothing_is_assumed(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    found = _load(folder)
    assert found.normalization is None
    assert any("has no preprocessor_config.json" in note for note in found.notes)
    assert any("no normalization declared" in note for note in found.notes)
    nested = {"image_processor": {"image_processor_type": "ViTImageProcessor"}}
    (folder / "processor_config.json").write_text(json.dumps(nested))
    assert _load(folder).normalization == ((0.5,) * 3, (0.5,) * 3)


def test_a_processor_that_is_not_reproduced_can_be_replaced(folder: Path) -> None:
    _change_json(folder / "preprocessor_config.json", image_processor_type="PerceiverImageProcessor")
    with pytest.raises(ModelError, match=r"vit: its image processor Perceiver.* crops images before"):
        _load(folder)
    found = _load(folder, normalize="half", input_size=(32, 32))
    assert any("images are prepared as the grid declares" in note for note in found.notes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "bert"}, ModelError, "bert is no image classifier of transformers"),
        ({"model_type": "siglip"}, ModelError, "does not fit its config.json: .* is .* in the file and"),
        ({"model_type": "nonsense"}, ModelError, "transformers cannot load it"),
        ({"model_type": "x", "auto_map": {"AutoConfig": "code.Config"}}, RefusedError, "needs Python code"),
        (
            {"num_labels": 4, "id2label": None, "label2id": None},
            ModelError,
            r"classifier.bias is \(3,\) in the file and \(4,\) in",
        ),
        ({"problem_type": "regression"}, ModelError, "trained for regression"),
        ({"hidden_size": "many"}, ModelError, "transformers cannot load it"),
    ],
)
def test_configurations_that_do_not_fit(
    folder: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    _change_json(folder / "config.json", **changes)
    with pytest.raises(error, match=message) as caught:
        _load(folder)
    assert "\n" not in str(caught.value)


def test_weights_that_were_trained_here(folder: Path, tmp_path: Path) -> None:
    network = load_initial_network("hf:vit", num_classes=5, seed=1, base_folder=tmp_path)
    assert network.architecture == "hf:vit"
    save_file(network.module.network.state_dict(), tmp_path / "ours.safetensors")
    ours = {"weights": "ours.safetensors", "base_folder": tmp_path}
    found = load_classifier("hf:vit", **ours)  # type: ignore[arg-type]
    assert (found.num_classes, found.class_names) == (5, None)
    assert found.contract == _load(folder).contract
    images = make_photographs(2)
    assert torch.allclose(found(images), network.module(images), atol=1e-5)
    again = load_classifier("checkpoint:ours.safetensors", architecture="hf:vit", base_folder=tmp_path)
    assert again.provenance["architecture"] == "hf:vit"
    assert torch.equal(again(images), found(images))
    with pytest.raises(ConfigError, match=r"transformers alone knows .* Name it model\.safetensors"):
        _load(folder, weights="vit/model.safetensors")


def test_several_labels_an_image_are_noted(folder: Path) -> None:
    _change_json(folder / "config.json", problem_type="multi_label_classification")
    assert "only the one with the highest logit counts" in _load(folder).notes[0]


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda path: (path / "config.json").unlink(), ModelError, "vit: has no config.json"),
        (lambda path: (path / "config.json").write_text("{"), ModelError, "vit/config.json: is not JSON"),
        (lambda path: (path / "config.json").write_text("[]"), ModelError, "is not a mapping"),
        (lambda path: (path / "model.safetensors").unlink(), ModelError, "vit: has no model.safetensors"),
        (
            lambda path: (path / "model.safetensors").write_bytes(
                (path / "model.safetensors").read_bytes()[:-9]
            ),
            ModelError,
            "is not a complete safetensors file",
        ),
        (lambda path: (path / "adapter_config.json").write_text("{}"), ModelError, "is an adapter"),
        (lambda path: _replace_by_link(path / "config.json"), RefusedError, "link leads out of its folder"),
    ],
)
def test_damaged_folders(folder: Path, damage: Any, error: type[Exception], message: str) -> None:
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        _load(folder)
    assert "\n" not in str(caught.value)


def _replace_by_link(path: Path) -> None:
    outside = path.parents[1] / "outside.json"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        pytest.param(f"hf:{'a' * 5000}", {}, "there is no such folder", id="long"),
        ("hf:~nobody-here/x", {}, "there is no such folder"),
        ("hf:./vti", {}, r"\./vti: there is no such folder. Did you mean vit"),
        ("hf:vit/config.json", {}, "is a file. Name the folder with config.json"),
        ("hf:vit", {"revision": "main"}, "vit is a folder, which has no revisions"),
        ("hf:vit", {"architecture": "x"}, "holds both network and weights. Leave architecture out"),
        ("hf:vit", {"num_classes": 4}, "has 3 classes, but num_classes is 4"),
        ("hf:vit", {"sha256": "0" * 64}, "model.safetensors: its SHA-256 is"),
        ("hf:vit", {"templates": ["{}"]}, "reads no prompts. Leave templates out"),
        ("zoo:signs-plain", {"revision": "x"}, "has no revisions. Leave revision out"),
        ("clip:vit", {"class_names": ["a", "b"]}, "vit is no model of images and texts.*Write hf:"),
        ("clip:vit", {}, "needs the names of the classes"),
    ],
)
def test_options_and_names_that_do_not_fit(
    folder: Path, monkeypatch: pytest.MonkeyPatch, source: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, ModelError), match=message) as caught:
        load_classifier(source, base_folder=folder.parent, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("is_siglip", [False, True])
class TestZeroShot:
    def test_answers_are_those_of_transformers(self, library: Any, tmp_path: Path, is_siglip: bool) -> None:
        network, tokenizer = save_clip(tmp_path / "clip", is_siglip=is_siglip)
        found = load_classifier(
            "clip:clip", base_folder=tmp_path, class_names=CLASS_NAMES, templates=["a photo of a {} sign."]
        )
        assert found.notes == ["zero-shot from class names in 'a photo of a {} sign.'"]
        texts = [f"a photo of a {name.replace('_', ' ')} sign." for name in CLASS_NAMES]
        how = {"padding": "max_length", "max_length": 12} if is_siglip else {"padding": True}
        images = make_photographs(3)
        processor = library.AutoImageProcessor.from_pretrained(tmp_path / "clip")
        with torch.no_grad():
            wanted = network(
                **tokenizer(texts, return_tensors="pt", **how),
                **processor(images=to_pil(images), return_tensors="pt"),
            ).logits_per_image
        assert torch.allclose(found(images), wanted, atol=0.03)
        assert wanted.std(dim=1).min() > 0.01
        assert not any("text_model" in name for name, _ in found.module.named_parameters())  # type: ignore[union-attr]

    def test_templates_are_ensembled_and_part_of_the_identity(
        self, library: Any, tmp_path: Path, is_siglip: bool
    ) -> None:
        save_clip(tmp_path / "clip", is_siglip=is_siglip)

        def load(*templates: str, names: tuple[str, ...] = CLASS_NAMES) -> Classifier:
            return load_classifier(
                f"clip:{tmp_path / 'clip'}", default_class_names=names, templates=list(templates) or None
            )

        both = load("a photo of a {}.", "the {} sign")
        assert "the data's class names in 'a photo of a {}.' and 1 more" in both.notes[0]
        parts = [load(template).module.text_features for template in ("a photo of a {}.", "the {} sign")]  # type: ignore[union-attr]
        mean = torch.nn.functional.normalize(parts[0] + parts[1], dim=1)
        assert torch.allclose(both.module.text_features, mean, atol=1e-6)  # type: ignore[union-attr]
        digests = {
            load().compute_digest(),
            both.compute_digest(),
            load(names=("stop", "yield", "road")).compute_digest(),
        }
        assert len(digests) == 3
        assert load().compute_digest() == load("a photo of a {}.").compute_digest()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"templates": ["a photo"]}, "template 'a photo' has no place for the class name"),
            ({"templates": ["{} " * 14]}, "tokens, and the model takes 12"),
            ({"num_classes": 5}, "3 class names and num_classes 5"),
            ({"class_names": ["priority road", "priority_road"]}, "'priority road' occurs twice"),
            ({"class_names": ["stop", " "]}, "a class name is empty"),
        ],
    )
    def test_prompts_that_do_not_fit(
        self, tmp_path: Path, is_siglip: bool, options: dict[str, Any], message: str
    ) -> None:
        save_clip(tmp_path / "clip", is_siglip=is_siglip)
        with pytest.raises(ConfigError, match=message):
            load_classifier("clip:clip", base_folder=tmp_path, **{"class_names": CLASS_NAMES, **options})

    def test_it_needs_its_tokenizer(self, tmp_path: Path, is_siglip: bool) -> None:
        save_clip(tmp_path / "clip", is_siglip=is_siglip)
        (tmp_path / "clip" / "tokenizer.json").unlink()
        with pytest.raises(ModelError, match="cannot load it") as caught:
            load_classifier("clip:clip", base_folder=tmp_path, class_names=CLASS_NAMES)
        assert "\n" not in str(caught.value)

    def test_as_an_image_classifier_it_is_explained(self, tmp_path: Path, is_siglip: bool) -> None:
        save_clip(tmp_path / "clip", is_siglip=is_siglip)
        with pytest.raises(ModelError, match=r"would be random\. Write clip: instead of hf:"):
            load_classifier("hf:clip", base_folder=tmp_path)
