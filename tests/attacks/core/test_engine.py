"""The engine: who is in the batch, who leaves, what is kept and what is paid for."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass

import pytest
import torch
from attack_samples import Sample, build_classifier
from torch import Tensor

from robustbench_local.attacks.apgd.lp_search import APGDSearch
from robustbench_local.attacks.core.engine import Engine, compute_default_batch_size
from robustbench_local.attacks.core.expectation import CONFIRMATION_DRAWS
from robustbench_local.attacks.core.objective import compute_success_margin
from robustbench_local.attacks.core.search import PointEvaluation, Search
from robustbench_local.attacks.core.work_items import ActiveSet, TensorTable, WorkItems
from robustbench_local.attacks.pgd import PGD, PGDSearch
from robustbench_local.classifier import Classifier
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps=1)
IDS = tuple(map(str, range(64)))


@dataclass(kw_only=True)
class Count(TensorTable):
    """How often an item was asked for a step."""

    steps: Tensor


class Walk(Search[Count]):
    """Adds a tenth to the only pixel at each step; an item that steers for class t begins at t tenths."""

    def __init__(self, steps: int) -> None:
        self.threat, self.steps, self.name = LINF, steps, "walk"
        self.batches: list[list[int]] = []

    def start_items(self, front: ActiveSet, stream: RandomStream, draws: list[str]) -> Count:
        if front.targets is not None:
            front.points = front.points + 0.1 * front.targets.view(-1, 1, 1, 1)
        return Count(steps=torch.zeros(len(front)))

    def step(self, front: ActiveSet, state: Count, seen: PointEvaluation) -> Tensor:
        assert state.steps.tolist() == front.age.tolist()
        self.batches.append(front.rows.tolist())
        state.steps = state.steps + 1
        return (front.points + 0.1).clamp(max=1.0)


def walked(goals: list[float], steps: int, size: int, targets: Tensor | None = None, between: int = 1, **how):
    """One black pixel an image; the image falls once the pixel exceeds its goal, which it can see."""
    images = torch.zeros(len(goals), 1, 1, 2)
    images[:, 0, 0, 1] = torch.tensor(goals)

    def forward(batch: Tensor) -> Tensor:
        pixel, goal = batch[:, 0, 0, 0], batch[:, 0, 0, 1]
        return torch.stack([goal - pixel + 0.05, torch.zeros_like(pixel)], dim=1)

    class Only(Walk):
        def step(self, front: ActiveSet, state: Count, seen: PointEvaluation) -> Tensor:
            moved = super().step(front, state, seen)
            return torch.cat([moved[..., :1], front.originals[..., 1:]], dim=-1)

    classifier = build_classifier(forward, 2)
    classifier.configure(batch_size=size)
    engine = Engine(
        classifier,
        images,
        torch.zeros(len(goals), dtype=torch.int64),
        RandomStream(0, IDS[: len(goals)], "x"),
        **how,
    )
    engine._steps_between_syncs = between
    search = Only(steps)
    with classifier.count_passes(len(goals)) as meter:
        engine.run(search, engine.build_items(targets=targets))
    return engine, search, meter


def test_an_image_leaves_with_its_first_success_and_the_next_one_takes_its_place():
    goals = [0.3, 0.0, 0.5, 0.1, 0.4, 0.2]
    engine, search, meter = walked(goals, steps=9, size=2)
    assert engine.finished.all()
    assert torch.allclose(engine.points[:, 0, 0, 0], torch.tensor(goals) + 0.1, atol=1e-5)
    # the pixel passes the goal plus .05 one step after the goal: looks at 0, .1, ... goal + .1
    assert meter.forward_passes.tolist() == [round(goal * 10) + 2 for goal in goals]
    assert max(len(batch) for batch in search.batches) == 2
    assert [0, 2] in search.batches
    assert [0, 1] in search.batches


def test_results_and_passes_do_not_depend_on_the_size_of_the_batch():
    goals = [round(0.07 * (k % 13), 2) for k in range(23)]
    once, _, paid = walked(goals, steps=8, size=64)
    for size in (1, 2, 5, 23):
        again, _, spent = walked(goals, steps=8, size=size)
        assert torch.equal(again.points, once.points)
        assert torch.equal(again.finished, once.finished)
        assert spent.forward_passes.tolist() == paid.forward_passes.tolist()
    assert 5 < int(once.finished.sum()) < 23


def test_a_path_that_finds_nothing_costs_its_steps_and_one_look_and_returns_its_best_point():
    engine, _, meter = walked([5.0, 5.0], steps=6, size=1)
    assert meter.forward_passes.tolist() == [7, 7]
    assert not engine.finished.any()
    assert torch.allclose(engine.points[:, 0, 0, 0], torch.tensor(0.6))
    assert torch.allclose(engine.scores, torch.tensor(-4.45))


def test_siblings_of_a_broken_image_stop_at_once_and_those_waiting_never_start():
    targets = torch.tensor([[0, 4, 2], [1, 0, 3]])
    engine, search, meter = walked([0.37, 9.0], steps=5, size=6, targets=targets)
    # image 0 falls at the second look of the item that begins at .4; its two siblings see both looks too
    assert meter.forward_passes.tolist() == [6, 18]
    assert engine.finished.tolist() == [True, False]
    assert float(engine.points[0, 0, 0, 0]) == pytest.approx(0.5)
    assert float(engine.points[1, 0, 0, 0]) == pytest.approx(0.8)
    _, search, meter = walked([0.37, 9.0], steps=5, size=1, targets=targets)
    assert search.batches[0] == [0]
    # one at a time: all of the path from 0, which falls at its end, and nothing of the other two
    assert meter.forward_passes.tolist() == [6, 18]


def test_first_targets_stand_before_any_second_one():
    images = torch.zeros(3, 1, 1, 1)
    engine = Engine(
        build_classifier(lambda x: x.flatten(1).expand(-1, 2), 2),
        images,
        torch.zeros(3).long(),
        RandomStream(0, IDS[:3], "x"),
    )
    engine.finished[1] = True
    items = engine.build_items(
        restart=4, targets=torch.tensor([[5, 6], [7, 8], [9, 1]]), eps=torch.tensor([1.0, 2, 3])
    )
    assert items.rows.tolist() == [0, 2, 0, 2]
    assert items.targets.tolist() == [5, 9, 6, 1]
    assert items.restarts.tolist() == [4] * 4
    assert items.eps.tolist() == [1, 3, 1, 3]


def test_asking_seldom_as_on_a_gpu_gives_the_same_results_for_a_few_more_passes():
    goals = [round(0.05 * k, 2) for k in range(20)]
    often, _, paid = walked(goals, steps=9, size=7)
    seldom, _, spent = walked(goals, steps=9, size=7, between=4)
    assert torch.equal(seldom.finished, often.finished)
    # an item keeps the best point it saw, which is at least as far beyond the goal
    assert (seldom.scores >= often.scores).all()
    assert (spent.forward_passes >= paid.forward_passes).all()
    assert int((spent.forward_passes - paid.forward_passes).max()) <= 4


def test_without_early_stopping_every_step_is_taken_and_the_best_point_kept():
    engine, _, meter = walked([0.1, 0.6], steps=4, size=2, early_stop=False)
    assert meter.forward_passes.tolist() == [5, 5]
    assert not engine.finished.any()
    assert engine.scores[0] > 0 > engine.scores[1]


def test_draws_are_averaged_and_paid_for():
    noise = iter([0.5, -0.5, 1.5, -1.5] * 50)
    images = torch.full((1, 1, 1, 1), 0.5)
    classifier = build_classifier(
        lambda x: torch.stack([x.flatten() * 0 + 1, x.flatten() + next(noise)], dim=1), 2
    )
    engine = Engine(classifier, images, torch.tensor([0]), RandomStream(0, ("a",), "x"), eot_samples=4)
    with classifier.evaluation_mode(), classifier.count_passes(1) as meter:
        engine.run(
            PGDSearch(attack=PGD(steps=3, random_start=False), threat=ThreatModel(norm="Linf", eps=0.3)),
            engine.build_items(),
        )
    assert meter.forward_passes.tolist() == [16 + 2 * CONFIRMATION_DRAWS]
    assert meter.backward_passes.tolist() == [12]
    assert float(engine.scores) == pytest.approx(0.0, abs=0.03)  # half of the draws succeed


def test_items_may_have_radii_of_their_own(small: Sample):
    radii = torch.linspace(0.001, 0.05, len(small.images))
    engine = Engine(small.classifier, small.images, small.labels, small.build_stream(PGD()), early_stop=False)
    with small.classifier.evaluation_mode():
        engine.run(
            APGDSearch(threat=ThreatModel(norm="Linf", eps=9), steps=3, loss="ce"),
            engine.build_items(eps=radii),
        )
    size = (engine.points - small.images).flatten(1).abs().amax(dim=1)
    assert (size <= radii + 1e-6).all()
    assert (size > 0.9 * radii).float().mean() > 0.8


def test_the_score_is_the_margin_of_the_point_that_comes_back(small: Sample):
    threat = ThreatModel(norm="Linf", eps="12/255")
    engine = Engine(small.classifier, small.images, small.labels, small.build_stream(PGD()))
    with small.classifier.evaluation_mode(), torch.no_grad():
        engine.run(PGDSearch(attack=PGD(steps=5), threat=threat), engine.build_items())
        margins = compute_success_margin(small.classifier(engine.points), small.labels, threat)
    assert torch.allclose(engine.scores, margins, atol=1e-4)
    assert torch.equal(engine.finished, engine.scores > 0)


def test_tables_pick_and_join_every_column():
    @dataclass(kw_only=True)
    class Table(WorkItems):
        inner: Count

    def table(rows: list[int]) -> Table:
        numbers = torch.tensor(rows)
        return Table(rows=numbers, restarts=numbers * 10, targets=None, inner=Count(steps=numbers * 100))

    both = table([1, 2]).append_rows(table([3])).select_rows(torch.tensor([2, 0]))
    assert both.rows.tolist() == [3, 1]
    assert both.restarts.tolist() == [30, 10]
    assert both.inner.steps.tolist() == [300, 100]
    assert both.targets is None


def test_the_batch_fits_the_images_when_nobody_says_otherwise():
    assert compute_default_batch_size(torch.zeros(5, 3, 32, 32)) == 128
    assert compute_default_batch_size(torch.zeros(5, 1, 28, 28)) == 256
    assert compute_default_batch_size(torch.zeros(5, 3, 224, 224)) == 2
    assert compute_default_batch_size(torch.zeros(0, 3, 32, 32)) >= 2


def test_a_search_in_bf16_drops_no_image_that_holds_in_float32(small: Sample):
    threat = ThreatModel(norm="Linf", eps="12/255")
    looks: list[bool] = []

    class Watched(Classifier):
        def __call__(self, images, rows=None):
            looks.append(torch.is_autocast_enabled("cpu"))
            return super().__call__(images, rows)

    def found(precision: str) -> tuple[Tensor, Tensor]:
        classifier = Watched(small.classifier.model, num_classes=5)
        classifier.configure(search_precision=precision)
        engine = Engine(classifier, small.images, small.labels, small.build_stream(PGD()))
        with classifier.evaluation_mode():
            engine.run(PGDSearch(attack=PGD(steps=8), threat=threat), engine.build_items())
        return engine.finished, small.find_adversarial(engine.points, threat)

    exact, broken = found("fp32")
    assert not any(looks)
    assert torch.equal(exact, broken)
    quick, really = found("bf16")
    assert any(looks)
    assert not all(looks)
    assert really[quick].all()
    # how often the two part depends on the processor's bf16
    assert (quick ^ exact).float().mean() < 0.2


def test_what_bf16_takes_for_a_success_and_float32_does_not_stays_in_the_search():
    def forward(images: Tensor) -> Tensor:
        pixel = images.flatten(1)[:, 0]
        ahead = 0.5 if torch.is_autocast_enabled("cpu") else -0.5
        return torch.stack([pixel * 0, pixel - 0.7 + ahead], dim=1)

    classifier = build_classifier(forward, 2)
    classifier.configure(search_precision="bf16")
    images = torch.full((1, 1, 1, 1), 0.5)
    engine = Engine(classifier, images, torch.tensor([0]), RandomStream(0, ("a",), "x"))
    attack = PGD(steps=4, step_size=0.1, random_start=False)
    with classifier.evaluation_mode():
        engine.run(PGDSearch(attack=attack, threat=ThreatModel(norm="Linf", eps=0.4)), engine.build_items())
    assert not engine.finished.any()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps_lead_to_the_same_points(small: Sample):
    threat = ThreatModel(norm="Linf", eps="12/255")
    points = []
    for compiled in (False, True):
        small.classifier.configure(compile_steps=compiled)
        engine = Engine(small.classifier, small.images, small.labels, small.build_stream(PGD()))
        with small.classifier.evaluation_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            engine.run(PGDSearch(attack=PGD(steps=5), threat=threat), engine.build_items())
        points.append(engine.points)
    small.classifier.configure(compile_steps=False)
    assert torch.allclose(*points, atol=1e-6)
