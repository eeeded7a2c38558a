"""A cell: invariance, isolation of failures, memory, counting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.ensembles.autoattack import AutoAttack
from robustbench_local.attacks.pgd import PGD
from robustbench_local.classifier import Classifier
from robustbench_local.errors import InvariantError, ModelError
from robustbench_local.evaluation.harness import attack_job
from robustbench_local.evaluation.harness.attack_goal import find_applicable_positions
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.store.records import count_outcomes
from robustbench_local.threats.threat_model import ThreatModel

THREAT = ThreatModel(norm="Linf", eps=0.02)


def task(classifier, data, attack=None, threat=THREAT):
    return AttackJob(
        key="cell",
        classifier=classifier,
        data=data,
        attack=attack or PGD(steps=5, restarts=2),
        threat=threat,
        seed=1,
    )


def outcomes(job, **options):
    """By position: several workers end their batches in any order."""
    options = {"batch_size": 16} | options
    rows = (row for batch in run_batches(job, **options) for row in batch.outcomes)
    return sorted(rows, key=lambda row: row.position)


def verdicts(rows):
    """Everything about an image but its cost and place."""
    return {
        row.image: (row.label, row.clean_prediction, row.adversarial_prediction, row.broken, row.status)
        for row in rows
    }


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_no_verdict_and_no_image(linear, data, batch_size):
    reference = outcomes(task(linear, data), batch_size=16)
    rows = outcomes(task(linear, data), batch_size=batch_size)
    assert verdicts(rows) == verdicts(reference)
    assert 5 < count_outcomes(rows).broken < 50
    assert [row.forward_passes for row in rows] == [row.forward_passes for row in reference]


def test_order_and_subset_change_no_verdict(linear, data):
    reference = verdicts(outcomes(task(linear, data)))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:25]
    subset = verdicts(outcomes(task(linear, data.select_images(order))))
    assert subset == {image: reference[image] for image in subset}


def test_the_denominators_add_up(linear, data):
    rows = outcomes(task(linear, data))
    counts = count_outcomes(rows)
    assert counts.n == len(data)
    assert counts.clean_correct == 54
    assert counts.robust == counts.clean_correct - counts.broken


def test_clean_mistakes_are_returned_untouched_and_cost_one_pass(linear, data):
    wrong = [row for row in outcomes(task(linear, data)) if not row.clean_correct]
    assert len(wrong) == 6
    for row in wrong:
        assert (row.status, row.broken, row.linf, row.forward_passes, row.backward_passes) == (
            "clean-wrong",
            False,
            0.0,
            1,
            0,
        )
        assert row.original_hash == row.adversarial_hash


def test_eps_zero_breaks_nothing_and_one_breaks_everything(linear, data):
    zero = count_outcomes(outcomes(task(linear, data, threat=ThreatModel(norm="Linf", eps=0))))
    one = count_outcomes(outcomes(task(linear, data, threat=ThreatModel(norm="Linf", eps=1))))
    assert zero.broken == 0
    assert one.robust == 0


def test_done_positions_are_not_done_again(linear, data):
    rows = outcomes(task(linear, data), done_positions=set(range(0, 60, 2)))
    assert [row.position for row in rows] == list(range(1, 60, 2))


def test_a_forward_that_raises_on_one_image_costs_only_that_image(linear, data):
    marked = data.images[17]

    def forward(images):
        if any(torch.equal(image, marked) for image in images):
            raise ValueError("bad\nimage")
        return linear(images)

    heard = []
    rows = outcomes(task(Classifier(forward, num_classes=4), data, attack=Nothing()), notify=heard.append)
    assert [row.position for row in rows if row.status == "error"] == [17]
    assert "bad" in rows[17].error
    assert "\n" not in rows[17].error
    assert count_outcomes(rows).errors == 1
    assert len(heard) == 1


class Touchy(torch.nn.Module):
    """The linear model, but it refuses images that are not the clean ones, for some of them."""

    def __init__(self, model, clean, refused):
        super().__init__()
        self.model, self.clean, self.refused = model, clean, refused

    def forward(self, images):
        for image in images:
            nearest = int((self.clean - image).flatten(1).abs().amax(dim=1).argmin())
            if nearest in self.refused and not torch.equal(image, self.clean[nearest]):
                raise ValueError("not as it was")
        return self.model(images)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_image_whose_attack_raises_keeps_its_clean_reading_and_its_passes(linear, data, workers):
    touchy = Classifier(Touchy(linear.model, data.images, {17, 41}), num_classes=4, name="touchy")
    heard = []
    rows = outcomes(task(touchy, data, attack=Spender()), notify=heard.append, workers=workers)
    plain = outcomes(task(linear, data, attack=Spender()))
    assert count_outcomes(rows).clean_correct == count_outcomes(plain).clean_correct == 54
    assert [row.position for row in rows if row.status == "error"] == [17, 41]
    for row in (rows[17], rows[41]):
        assert row.clean_prediction == row.label
        assert row.adversarial_prediction is None
        assert row.margin is None
        assert row.forward_passes == 1 + Spender().spends  # verification raised, and did not come to a pass
        assert "touchy: the model raised ValueError" in row.error
        assert "The clean image raises nothing" in row.error
        assert "input_size" not in row.error
    others = [row for row in plain if row.position not in {17, 41}]
    assert count_outcomes(rows).robust == count_outcomes(others).robust
    assert count_outcomes(rows).broken == count_outcomes(others).broken
    assert len(heard) == 2


def test_passes_of_other_libraries_on_an_attack_that_raises_are_not_the_next_images(linear, data):
    touchy = Classifier(Touchy(linear.model, data.images, {1}), num_classes=4)
    rows = outcomes(task(touchy, data.select_images(range(8)), attack=Foreign()), batch_size=4)
    assert [row.status for row in rows if row.clean_correct].count("error") == 1
    assert {row.forward_passes for row in rows if row.status == "ok"} == {4}
    assert rows[1].forward_passes == 3


def test_an_attack_that_never_works_is_an_error_of_the_cell_without_advice_on_the_clean_images(linear, data):
    touchy = Classifier(Touchy(linear.model, data.images, set(range(60))), num_classes=4)
    with pytest.raises(ModelError, match="not as it was") as caught:
        outcomes(task(touchy, data, attack=Spender()))
    assert "input_size" not in str(caught.value)


def test_a_model_that_never_works_is_an_error_of_the_cell(data):
    def forward(images):
        raise ValueError("never")

    with pytest.raises(ModelError, match="never"):
        outcomes(task(Classifier(forward, num_classes=4), data, attack=Nothing()))


def test_out_of_memory_halves_the_batch_and_changes_no_verdict(linear, data):
    sizes = []

    class Small(Classifier):
        def __call__(self, images, rows=None):
            if len(images) > 10:
                raise torch.OutOfMemoryError("CUDA out of memory")
            sizes.append(len(images))
            return super().__call__(images, rows)

    heard = []
    small = Small(linear.model, num_classes=4)
    rows = outcomes(task(small, data), batch_size=32, notify=heard.append)
    assert verdicts(rows) == verdicts(outcomes(task(linear, data)))
    assert max(sizes) == 8
    assert [line.split(":")[0] for line in heard] == [
        "out of memory with 32 images",
        "out of memory with 16 images",
    ]


def test_one_image_that_never_fits_is_an_error_not_a_crash(linear, data):
    class Smaller(Classifier):
        def __call__(self, images, rows=None):
            if any(torch.equal(image, data.images[30]) for image in images):
                raise RuntimeError("DefaultCPUAllocator: not enough memory")
            return super().__call__(images, rows)

    rows = outcomes(task(Smaller(linear.model, num_classes=4), data))
    assert [row.position for row in rows if row.status == "error"] == [30]


@dataclass(frozen=True, kw_only=True)
class Nothing(Attack):
    """Returns what it was given; counts its groups."""

    access = "labels"

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return images

    def estimate_cost(self, threat):
        return (0, 0)


@dataclass(frozen=True, kw_only=True)
class Spender(Nothing):
    """Asks the classifier a number of times, whatever it may spend."""

    queries: int = 5
    spends: int = 5

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        for _ in range(self.spends):
            classifier(images)
        return (images + threat.eps).clamp(0, 1)


class Foreign(Nothing):
    """Asks the model as another library does."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        module = classifier.as_module()
        for _ in range(2):
            module(images)
        return (images + threat.eps).clamp(0, 1)


