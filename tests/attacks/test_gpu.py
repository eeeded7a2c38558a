"""The attacks on a GPU: the CPU's verdicts, and no step that makes the host wait."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample, train_sample

from robustbench_local.attacks import make_attack
from robustbench_local.attacks.core.search import Search
from robustbench_local.threats.threat_model import ThreatModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
NAMES = ["pgd", "apgd", "apgd-t", "fab-t", "square"]
THREATS = [ThreatModel(norm="Linf", eps="12/255"), ThreatModel(norm="L2", eps=0.55)]


@pytest.fixture(scope="module")
def on_gpu() -> Sample:
    sample = train_sample()
    classifier = sample.classifier.to("cuda")
    return Sample(classifier, sample.images.cuda(), sample.labels.cuda())


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("name", [*NAMES, "autoattack"])
def test_verdicts_are_those_of_the_cpu(small: Sample, on_gpu: Sample, name: str, threat: ThreatModel):
    attack = make_attack(name)
    here = small.find_adversarial(small.attack(attack, threat), threat)
    there = on_gpu.find_adversarial(on_gpu.attack(attack, threat), threat).cpu()
    assert int((here ^ there).sum()) <= 1


@pytest.mark.parametrize("threat", THREATS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(on_gpu: Sample, name: str, threat: ThreatModel, monkeypatch):
    def watched(step):
        def guarded(*arguments):
            torch.cuda.set_sync_debug_mode("error")
            try:
                return step(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return guarded

    for kind in _searches(Search):
        if "step" in vars(kind):
            monkeypatch.setattr(kind, "step", watched(kind.step))
    on_gpu.attack(make_attack(name), threat)


def test_a_search_in_bf16_confirms_in_float32(on_gpu: Sample):
    attack = make_attack("apgd")
    exact = on_gpu.find_adversarial(on_gpu.attack(attack, THREATS[0]), THREATS[0])
    on_gpu.classifier.configure(search_precision="bf16")
    quick = on_gpu.find_adversarial(on_gpu.attack(attack, THREATS[0]), THREATS[0])
    on_gpu.classifier.configure(search_precision="fp32")
    assert int((quick & ~exact).sum()) <= 2
    assert int(quick.sum()) >= int(exact.sum()) - 8


def _searches(kind: type) -> list[type]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in _searches(below))]
