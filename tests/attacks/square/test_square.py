"""Square: its windows and patterns against their definitions, its promises, and its verdicts."""

from __future__ import annotations

import itertools

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from torch import Tensor

from robustbench_local.attacks.core.engine import Engine
from robustbench_local.attacks.core.search import PointEvaluation
from robustbench_local.attacks.square.square import Square, SquareSearch
from robustbench_local.attacks.square.windows import (
    Windows,
    build_bump_patterns,
    build_tiled_patterns,
    compute_window_sides,
)
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ConfigError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.lp_ball import compute_norms
from robustbench_local.threats.threat_model import ThreatModel

CPU = torch.device("cpu")
LINF, L2, L1 = (ThreatModel(norm=norm, eps=eps) for norm, eps in (("Linf", "36/255"), ("L2", 1.6), ("L1", 6)))
THREATS = [LINF, L2, L1]
IDS = tuple(f"image-{row}" for row in range(96))


def pyramid(height: int, width: int, exponent: int) -> Tensor:
    """Equation 2 of the paper, pixel by pixel."""
    middle, levels = (height // 2, width // 2), max(height, width) // 2 + 1
    values = torch.zeros(height, width)
    for row, column in itertools.product(range(height), range(width)):
        ring = max(abs(row - middle[0]), abs(column - middle[1]))
        values[row, column] = sum(1 / (level + 1) ** exponent for level in range(ring, levels))
    return values


@pytest.mark.parametrize(("power", "exponent"), [(2, 2), (1, 4)])
@pytest.mark.parametrize("side", [1, 2, 3, 5, 9])
def test_bumps_are_the_papers_pattern(side: int, power: int, exponent: int):
    upper, lower = pyramid(side // 2, side, exponent), pyramid(side - side // 2, side, exponent)
    halves = [half / torch.linalg.vector_norm(half, power) for half in (upper, lower)]
    expected = torch.cat([halves[0], -halves[1]]) if side > 1 else -halves[1]
    expected = expected / torch.linalg.vector_norm(expected, power)
    assert torch.allclose(build_bump_patterns(side, power)[0], expected, atol=1e-6)
    assert torch.equal(build_bump_patterns(side, power)[1], build_bump_patterns(side, power)[0].t())


def test_window_sides_follow_the_schedule():
    sides = compute_window_sides(10_000, 0.8, 32, 32)
    halvings = (0, 10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    for step in (0, 10, 11, 50, 51, 999, 1001, 4001, 9999):
        share = 0.8 / 2 ** (sum(step > after for after in halvings[1:]))
        assert sides[step] == round((share * 1024) ** 0.5)
    assert compute_window_sides(1000, 0.8, 32, 32, rescale=True) == sides[::10]
    assert compute_window_sides(1000, 0.8, 32, 32) == sides[:1000]
    odd = compute_window_sides(10_000, 0.8, 32, 32, min_side=3, odd=True)
    assert {side % 2 for side in odd} == {1}
    assert min(odd) == 3
    assert compute_window_sides(3, 1.0, 4, 9, min_side=3, odd=True) == [4, 4, 4]
    assert compute_window_sides(9000, 0.1, 2, 2)[-1] == 1


def test_windows_of_different_sides_are_each_images_own():
    shape, sides = (2, 6, 7), (1, 3, 4)
    which, corners = torch.tensor([2, 0, 1]), torch.tensor([8, 20, 0])
    windows = Windows(sides, shape, CPU, which)
    images = torch.rand(3, *shape)
    values = images.flatten(1).gather(1, windows.locate_pixels(corners[:, None]))
    patterns = windows.select_patterns(torch.tensor([0, 0, 1]), 2)
    for row, (number, corner) in enumerate(zip(which.tolist(), corners.tolist(), strict=True)):
        side, top, left = sides[number], corner // 7, corner % 7
        window = images[row, :, top : top + side, left : left + side]
        assert torch.allclose(windows.sum_channels(values)[row], window.sum(dim=(1, 2)))
        painted = torch.full((42,), torch.nan)
        painted[windows.locate_pixels(corners[:, None])[row, :16]] = patterns[row]
        found = painted.view(6, 7)[top : top + side, left : left + side]
        assert torch.equal(found, build_bump_patterns(side, 2)[1 if row == 2 else 0])
        assert int(torch.isfinite(painted).sum()) == side * side


def test_tiles_cover_the_image_with_bumps():
    signs = torch.tensor([1.0, -1.0]).repeat(25).view(1, 2, 5, 5)
    picture = build_tiled_patterns(signs, torch.zeros(1, 5, 5, dtype=torch.int64), 17, 16, 2)
    assert picture.shape == (1, 2, 17, 16)
    assert torch.equal(picture[0, 0, 1:4, 0:3], signs[0, 0, 0, 0] * build_bump_patterns(3, 2)[0])
    assert not picture[0, :, 16].any()
    assert not picture[0, :, :, 15].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_the_corner_of_the_ball_is_found_on_a_linear_model(channels: int):
    generator = torch.Generator().manual_seed(channels)
    weights = torch.randn(2, 9 * channels, generator=generator)
    images = torch.rand(4, channels, 3, 3, generator=generator)
    # a constant that keeps the label out of reach, so that the search goes on to its end
    sample = build_linear_sample(weights, torch.tensor([50.0, 0.0]), images)
    attack, threat = Square(queries=400, rescale=True), ThreatModel(norm="Linf", eps=0.2)
    slope = (weights[1] - weights[0]).sign().view(1, channels, 3, 3)
    assert torch.equal(sample.attack(attack, threat), (images + 0.2 * slope).clamp(0, 1))


def proposal(
    image: Tensor, point: Tensor, power: int, eps: float, window: list[int], side: int
) -> list[Tensor]:
    """Algorithm 3 for one image of one channel: the proposals for either sign."""
    here, there, turned = window
    width = image.shape[-1]
    first, second = (
        (0, slice(at // width, at // width + side), slice(at % width, at % width + side))
        for at in (here, there)
    )
    delta, mask = point - image, torch.zeros_like(image)
    mask[first] = mask[second] = 1
    budget = ((delta * mask).abs() ** power).sum() + (eps**power - (delta.abs() ** power).sum()).clamp_min(0)
    found = []
    for sign in (1, -1):
        size = torch.linalg.vector_norm(delta[first], power) + 1e-30
        mixed = delta[first] / size + sign * build_bump_patterns(side, power)[turned]
        painted = delta.clone()
        painted[second] = 0
        painted[first] = mixed / torch.linalg.vector_norm(mixed, power) * budget ** (1 / power)
        found.append((image + painted).clamp(0, 1))
    return found


@pytest.mark.parametrize(("norm", "power", "eps"), [("L2", 2, 0.7), ("L1", 1, 4.0)])
def test_steps_under_l2_and_l1_are_the_papers(norm: str, power: int, eps: float):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 9, 8, generator=generator)
    sample = build_linear_sample(torch.randn(2, 72, generator=generator), torch.tensor([99.0, 0.0]), images)
    engine = Engine(sample.classifier, images, sample.labels, RandomStream(0, IDS[:5], "a"))
    search = SquareSearch(threat=ThreatModel(norm=norm, eps=eps), steps=80)
    front = engine._start_items(search, engine.build_items())
    for step in range(80):
        logits = sample.classifier(front.points)
        search.update_best_points(front, search.score_points(front, logits)[0])
        accepted = front.best_points.clone()
        assert torch.equal(front.points, accepted)
        search.step(front, front.state, PointEvaluation(logits=logits, losses=logits, gradient=logits))
        front.increment_ages()
        side = compute_window_sides(80, 0.8, 9, 8, min_side=3, odd=True)[step]
        for row, window in enumerate(front.state.windows.tolist()):
            expected = proposal(images[row], accepted[row], power, eps, window, side)
            assert min(float((front.points[row] - each).abs().max()) for each in expected) < 2e-5


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_rejected_squares_leave_no_trace(threat: ThreatModel):
    asked: list[Tensor] = []

    def forward(batch: Tensor) -> Tensor:
        asked.append(batch.clone())
        return torch.tensor([[1.0, 0.0]]).expand(len(batch), 2)

    sample = Sample(build_classifier(forward, 2), torch.rand(2, 1, 20, 20), torch.tensor([0, 0]))
    sample.attack(Square(queries=120), threat)
    start, sides = asked[0], compute_window_sides(119, 0.8, 20, 20, min_side=1 if threat == LINF else 3)
    assert len(asked) == 120
    for points, side in zip(asked[1:], sides, strict=True):
        changed = (points != start).flatten(1).sum(dim=1)
        assert (changed <= (1 if threat == LINF else 2) * (side + 1) ** 2).all()
    assert any((points != start).any() for points in asked)


@pytest.mark.parametrize("goal", ["untargeted", "targeted"])
@pytest.mark.parametrize("threat", [*THREATS, ThreatModel(norm="L2", eps=1e-4)], ids=str)
def test_ball_box_and_budget_are_kept(small: Sample, threat: ThreatModel, goal: str):
    if goal == "targeted":
        threat = ThreatModel(norm=threat.norm, eps=threat.eps, targets=(1, 3))
    before, attack = small.images.clone(), Square(queries=40, restarts=2)
    with small.classifier.count_passes(96, attack.queries) as meter:
        candidates = small.attack(attack, threat)
    assert torch.equal(small.images, before)
    assert ((candidates >= 0) & (candidates <= 1)).all()
    size = compute_norms(candidates.double() - before.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    broken = small.find_adversarial(candidates, threat)
    assert (meter.forward_passes[~broken] == 40).all()
    assert (meter.forward_passes <= 40).all()
    assert not meter.backward_passes.any()
    assert attack.estimate_cost(threat) == (40, 0)
    if threat.eps > 1e-3:
        assert 4 <= int(broken.sum()) <= 92


def found(sample: Sample, attack: Square, threat: ThreatModel, order: list[int], size: int | None) -> Tensor:
    """Candidates in the order of the data, searched in another order and in batches of ``size``."""
    classifier = Classifier(sample.classifier.model, num_classes=5)
    classifier.configure(batch_size=size)
    candidates = torch.full_like(sample.images, torch.nan)
    stream = RandomStream(0, tuple(IDS[row] for row in order), "square")
    with classifier.evaluation_mode():
        candidates[order] = attack.perturb(
            classifier, sample.images[order], sample.labels[order], threat, stream
        )
    return candidates


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_verdicts_do_not_depend_on_company_or_refills(small: Sample, threat: ThreatModel):
    attack, order = Square(queries=30), list(range(30))
    reference = small.find_adversarial(found(small, attack, threat, order, 30), threat)[:30]
    assert 0.06 < float(reference.float().mean()) < 0.9
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0)).tolist()
    for chosen, size in ((order, 13), (shuffled, 30), (shuffled[:5], 2)):
        verdicts = small.find_adversarial(found(small, attack, threat, chosen, size), threat)
        assert torch.equal(verdicts[chosen], reference[chosen])


def whole_numbers(images: Tensor) -> Tensor:
    """Logits without rounding, whatever the batch: sums of whole numbers."""
    generator = torch.Generator().manual_seed(5)
    weights = torch.randint(-3, 4, (3, images[0].numel()), generator=generator).float()
    levels = (images * 255).round().flatten(1)
    return (levels @ weights.t() + torch.tensor([1500.0, 0.0, 0.0])) / 1024


@pytest.mark.parametrize(("threat", "size"), [(LINF, 160), (L2, 256), (L1, 160)], ids=str)
def test_looking_ahead_finds_the_same_points_in_fewer_passes(threat: ThreatModel, size: int):
    images = torch.rand(9, 2, 10, 9, generator=torch.Generator().manual_seed(2))
    threat = ThreatModel(norm=threat.norm, eps=threat.eps / 6)
    results = []
    for ahead in (False, True):
        passes: list[int] = []

        def forward(batch: Tensor, passes: list[int] = passes) -> Tensor:
            passes.append(len(batch))
            return whole_numbers(batch)

        classifier = build_classifier(forward, 3)
        classifier.configure(batch_size=size)
        labels = whole_numbers(images).argmax(dim=1)
        with classifier.evaluation_mode(), classifier.count_passes(9) as meter:
            engine = Engine(classifier, images, labels, RandomStream(0, IDS[:9], "square"))
            search = SquareSearch(threat=threat, steps=150, use_lookahead=ahead)
            for restart in range(2):
                engine.run(search, engine.build_items(restart))
        results.append((engine, passes, meter.forward_passes))
    (plain, one, looks), (ahead, many, more) = results
    # sums over windows stored beside larger ones may round otherwise; under Linf there are none
    assert torch.allclose(ahead.points, plain.points, rtol=0, atol=0 if threat.norm == "Linf" else 1e-6)
    assert torch.equal(ahead.scores, plain.scores)
    assert 1 <= int(plain.finished.sum()) <= 8
    assert max(many) <= size
    assert len(many) < 0.8 * len(one)
    assert (looks[~plain.finished] == 2 * 151).all()
    assert (more <= 2 * (151 + search.lookahead_budget)).all()
    assert float(more.sum() / looks.sum()) < 1.2


def test_looking_ahead_in_vain_has_an_end():
    """A classifier for which everything helps at last: an item that looks far ahead gives it up."""
    calls = 0

    def forward(batch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        helps = (torch.arange(len(batch)) + calls) % 4 == 1  # as if most looks ahead were wrong
        return torch.stack([torch.full((len(batch),), 1e6 - calls), helps * 1.0 + calls], dim=1)

    sample = Sample(build_classifier(forward, 2), torch.rand(1, 1, 8, 8), torch.tensor([0]))
    with sample.classifier.evaluation_mode(), sample.classifier.count_passes(1) as meter:
        engine = Engine(sample.classifier, sample.images, sample.labels, RandomStream(0, IDS[:1], "square"))
        search = SquareSearch(threat=LINF, steps=800, use_lookahead=True)
        engine.run(search, engine.build_items())
    assert 801 < int(meter.forward_passes) <= 801 + search.lookahead_budget == 1001


def test_a_point_where_the_answer_is_not_finite_ends_the_search(small: Sample):
    def forward(images: Tensor) -> Tensor:
        bad = (images[:, 0, 0, 0] > 0.5)[:, None]
        return torch.where(bad, torch.nan, torch.tensor([[1.0, 0.0]]))

    sample = Sample(build_classifier(forward, 2), torch.full((2, 1, 5, 5), 0.45), torch.tensor([0, 0]))
    candidates = sample.attack(Square(queries=200), ThreatModel(norm="Linf", eps=0.1))
    assert (candidates[:, 0, 0, 0] > 0.5).all()
    assert torch.isfinite(candidates).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_tiny_images_and_two_classes_break_where_they_can(norm: str, side: int):
    images = torch.full((3, 1, side, side + 1), 0.5)
    weights = torch.ones(2, images[0].numel()) * torch.tensor([[0.0], [1.0]])
    sample = build_linear_sample(weights, torch.tensor([0.1 + 0.5 * images[0].numel(), 0.0]), images)
    threat = ThreatModel(norm=norm, eps=0.45 if norm != "L1" else 0.9)
    assert sample.find_adversarial(sample.attack(Square(queries=400, rescale=True), threat), threat).all()


def test_scores_are_all_it_needs():
    assert Square().knowledge == "scores"
    black_box = Classifier(lambda images: images.flatten(1)[:, :2] * 9, num_classes=2)
    Square().check_support(LINF, black_box)
    assert Square(queries=10).estimate_cost(ThreatModel(norm="Linf", eps=0)) == (0, 0)
    sample = Sample(black_box, torch.full((0, 1, 2, 2), 0.5), torch.zeros(0, dtype=torch.int64))
    assert sample.attack(Square(queries=10), LINF).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    "wrong", [{"queries": 1}, {"restarts": 0}, {"queries": 9, "restarts": 5}, {"p": 0.0}]
)
def test_impossible_hyper_parameters_are_refused(wrong: dict[str, float]):
    with pytest.raises(ConfigError, match="Square"):
        Square(**wrong)


@pytest.mark.slow
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_as_many_images_stand_as_against_pyautoattack(small: Sample, threat: ThreatModel):
    from pyautoattack.square import SquareAttack

    class Peer(SquareAttack):
        """Unlike the paper's, its windows never reach the last row and column: much, on 8 x 8 pixels."""

        def random_int(self, low=0, high=1, shape=(1,)):
            return super().random_int(low, high + 1, shape)

    module, ours, theirs = small.classifier.as_module().eval(), [], []
    for seed in range(2):
        attack = Square(queries=200)
        with small.classifier.evaluation_mode():
            stream = small.build_stream(attack, seed)
            candidates = attack.perturb(small.classifier, small.images, small.labels, threat, stream)
        ours.append(small.find_adversarial(candidates, threat))
        peer = Peer(module, threat.norm, 199, threat.eps, seed=seed, resc_schedule=False)
        with torch.random.fork_rng([]), torch.no_grad():
            theirs.append(small.find_adversarial(peer.perturb(small.images, small.labels), threat))
    counts = [torch.stack(each).sum(dim=1).float().mean() for each in (ours, theirs)]
    assert 10 < counts[1] < 86
    assert abs(float(counts[0] - counts[1])) <= 7
    pooled = [int(torch.stack(each).any(dim=0).sum()) for each in (ours, theirs)]
    assert abs(pooled[0] - pooled[1]) <= 8