def test_verification_is_counted_but_spends_no_query(linear, data):
    rows = outcomes(task(linear, data, attack=Spender()))
    spent = {row.forward_passes - (row.broken_8bit is not None) for row in rows if row.clean_correct}
    assert spent == {1 + 5 + 1}  # read untouched, attacked, verified; the broken ones once more in 8 bits


def test_an_attack_that_overspends_its_queries_stops_the_cell(linear, data):
    with pytest.raises(InvariantError, match="limit of 5 queries"):
        outcomes(task(linear, data, attack=Spender(spends=6)))


@dataclass(frozen=True, kw_only=True)
class Grouped(Nothing):
    """Draws for a whole group, as other libraries' attacks do."""

    per_image = False
    group_size = 8

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        generator = torch.Generator().manual_seed(stream.compute_batch_seed() % 2**31)
        noise = torch.randn(images.shape, generator=generator).sign()
        return (images + threat.eps * noise).clamp(0, 1)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_group_attacks_get_fixed_groups_whatever_the_batch_size(linear, data, batch_size):
    job = task(linear, data, attack=Grouped(), threat=ThreatModel(norm="Linf", eps=0.1))
    reference = outcomes(job)
    assert [row.adversarial_hash for row in outcomes(job, batch_size=batch_size)] == [
        row.adversarial_hash for row in reference
    ]
    resumed = outcomes(job, batch_size=batch_size, done_positions=set(range(16)))
    assert [row.adversarial_hash for row in resumed] == [row.adversarial_hash for row in reference[16:]]
    chosen = outcomes(job, batch_size=batch_size, selected_positions=[18])  # with the rest of its group
    assert [row.adversarial_hash for row in chosen] == [row.adversarial_hash for row in reference[16:32]]


