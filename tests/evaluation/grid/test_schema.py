"""Grid files: what is read, what is refused, and in which words."""

from __future__ import annotations

from functools import partial

import pytest

from robustbench_local.config.strict_yaml import parse_yaml
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.example_grids import list_examples, read_example
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.grid.verdict_keys import flatten_verdict_keys

# ``on:`` would be the truth value True to a YAML 1.1 reader.
SMALL = """
schema: 1
data: {source: signs, limit: 10}
models: [{id: plain, source: "zoo:signs-plain"}]
attacks: [fgsm-linf-8, {card: pgd50-linf-8, eps: ["2/255", 0.01], steps: 5}]
gates: [{metric: robust_accuracy, threat: linf-8, min: 0.45, on: lower}]
"""


def write(folder, text, name="grid.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_preprocessing_of_a_model_is_read_and_is_no_verdict_key_where_it_is_not_set():
    entry = {"id": "a", "source": "s", "input_size": 24, "normalize": {"mean": [104], "std": [1]}}
    values = {"resize": [30, 28], "interpolation": "bicubic", "channel_order": "bgr", "value_scale": 255}
    grid, _ = load_grid(parse_yaml(SMALL, where="test", error=ConfigError))
    models = [entry | {"preprocessing": values}]
    own, _ = load_grid({"data": {"source": "signs"}, "models": models, "attacks": ["x"]})
    assert own.models[0].list_preprocessing() == {
        "normalize": ([104.0], [1.0]),
        "input_size": (24, 24),
        "preprocessing": values | {"resize": (30, 28)},
    }
    assert not [key for key in flatten_verdict_keys(grid) if "preprocessing" in key or "interpolation" in key]
    assert flatten_verdict_keys(own)["models[0].preprocessing.channel_order"] == "bgr"


def test_a_grid_is_read_with_its_defaults_written_out(tmp_path):
    grid, base = load_grid(write(tmp_path, SMALL, "mine.yaml"))
    assert base == tmp_path
    assert grid.name == "mine"
    assert grid.attacks[1].overrides == {"eps": ["2/255", 0.01], "steps": 5}
    again, _ = load_grid(parse_yaml(grid.to_yaml(), where="again", error=ConfigError))
    assert again == grid


REFUSED = {
    "models: []": "models",
    "schema: 2": "schema",
    "atacks: [x]": "attacks",
    "seed: -1": "seed",
    "data: {source: signs, limt: 3}": "limit",
    "data: {source: signs, limit: 0}": "data.limit",
    "models: [{id: a, source: s, normalise: imagenet}]": "normalize",
    "models: [{id: a, source: s, preprocessing: {interpolatoin: bicubic}}]": "Did you mean interpolation",
    "models: [{id: a, source: s, preprocessing: {interpolation: cubic}}]": "did you mean bicubic",
    "models: [{id: a, source: s, preprocessing: {channel_order: gbr}}]": "did you mean bgr",
    "models: [{id: a, source: s, preprocessing: {value_scale: .nan}}]": "the value of white: 1 or 255",
    "models: [{id: a, source: s, preprocessing: {resize: squash}}]": "the length of the shorter side",
    "models: [{id: a, source: s, preprocessing: {antialias: 1}}]": "antialias must be true or false",
    "models: [{id: a, source: s, preprocessing: bicubic}]": "models.0.preprocessing",
    "data: {source: signs, interpolation: cubic}": "data.interpolation",
    "models: [{id: a, source: s}, {id: a, source: s}]": "used twice",
    "models: [{source: s}]": "models.0.id",
    "gates: [{threat: linf-8}]": "min or max",
    "gates: [{threat: linf-8, min: 45}]": "gates.0.min",
    "gates: [{threat: linf-8, min: far}]": "gates.0.min",
    "gates: [{threat: linf-8, metric: median_distance, min: -1}]": "gates.0.min",
    "gates: [{min: 0.4}]": "threat",
    "gates: [{threat: 8/255, min: 0.4}]": "linf-8",
    "gates: [{threat: linf-8, min: 0.4, model: plian}]": "plain",
    "attacks: fgsm": "attacks",
    "attacks: [{card: fgsm-linf-8, transfer_from: plian}]": "transfer_from names the model 'plian'",
    "attacks: [{card: fgsm-linf-8, transfer_from: plain}]": "transfer_from needs a second model",
    "attacks: [{card: fgsm-linf-8, models: [plian]}]": "fgsm-linf-8 names the model 'plian'",
    "attacks: [{card: fgsm-linf-8, models: []}]": "models",
    "defenses: []": "defenses",
    "name: ''": "name",
}


@pytest.mark.parametrize("wrong", REFUSED, ids=str)
def test_a_wrong_grid_is_refused_in_one_line_that_names_the_place(wrong):
    read = partial(parse_yaml, where="test", error=ConfigError)
    with pytest.raises(ConfigError) as caught:
        load_grid(read(SMALL) | read(wrong))
    message = str(caught.value)
    assert REFUSED[wrong] in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("written", "limit"), [("2/255", 2 / 255), ("1.5", 1.5)])
def test_a_limit_on_a_distance_is_written_like_a_radius(written, limit):
    gates = f"gates: [{{metric: median_distance, threat: l2-3, min: {written}}}]"
    read = partial(parse_yaml, where="test", error=ConfigError)
    grid, _ = load_grid(read(SMALL) | read(gates))
    assert grid.gates[0].min == limit
    assert grid.dump_resolved()["gates"][0]["min"] == limit


BROKEN = {
    "python object": "a: !!python/object/apply:os.system ['echo boom']",
    "aliases": "a: &a [x]\n" + "\n".join(f"k{i}: *a" for i in range(200)),
    "not yaml": "data: [unclosed",
    "a list": "- 1\n- 2",
    "empty": "",
    "key twice": "schema: 1\nschema: 1",
    "nested": "[" * 1500,
}


@pytest.mark.parametrize("kind", BROKEN, ids=str)
def test_hostile_yaml_is_refused(tmp_path, kind):
    with pytest.raises(ConfigError) as caught:
        load_grid(write(tmp_path, BROKEN[kind]))
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    (tmp_path / "large.yaml").write_text("# " + "x" * (1 << 20))
    for name in ("absent.yaml", "binary.yaml", "large.yaml"):
        with pytest.raises(ConfigError, match=name):
            load_grid(tmp_path / name)
    with pytest.raises(ConfigError):
        load_grid(tmp_path)


@pytest.mark.parametrize("name", list_examples())
def test_every_example_is_a_grid(name):
    grid, _ = load_grid(parse_yaml(read_example(name), where=name, error=ConfigError))
    assert read_example(name).startswith("# ")
    assert grid.attacks


def test_an_unknown_example_is_answered_with_the_known():
    with pytest.raises(ConfigError, match="signs"):
        read_example("sings")
