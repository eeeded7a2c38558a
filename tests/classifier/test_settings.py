"""How a classifier is used: one frozen object, which nothing outside changes but through `configure`."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustbench_local
from robustbench_local.classifier import Classifier, ClassifierSettings, Consistency
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.randomness import RandomNumbers

PACKAGE = Path(robustbench_local.__file__).parent
IMAGES = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
CHANGED = ClassifierSettings(
    batch_size=3,
    search_precision="bf16",
    compile_steps=True,
    min_batch_size=2,
    fixed_batch_size=2,
    is_fork_safe=False,
    uses_fresh_copies=True,
    consistency=Consistency(inconsistency_note="allowed", tolerance=0.5),
)
FIELDS = [field.name for field in dataclasses.fields(ClassifierSettings)]


class Brighter(WrappedClassifier):
    @property
    def identity(self) -> str:
        return "brighter"

    def _compute_logits(self, images: Tensor) -> Tensor:
        return self.inner((images + 0.1).clamp(0, 1))


class Noisy(RandomizedClassifier):
    @property
    def identity(self) -> str:
        return "noisy"

    def sample(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        return self.inner(images + 0.1 * numbers.sample_normal(images.shape[1:]))


def build_classifier(**arguments) -> Classifier:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    return Classifier(model, num_classes=3, name="small", **arguments)


def test_every_setting_is_changed_by_its_name_and_the_others_stay():
    for name in FIELDS:
        classifier = build_classifier()
        value = getattr(CHANGED, name)
        assert value != getattr(classifier.settings, name)
        assert classifier.configure(**{name: value}) is classifier
        assert classifier.settings == dataclasses.replace(ClassifierSettings(), **{name: value})
    assert build_classifier(settings=CHANGED).settings == CHANGED
    with pytest.raises(TypeError, match="batchsize"):
        build_classifier().configure(batchsize=3)


@pytest.mark.parametrize("name", ["settings", "model", "module", "device", "external_passes", "open_counter"])
def test_what_a_classifier_is_made_of_cannot_be_assigned(name: str):
    classifier = build_classifier()
    with pytest.raises(AttributeError):
        setattr(classifier, name, getattr(classifier, name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        classifier.settings.batch_size = 3


def test_settings_are_no_part_of_the_identity():
    plain, changed = build_classifier(), build_classifier(settings=CHANGED, provenance={"source": "x"})
    assert plain.compute_digest() == changed.compute_digest()
    assert Brighter(plain).compute_digest() == Brighter(changed).compute_digest()
    assert Brighter(plain).compute_digest() != plain.compute_digest()


@pytest.mark.parametrize("twin_of", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_have_equal_settings_identity_and_answers_and_are_used_in_ways_of_their_own(twin_of):
    settings = dataclasses.replace(CHANGED, uses_fresh_copies=False)
    classifier = build_classifier(settings=settings)
    twin = twin_of(classifier)
    assert twin.settings == settings
    assert twin.compute_digest() == classifier.compute_digest()
    with torch.no_grad():
        assert torch.equal(twin(IMAGES), classifier(IMAGES))
    twin.configure(batch_size=77)
    assert classifier.settings == settings


def test_a_wrapper_takes_over_what_its_model_is_and_not_how_it_is_used():
    wrapper = Brighter(build_classifier(settings=CHANGED, input_size=(4, 4), provenance={"source": "x"}))
    expected = ClassifierSettings(is_fork_safe=False, consistency=CHANGED.consistency)
    assert wrapper.settings == expected
    assert (wrapper.input_size, wrapper.provenance) == ((4, 4), {"source": "x"})
    wrapper.configure(batch_size=9)
    assert wrapper.inner.settings == CHANGED


def test_a_fresh_copy_is_not_asked_in_fresh_copies_itself():
    classifier = build_classifier().configure(uses_fresh_copies=True, batch_size=3)
    with classifier.evaluation_mode(), classifier.open_fresh_copy() as fresh:
        assert fresh is not classifier
        assert fresh.settings == ClassifierSettings(batch_size=3)
        assert classifier.settings.uses_fresh_copies


def test_a_batch_size_for_a_while_leaves_alone_what_is_learned_meanwhile():
    classifier = build_classifier().configure(batch_size=7)
    with classifier.use_batch_size(2):
        assert classifier.settings.batch_size == 2
        classifier.configure(min_batch_size=2)
    assert classifier.settings == ClassifierSettings(batch_size=7, min_batch_size=2)


def test_draws_and_the_attacks_seed_change_for_a_while():
    noisy = Noisy(build_classifier(), draws=4)

    def answer() -> Tensor:
        with torch.no_grad():
            return noisy(IMAGES)

    usual = answer()
    with noisy.use_attack_seed(5), noisy.use_draws(1):
        assert noisy.draws == 1
        other = answer()
    assert noisy.draws == 4
    assert not torch.equal(other, usual)
    assert torch.equal(answer(), usual)


def test_external_and_worker_passes_are_taken_and_told():
    classifier = build_classifier()
    with classifier.evaluation_mode():
        classifier.as_module()(IMAGES.clone().requires_grad_()).sum().backward()
    classifier.record_worker_passes(4)
    assert classifier.count_current_passes() == 14
    assert classifier.take_external_passes() == (5, 5)
    assert classifier.external_passes == (0, 0)
    assert classifier.count_current_passes() == 4


def list_assignments() -> list[tuple[str, str, str]]:
    """File, object and attribute of every assignment to an attribute but of ``self``, outside classifier/."""
    files = [file for file in PACKAGE.rglob("*.py") if file.parent.name != "classifier"]
    nodes = [(file, node) for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    assigned = [
        (file.name, ast.unparse(node.value), node.attr)
        for file, node in nodes
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    ]
    return [entry for entry in assigned if entry[1] != "self"]


@pytest.mark.slow
def test_nothing_outside_assigns_an_attribute_of_a_classifier():
    """Neither to something that is called a classifier, nor to an attribute that only classifiers have."""
    noisy = Noisy(build_classifier())
    public = {name for name in (*vars(noisy), *dir(type(noisy))) if not name.startswith("_")}
    loaded_models = {"provenance", "channels", "input_size", "class_names", "notes"}
    called = ("classifier", "queried_model", "attacked_model", "within", "surrogate", "inner")
    assignments = list_assignments()
    assert len(assignments) > 20
    assert [
        entry
        for entry in assignments
        if entry[1].rpartition(".")[2].strip("_") in called
        and (entry[2] in public | set(FIELDS) or entry[2].startswith("_"))
        and not (entry[1] == "inner" and entry[2] in loaded_models)
    ] == []
    assert [entry for entry in assignments if entry[2] in {*FIELDS, "draws", "border_probe", "module"}] == []
