"""What a job is made of: its images, its queue, its estimate of passes, and how batches become one."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import pytest
import torch

from robustbench_local.attacks.base import Attack
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.physical.eot import EOTAttack
from robustbench_local.attacks.square.square import Square
from robustbench_local.certification.base import Certificate, CertifiedBatch
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import ConfigError, ModelError
from robustbench_local.evaluation.harness import certificate_job
from robustbench_local.evaluation.harness.answer_agreement import AgreementCounts
from robustbench_local.evaluation.harness.attack_goal import find_applicable_positions
from robustbench_local.evaluation.harness.attack_job import AttackJob, compute_group_size
from robustbench_local.evaluation.harness.cell_key import cell_key
from robustbench_local.evaluation.harness.certificate_job import CHUNK_PIXELS, CertificateJob
from robustbench_local.evaluation.harness.job import (
    AttackFailedError,
    OutcomeBatch,
    format_error_line,
    merge_batches,
    split_positions,
)
from robustbench_local.evaluation.harness.make_job import make_job
from robustbench_local.evaluation.harness.outcome import build_error_outcome
from robustbench_local.evaluation.harness.sticker_job import StickerJob, list_controls
from robustbench_local.evaluation.harness.success_refinement import count_finishing_passes
from robustbench_local.threats.threat_model import ThreatModel

LINF, WHOLE = ThreatModel(norm="Linf", eps=0.1), ThreatModel(norm="spatial", eps=30)


@dataclass(frozen=True, kw_only=True)
class Priced(Attack):
    """Costs what a test says."""

    forward: int = 5
    backward: int = 3
    eot_samples: int = 1
    queries: int | None = None

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return images

    def estimate_cost(self, threat):
        return self.forward, self.backward


@dataclass(frozen=True, kw_only=True)
class Refilling(Priced):
    refills_batches = True


@dataclass(frozen=True, kw_only=True)
class Grouped(Priced):
    per_image = False
    group_size = 8


@dataclass(frozen=True, kw_only=True)
class Distant(Priced):
    measure = "distance"


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images)


def make_attack_job(classifier, data, attack=None, threat=LINF, **more):
    given = {"classifier": classifier, "data": data, "threat": threat, **more}
    return AttackJob(key="cell", attack=attack or Priced(), seed=1, **given)


def make_views_job(classifier, data, attack, **more):
    return StickerJob(key="cell", classifier=classifier, data=data, attack=attack, seed=1, **more)


def test_positions_are_those_of_the_cell(linear, data):
    whole = make_attack_job(linear, data)
    some = make_attack_job(linear, data, positions=torch.tensor([4, 9, 2]))
    assert (whole.image_count, some.image_count) == (60, 3)
    assert whole.select_images([4, 9]).ids == ("made/4", "made/9")
    assert some.select_images([2, 0]).ids == ("made/2", "made/4")


def test_the_models_that_run_are_named_once_each(linear, data):
    other = Classifier(linear.module, num_classes=4, name="other")
    alone, transfer = make_attack_job(linear, data), make_attack_job(linear, data, surrogate=other)
    assert (alone.model_names, transfer.model_names) == ("linear", "linear or other")
    assert (alone.queried_model, alone.attacked_model) == (linear, linear)
    assert (transfer.queried_model, transfer.attacked_model, transfer.classifier) == (other, other, linear)
    assert (alone.images_per_position, alone.is_divisible) == (1, True)
    assert not make_attack_job(linear, data, Grouped()).is_divisible


def test_a_job_may_skip_what_is_proven(linear, data):
    job = make_attack_job(linear, data)
    assert job.skip_proven_images(frozenset({"made/1"})) == replace(job, proven_images=frozenset({"made/1"}))
    certificate = CertificateJob(
        key="k", classifier=linear, data=data, threat=LINF, seed=1, certificate=Claiming()
    )
    assert certificate.skip_proven_images(frozenset({"made/1"})) is certificate


@pytest.mark.parametrize(
    ("size", "pieces"), [(1, [[4], [5], [6]]), (2, [[4, 5], [6]]), (3, [[4, 5, 6]]), (9, [[4, 5, 6]])]
)
def test_positions_are_split_in_order(size, pieces):
    assert split_positions([4, 5, 6], size) == pieces
    assert split_positions([], size) == []


def test_the_queue_leaves_out_what_is_done(linear, data):
    few = data.select_images(range(9))
    job = make_attack_job(linear, few)
    assert job.build_queue(4, {0, 5}) == [[1, 2, 3, 4], [6, 7, 8]]
    assert job.split_queue([[1, 2, 3], [6]], 2) == [[1, 2], [3, 6]]


def test_a_group_stays_whole_until_each_of_it_is_done(linear, data):
    job = make_attack_job(linear, data.select_images(range(40)), Grouped())
    assert compute_group_size(Grouped(), data) == 16
    groups = [list(range(16)), list(range(16, 32)), list(range(32, 40))]
    assert job.build_queue(4, set()) == groups
    assert job.build_queue(4, {0, *range(16, 32), 39}) == [groups[0], groups[2]]
    assert job.split_queue(groups, 2) is groups


@pytest.mark.parametrize(
    ("side", "size"), [(8, 256), (16, 256), (23, 247), (32, 128), (33, 120), (64, 32), (181, 4), (500, 4)]
)
def test_groups_shrink_with_larger_images_within_limits(side, size):
    data = Dataset(
        images=torch.zeros(1, 3, side, side),
        labels=torch.zeros(1).long(),
        ids=("a",),
        class_names=("x",),
        name="n",
    )
    assert compute_group_size(Priced(), data) == size


@pytest.mark.parametrize(
    ("attack", "size"),
    [
        (Priced(), 16),
        (Refilling(), 64),
        (Refilling(forward=600, backward=400), 64),
        (Refilling(forward=600, backward=401), 16),
        (Priced(forward=1, backward=0), 16),
    ],
)
def test_a_short_attack_that_refills_its_batch_gets_several(linear, data, attack, size):
    assert make_attack_job(linear, data, attack).compute_chunk_size(16) == size
    assert len(make_attack_job(linear, data, attack).build_queue(16, set())[0]) == min(60, size)


def test_the_estimate_has_the_attack_the_search_on_its_successes_and_the_harness(linear, data):
    searched = count_finishing_passes(Priced(), LINF)
    assert min(searched) > 0
    found = make_attack_job(linear, data).max_passes
    assert found == (60 * (5 + searched[0] + 3 + 2), 60 * (3 + searched[1]))
    few = make_attack_job(linear, data, positions=torch.tensor([4, 9])).max_passes
    assert few == (2 * (5 + searched[0] + 5), 2 * (3 + searched[1]))
    assert make_attack_job(linear, data, threat=WHOLE).max_passes == (60 * (5 + 3), 60 * 3)


def test_the_estimate_of_a_random_classifier_counts_its_draws(linear, data):
    noisy = Noisy(linear, draws=6, verdict_draws=10)
    job = make_attack_job(noisy, data, Priced(eot_samples=2), WHOLE)
    fixed = 5 // 2 + 3, 3 // 2  # the attack on one draw, and its verification
    assert job.max_passes == (60 * (5 * 6 // 2 + 3 * 10 + fixed[0]), 60 * (3 * 6 // 2 + fixed[1]))
    single = Noisy(linear, draws=1, verdict_draws=10)
    assert make_attack_job(single, data, Priced(eot_samples=2), WHOLE).max_passes == (
        60 * (5 + 30 + fixed[0]),
        60 * (3 + fixed[1]),
    )
    transfer = make_attack_job(linear, data, Priced(), WHOLE, surrogate=noisy)
    assert transfer.max_passes == (60 * (30 + 3), 60 * 18)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [
        (Priced(), WHOLE),
        (Priced(), ThreatModel(norm="Linf", eps=0)),
        (Priced(queries=9), LINF),
    ],
)
def test_where_no_search_follows_none_is_counted(attack, threat):
    assert count_finishing_passes(attack, threat) == (0, 0)


def test_two_searches_follow_where_the_margin_counts_and_each_draws_as_the_attack_does():
    once, twice = count_finishing_passes(Distant(), LINF), count_finishing_passes(Priced(), LINF)
    assert twice == (2 * once[0], 2 * once[1])
    drawn = count_finishing_passes(Priced(eot_samples=3), LINF)
    assert drawn == (3 * twice[0], 3 * twice[1])
    assert count_finishing_passes(Square(queries=5), LINF) == (0, 0)


def make_batch(data, positions, **more):
    rows = tuple(
        build_error_outcome("cell", at, data.select_images([at]), f"number {at}") for at in positions
    )
    return OutcomeBatch(outcomes=rows, candidates=data.images[positions], **more)


def test_batches_become_one_in_the_order_of_positions(data):
    first = make_batch(
        data, [4, 1], agreement=AgreementCounts(4, 1), report_images={4: {"a": 1}}, views=("v",)
    )
    second = make_batch(
        data, [3], agreement=AgreementCounts(2, 2), report_images={3: {"b": 2}}, view_predictions=("p",)
    )
    merged = merge_batches([first, second])
    assert [row.position for row in merged.outcomes] == [1, 3, 4]
    assert torch.equal(merged.candidates, data.images[[1, 3, 4]])
    assert merged.agreement == AgreementCounts(6, 3)
    assert merged.report_images == {4: {"a": 1}, 3: {"b": 2}}
    assert (merged.views, merged.view_predictions) == (("v",), ("p",))


def test_errors_are_one_line_of_limited_length():
    assert format_error_line(ValueError("a\n  b")) == "ValueError: a b"
    own = ModelError("cannot answer", where="it", remedy="mend it")
    assert format_error_line(own) == str(own)
    assert len(format_error_line(ValueError("x" * 1000))) == 300


def test_a_failed_attack_reaches_another_process_with_its_outcome(data):
    outcome = build_error_outcome("cell", 3, data.select_images([3]), "number 3")
    error = AttackFailedError(outcome, ValueError("broken"))
    assert error.args == (outcome, error.cause)
    received = pickle.loads(pickle.dumps(error))
    assert received.outcome == error.outcome
    assert str(received.cause) == "broken"


@dataclass(frozen=True, kw_only=True)
class Claiming(Certificate):
    """Proves what a test says, at a price."""

    norms = frozenset({"Linf"})
    forward: int = 7
    backward: int = 2

    def certify(self, classifier, images, labels, threat, stream):
        raise NotImplementedError

    def estimate_cost(self, threat):
        return self.forward, self.backward


def test_a_certificate_counts_one_prediction_more(linear, data):
    job = CertificateJob(key="k", classifier=linear, data=data, threat=LINF, seed=1, certificate=Claiming())
    assert job.max_passes == (60 * 8, 60 * 2)
    assert job.build_queue(40, {1}) == [[0, *range(2, 41)], list(range(41, 60))]


@pytest.mark.parametrize(
    ("forward", "backward", "size"),
    [
        (0, 0, 40),
        (CHUNK_PIXELS // 48 // 12, 0, 12),
        (CHUNK_PIXELS // 96 // 12, CHUNK_PIXELS // 96 // 12, 12),
        (CHUNK_PIXELS, 0, 1),
    ],
)
def test_a_kill_costs_a_certificate_few_images(linear, data, forward, backward, size):
    certificate = Claiming(forward=forward, backward=backward)
    job = CertificateJob(key="k", classifier=linear, data=data, threat=LINF, seed=1, certificate=certificate)
    assert len(job.build_queue(40, set())[0]) == size
    alone = replace(job, data=data.select_images([0]))
    assert alone.build_queue(40, set()) == [[0]]
    assert alone.is_divisible


@dataclass(frozen=True, kw_only=True)
class Proving(Claiming):
    """Asks twice about the second image, and proves what the model says of every image but the first."""

    concern: str = "model"
    leaves_autocast: bool = False

    def certify(self, classifier, images, labels, threat, stream):
        classifier(images[1:2], torch.tensor([1]))
        classifier.compute_gradient(images[1:2], lambda logits: logits[:, 0], rows=torch.tensor([1]))
        torch.set_autocast_enabled("cpu", self.leaves_autocast)
        numbers = torch.arange(len(images), dtype=torch.float64)
        predictions = classifier.module(images).argmax(dim=1)
        return CertifiedBatch(
            predictions=predictions, verified=numbers > 0, radius=numbers, margins=numbers + stream.seed
        )

    def get_concern(self, classifier):
        return self.concern


def run_certificate(classifier, data, certificate, positions):
    job = CertificateJob(
        key="k", classifier=classifier, data=data, threat=LINF, seed=3, certificate=certificate
    )
    with classifier.evaluation_mode():
        return job.run(positions)


@pytest.mark.parametrize("concern", ["model", "smoothed"])
def test_a_certificate_runs_on_images_and_is_compared_with_the_prediction(linear, data, concern, monkeypatch):
    clock = iter([100.0, 106.0])
    monkeypatch.setattr(certificate_job.time, "perf_counter", lambda: next(clock))
    batch = run_certificate(linear, data, Proving(concern=concern), [4, 10, 7])
    assert [row.position for row in batch.outcomes] == [4, 10, 7]
    assert [row.image for row in batch.outcomes] == ["made/4", "made/10", "made/7"]
    assert [row.certified for row in batch.outcomes] == [False, False, True]
    assert [row.status for row in batch.outcomes] == ["ok", "rejected", "ok"]
    assert [(row.radius, row.margin) for row in batch.outcomes] == [(0.0, 3.0), (1.0, 4.0), (2.0, 5.0)]
    own = int(concern == "model")  # the harness asks by itself where the proof is about this classifier
    assert [row.forward_passes for row in batch.outcomes] == [own, 2 + own, own]
    assert [row.backward_passes for row in batch.outcomes] == [0, 1, 0]
    assert {row.seconds for row in batch.outcomes} == {2.0}
    assert torch.equal(batch.candidates, data.images[[4, 10, 7]])


def test_a_certificate_that_asks_another_classifier_is_not_compared_with_this_one(linear, data):
    other = Classifier(linear.module, num_classes=4, name="other")

    class Elsewhere(Proving):
        def get_base_classifier(self, classifier):
            return other

    batch = run_certificate(linear, data, Elsewhere(), [4, 10])
    assert [row.forward_passes for row in batch.outcomes] == [0, 2]


def test_what_a_certificate_changes_is_put_back(linear, data):
    run_certificate(linear, data, Proving(leaves_autocast=True), [4, 10])
    assert not torch.is_autocast_enabled("cpu")
    assert "Proving changes the process-wide autocast; put back before verification" in linear.notes

    class Tampering(Proving):
        def certify(self, classifier, *given):
            classifier.module.weight.data.mul_(-1)
            return super().certify(classifier, *given)

    before = linear.module.weight.clone()
    with pytest.raises(ConfigError, match="Tampering: changed the model's weights"):
        run_certificate(linear, data, Tampering(), [4, 10])
    assert torch.equal(linear.module.weight, before)

    class Short(Proving):
        def certify(self, classifier, images, *given):
            return super().certify(classifier, images[:-1], *given)

    with pytest.raises(ConfigError, match="Short: predictions must be"):
        run_certificate(linear, data, Short(), [4, 10, 7])


@dataclass(frozen=True, kw_only=True)
class Viewing(EOTAttack):
    """Photographs."""

    norms = frozenset({"sticker"})
    views: int = 6

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        return images

    def estimate_cost(self, threat):
        return (100, 40) if self.views else (10, 4)


@dataclass(frozen=True, kw_only=True)
class Pretending(Priced):
    measure = "views"


def test_a_method_makes_the_job_that_it_declares(linear, data):
    given = {"key": "k", "classifier": linear, "data": data, "positions": None, "threat": LINF, "seed": 3}
    attack, surrogate = PGD(steps=1), Classifier(linear.module, num_classes=4, name="other")
    assert make_job(attack, **given) == AttackJob(attack=attack, **given)
    assert make_job(attack, surrogate=surrogate, **given).surrogate is surrogate
    assert make_job(Claiming(), **given) == CertificateJob(certificate=Claiming(), **given)
    sticker = make_job(Viewing(), **given)
    assert isinstance(sticker, StickerJob)
    assert (sticker.attack, sticker.test_views) == (Viewing(), 1000)
    assert make_job(Viewing(), test_views=7, **given).test_views == 7
    with pytest.raises(
        ConfigError, match=r"Pretending declares the measure 'views'\. Derive it from EOTAttack"
    ):
        make_job(Pretending(), **given)


@pytest.mark.parametrize(("views", "batch_size", "chunk"), [(6, 64, 10), (6, 5, 1), (0, 64, 64)])
def test_one_step_for_so_many_signs_fills_a_batch(linear, data, views, batch_size, chunk):
    job = make_views_job(linear, data, Viewing(views=views), threat=ThreatModel(norm="patch", eps=0.1))
    assert job.images_per_position == max(1, views)
    assert job.compute_chunk_size(batch_size) == chunk


def test_the_estimate_of_a_sticker_has_its_controls_and_all_views(linear, data):
    sticker = ThreatModel(norm="sticker", eps=0.4, targets=(1,), transformation="rectangles")
    job = make_views_job(linear, data, Viewing(), threat=sticker, test_views=50)
    # itself, of no size, without views, over the whole sign: four are crafted; six are photographed
    assert job.max_passes == (
        60 * (100 + 100 + 10 + 100 + 6 * 50 + 2 * 60 + 3),
        60 * (100 + 100 + 10 + 100) * 4 // 10,
    )
    noisy = make_views_job(
        Noisy(linear, draws=2, verdict_draws=5), data, Viewing(), threat=sticker, test_views=50
    )
    assert noisy.max_passes == (60 * (310 * 2 + 423 * 5), 60 * 124 * 2)


@pytest.mark.parametrize(("steps", "quick"), [(10, 4), (12, 4), (13, 5)])
def test_a_sticker_over_the_whole_sign_gets_a_third_of_the_steps(steps, quick):
    sticker = ThreatModel(norm="sticker", eps=0.4, targets=(1,), transformation="rectangles")
    whole = {condition: attack.steps for condition, attack, _ in list_controls(Viewing(steps=steps), sticker)}
    assert whole == {"no-size": steps, "without-views": steps, "whole-sign": quick}


def test_a_key_depends_on_every_part_and_on_no_order():
    key = cell_key({"a": "1", "b": "2"})
    assert key == cell_key({"b": "2", "a": "1"}) != cell_key({"a": "2", "b": "1"})
    assert (len(key), key) == (64, key.lower())


def test_a_goal_applies_to_images_of_other_classes_than_its_targets(data):
    few = replace(data, labels=torch.arange(60) % 4)
    everything = find_applicable_positions(few, LINF)
    assert everything.tolist() == list(range(60))
    assert find_applicable_positions(few, replace(LINF, targets=(1, 3))).tolist() == list(range(0, 60, 2))
    assert find_applicable_positions(few, replace(LINF, targets=(1,)), (1, 2)).tolist() == list(
        range(2, 60, 4)
    )
