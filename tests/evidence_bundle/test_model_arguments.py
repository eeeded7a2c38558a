"""What names a model for ``rbl verify``, and what a bundle may say about it."""

from __future__ import annotations

import pytest

from robustbench_local.cli.verify_command import _split_entry
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evidence_bundle.verified_models import ModelSource, build_entry, name_sources


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("zoo:signs-plain", (None, "zoo:signs-plain")),
        ("plain=zoo:signs-plain", ("plain", "zoo:signs-plain")),
        (
            "p + fast-at[epochs=2,batch_size=4]=checkpoint:w=1",
            ("p + fast-at[epochs=2,batch_size=4]", "checkpoint:w=1"),
        ),
        ("https://host/model?key=1", (None, "https://host/model?key=1")),
        ("a[b=c", (None, "a[b=c")),
    ],
)
def test_a_name_ends_at_the_first_sign_outside_its_settings(entry, expected):
    assert _split_entry(entry, "--model") == expected


def test_a_name_without_a_source_is_refused():
    with pytest.raises(ConfigError, match="names no source"):
        _split_entry("plain=", "--model")


def make_grid(**model):
    entry = {"id": "m", "source": "torchvision:resnet18", **model}
    return Grid.model_validate({"data": {"source": "signs"}, "models": [entry], "attacks": ["fgsm-linf-8"]})


def test_a_bundle_cannot_say_which_pickle_is_to_be_trusted():
    grid = make_grid(source="checkpoint:a.pt", trust_pickle=f"sha256:{'0' * 64}")
    entry = build_entry(grid, ModelSource(name="m", source="checkpoint:b.pt", weights=None))
    assert (entry.source, entry.trust_pickle) == ("checkpoint:b.pt", None)


@pytest.mark.parametrize(
    ("stated", "given", "used"),
    [
        ("/home/verifier/secret.pt", None, None),
        ("weights.safetensors", None, None),
        ("DEFAULT", None, "DEFAULT"),
        ("IMAGENET1K_V2", None, "IMAGENET1K_V2"),
        ("weights.safetensors", "own.safetensors", "own.safetensors"),
        ("DEFAULT", "own.safetensors", "own.safetensors"),
        (None, None, None),
    ],
)
def test_a_bundle_names_no_file_of_the_verifiers_machine(stated, given, used):
    entry = build_entry(
        make_grid(weights=stated), ModelSource(name="m", source="torchvision:resnet18", weights=given)
    )
    assert entry.weights == used


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n", "the run has no model 'n'. "),
        ("m + nosuch=2", "the run has no 'm + nosuch=2'. "),
        ("m + pgd-att", "the run has no 'm + pgd-att'. Did you mean "),
    ],
)
def test_an_unknown_model_or_defense_is_refused_by_name(name, message):
    with pytest.raises(ConfigError) as refusal:
        name_sources([ModelSource(name=name, source="zoo:x")], make_grid(), ["m + none", "m + pgd-at"])
    assert str(refusal.value).startswith(f"--model: {message}")


def test_a_defense_of_the_run_is_accepted():
    source = ModelSource(name="m + pgd-at", source="zoo:x")
    assert name_sources([source], make_grid(), ["m + none", "m + pgd-at"]) == [source]
    with pytest.raises(ConfigError, match="Give m alone"):
        name_sources([source], make_grid(), ["m + none"])