def test_targets_leave_out_images_that_already_show_one(data):
    threat = replace(THREAT, targets=(1, 2))
    positions = find_applicable_positions(data, threat)
    assert set(data.labels[positions].tolist()) == {0, 3}
    assert set(data.labels[find_applicable_positions(data, threat, sources=(0,))].tolist()) == {0}


def test_a_label_moved_elsewhere_is_counted_apart(linear, data):
    threat = ThreatModel(norm="Linf", eps=0.05, targets=(1,))
    chosen = data.select_images(find_applicable_positions(data, threat))
    rows = outcomes(task(linear, chosen, attack=Grouped(), threat=threat))
    moved = [row for row in rows if row.moved_elsewhere]
    assert all(not row.broken and row.adversarial_prediction not in {1, row.label} for row in moved)
    untargeted = outcomes(task(linear, chosen, attack=Grouped(), threat=replace(threat, targets=())))
    assert (
        count_outcomes(untargeted).broken
        == count_outcomes(rows).broken + count_outcomes(rows).moved_elsewhere
    )
    assert count_outcomes(rows).moved_elsewhere > 0


@pytest.mark.slow
def test_every_broken_image_names_the_stage_that_broke_it(linear, data):
    """With gradients that vanish, what AutoAttack still breaks is Square's, and the outcomes say so."""
    few = data.select_images(torch.arange(12))
    for row in outcomes(task(linear, few, AutoAttack())):
        assert row.stage == ("apgd-ce" if row.broken else "")
    stages = Classifier(Stairs(linear.module), num_classes=4, name="stairs")
    rows = outcomes(task(stages, few, AutoAttack(), replace(THREAT, eps=0.2)), batch_size=12)
    assert any(row.stage == "square" for row in rows)
    assert all(bool(row.stage) == row.broken for row in rows)


class Stairs(torch.nn.Module):
    """The same answers, from images rounded to 8 bits: every gradient is zero."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner((images * 255).round() / 255)


def get_first_row(images):
    """A function without any state to copy: four pixels are the logits, and the fourth rejects."""
    return images[:, 0, 0]


class FirstRow(torch.nn.Module):
    def forward(self, images):
        return images[:, 0, 0]


@pytest.mark.parametrize("model", [get_first_row, FirstRow()], ids=["function", "module"])
def test_a_model_without_a_copy_is_not_asked_again_after_the_attack(data, monkeypatch, model):
    compared, compare = [], attack_job.compare_with_fresh_copy

    def record(asked, fresh, *rest):
        compared.append(asked is fresh)
        return compare(asked, fresh, *rest)

    monkeypatch.setattr(attack_job, "compare_with_fresh_copy", record)
    labels = get_first_row(data.images).argmax(dim=1)
    accepted = replace(data, labels=labels.clamp(max=2)).select_images((labels < 3).nonzero().flatten())
    outcomes(task(Classifier(model, num_classes=3, abstain="last"), accepted, attack=Nothing()))
    assert set(compared) == {model is get_first_row}
