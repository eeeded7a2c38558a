"""Memory that runs out beside the passes of a model: nothing is lost, and what fails says so in one line."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace

import pytest
import torch
from memory_shortage import SHORTAGE
from torch import nn

from robustbench_local.attack_score.contenders import AttackRequest, Contender
from robustbench_local.attack_score.measurement import measure_contender
from robustbench_local.attacks.adaptive import pilot
from robustbench_local.attacks.adaptive.steps import AttackStep
from robustbench_local.attacks.base import AttackInputs
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier, memory_limit
from robustbench_local.classifier.foreign_errors import refuse_shortage
from robustbench_local.classifier.memory_limit import MemoryLimit
from robustbench_local.data import decode
from robustbench_local.data.dataset import as_dataset
from robustbench_local.errors import ModelMemoryError
from robustbench_local.evaluation.diagnostics.diagnose import diagnose_model
from robustbench_local.evaluation.diagnostics.diagnosed_model import DiagnosedModel
from robustbench_local.evaluation.diagnostics.diagnostic_registry import DIAGNOSTICS
from robustbench_local.evaluation.diagnostics.pass_budget import PassBudget
from robustbench_local.evaluation.harness.adaptation import adapt_job
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import IsolationSettings
from robustbench_local.models import weight_files
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="L2", eps=2.0)
IMAGES = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch):
    """Collecting garbage takes a tenth of a second in a process that has imported everything."""
    monkeypatch.setattr(memory_limit.gc, "collect", lambda: 0)


def make_classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), num_classes=2, channels=3)


class Shortages:
    """Raises as an allocator does, so many times."""

    def __init__(self, count: int) -> None:
        self.left, self.calls = count, 0

    def strike(self) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise RuntimeError(SHORTAGE)


@pytest.mark.parametrize(("count", "limit"), [(0, None), (1, 4), (3, 1), (4, 1)])
def test_work_beside_the_passes_is_repeated_with_less_at_once(count, limit):
    shortages, kept = Shortages(count), MemoryLimit()
    assert kept.repeat_with_less(lambda: shortages.strike() or "done", 8) == "done"
    assert (shortages.calls, kept.max_images) == (count + 1, limit)


def test_work_that_never_fits_leaves_the_limit_as_it_was_and_other_errors_pass():
    kept, shortages = MemoryLimit(), Shortages(9)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        kept.repeat_with_less(shortages.strike, 8)
    assert (shortages.calls, kept.max_images) == (5, None)
    with pytest.raises(ZeroDivisionError):
        kept.repeat_with_less(lambda: 1 // 0, 8)


@dataclass(frozen=True, kw_only=True)
class Adapting(PGD):
    """An attack whose look at the model takes memory besides the model's own."""

    adapts = True
    shortages: Shortages = field(default_factory=lambda: Shortages(0))

    def adapt(self, *_arguments):
        self.shortages.strike()
        return replace(self, steps=3)

    def describe_adaptation(self):
        return {"steps": self.steps}

    def restore_adaptation(self, description):
        return replace(self, **description)


@pytest.mark.parametrize(("count", "steps"), [(2, 3), (99, 50)])
def test_an_adaptation_is_made_with_less_at_once_or_its_failure_recorded(count, steps):
    classifier = make_classifier()
    data = as_dataset((IMAGES, classifier(IMAGES).argmax(dim=1)))
    attack = Adapting(steps=50, shortages=Shortages(count))
    job = AttackJob(key="cell", classifier=classifier, data=data, attack=attack, threat=THREAT, seed=1)
    adapted, record = adapt_job(job, batch_size=8, isolation=IsolationSettings())
    assert adapted.attack.steps == steps
    assert ("DefaultCPUAllocator" in record.problem) == (steps == 50)


def test_a_step_of_the_pilot_is_not_called_useless_for_a_lack_of_memory(monkeypatch):
    classifier = make_classifier()
    stream = RandomStream(0, tuple(map(str, range(12))), "pilot")
    inputs = AttackInputs(classifier, IMAGES, classifier(IMAGES).argmax(dim=1), THREAT, stream)
    step = AttackStep(label="a step", search="apgd", steps=2)
    monkeypatch.setattr(pilot.Engine, "find_successes", lambda _engine: Shortages(1).strike())
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        pilot.run_pilot(inputs, [step], torch.arange(2))


def test_no_diagnostic_is_lost(monkeypatch):
    classifier = make_classifier()
    labels = classifier(IMAGES).argmax(dim=1)

    def diagnose():
        model = DiagnosedModel(
            id="m", defense="none", classifier=make_classifier(), images=IMAGES, labels=labels,
            ids=tuple(map(str, range(len(IMAGES)))), budget=PassBudget(limit=10_000), seed=0,
        )  # fmt: skip
        return [(one.id, one.threat, one.status) for one in diagnose_model(model, (THREAT,))]

    expected = diagnose()
    for kind in {type(diagnostic) for diagnostic in DIAGNOSTICS if "check_model" in vars(type(diagnostic))}:
        check, shortages = kind.check_model, Shortages(1)
        monkeypatch.setattr(
            kind,
            "check_model",
            lambda self, model, check=check, shortages=shortages: shortages.strike() or check(self, model),
        )
    assert diagnose() == expected


def test_an_attack_of_another_library_gets_half_as_many_images():
    classifier, sizes = make_classifier(), []
    data = as_dataset((IMAGES, classifier(IMAGES).argmax(dim=1)))

    def run(request: AttackRequest):
        sizes.append(len(request.images))
        if len(request.images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1 - request.images, 3.0, 2.0

    contender = Contender(library="other", name="fixed", identity="", run=run)
    found = measure_contender(contender, classifier, data, THREAT, seed=0)
    assert sizes == [12, 6, 3, 3, 6, 3, 3]
    assert (found.failure, found.forward, found.backward, len(found.distances)) == ("", 3.0, 2.0, 12)
    never = replace(contender, run=lambda _request: Shortages(1).strike())
    assert "DefaultCPUAllocator" in measure_contender(never, classifier, data, THREAT, seed=0).failure


def test_a_file_that_memory_has_no_room_for_is_not_called_damaged(monkeypatch):
    def fail(*_arguments, **_options):
        raise RuntimeError(SHORTAGE)

    monkeypatch.setattr(weight_files.torch, "load", fail)
    for trusted in (False, True):
        with pytest.raises(ModelMemoryError, match=r"^w.pt: memory runs out while it is") as caught:
            weight_files._load_torch_file(b"", "w.pt", trusted=trusted)
        assert caught.value.exit_code == 4
    refuse_shortage(ValueError("bad header"), "w.pt")  # says nothing

    def have_no_memory(_content):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(decode, "_open_image", have_no_memory)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        decode.decode_image(b"\xff\xd8\xff", where="a.jpg")
