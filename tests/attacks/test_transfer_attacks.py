"""MI-, DI-, TI- and VMI-FGSM: closed forms, references written out, and what may go wrong with gradients."""

from __future__ import annotations

import pytest
import torch
from attack_samples import Sample, build_classifier, build_linear_sample
from test_oracle import signed_margins, two_class_sample
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from robustbench_local.attacks.base import Attack, AttackInputs
from robustbench_local.attacks.core.losses import (
    compute_cross_entropy,
    compute_cross_entropy_to_target_set,
    compute_log_odds,
    compute_margin_to_target_set,
)
from robustbench_local.attacks.transfer.di_fgsm import DIFGSM, build_resize_matrices
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM, normalize_l1
from robustbench_local.attacks.transfer.ti_fgsm import TIFGSM, smooth_gradient
from robustbench_local.attacks.transfer.vmi_fgsm import VMIFGSM
from robustbench_local.errors import ConfigError, ThreatError
from robustbench_local.threats.lp_ball import compute_norms, sample_random_start
from robustbench_local.threats.threat_model import ThreatModel

LINF = ThreatModel(norm="Linf", eps="16/255")
L2 = ThreatModel(norm="L2", eps=0.6)
TARGETED = ThreatModel(norm="Linf", eps="16/255", targets=(1, 3))
ATTACKS: list[Attack] = [
    MIFGSM(),
    DIFGSM(probability=0.3),
    TIFGSM(kernel_size=3),
    VMIFGSM(steps=4, neighbours=3, probability=0.2),
]
"""Of 8 pixels a side, one less is a lot: the usual diversity would halve what an attack reaches."""


@pytest.mark.parametrize("threat", [LINF, L2, TARGETED], ids=str)
@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_every_image_walks_the_whole_path_inside_ball_and_box(
    small: Sample, attack: Attack, threat: ThreatModel
):
    sample = small.select_images((small.labels % 2 == 0).nonzero().flatten())
    before = sample.images.clone()
    with sample.classifier.count_passes(len(before)) as meter:
        candidates = sample.attack(attack, threat)
    forward, backward = attack.estimate_cost(threat)
    assert set(meter.forward_passes.tolist()) == {forward}
    assert set(meter.backward_passes.tolist()) == {backward}
    assert torch.equal(sample.images, before)
    assert candidates.dtype == torch.float32
    assert candidates.min() >= 0
    assert candidates.max() <= 1
    size = compute_norms(candidates.double() - before.double(), threat.norm)
    assert (size <= (threat.eps + 1e-6 if threat.norm == "Linf" else threat.eps * (1 + 1e-5))).all()
    # the path ends near the border of the ball, whether or not an image was fooled on the way
    assert (size > 0.6 * threat.eps).all()
    assert sample.find_adversarial(candidates, threat).float().mean() > 0.5


def test_a_target_set_is_approached(small: Sample):
    sample = small.select_images((small.labels % 2 == 0).nonzero().flatten())
    wanted = torch.tensor(TARGETED.targets)

    def standing(points: Tensor) -> Tensor:
        with torch.no_grad():
            return compute_margin_to_target_set(sample.classifier(points), sample.labels, wanted)

    assert (standing(sample.attack(MIFGSM(), TARGETED)) > standing(sample.images)).all()


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.01), ("L2", 0.07)])
def test_on_a_linear_model_the_path_is_straight_and_reaches_the_closed_form(norm: str, eps: float):
    sample = two_class_sample()
    weight = sample.classifier.model[1].weight.detach()
    dual = torch.linalg.vector_norm(weight[0] - weight[1], ord={"Linf": 1, "L2": 2}[norm])
    expected = signed_margins(sample, sample.images) - eps * float(dual)
    threat = ThreatModel(norm=norm, eps=eps)
    for attack in (MIFGSM(), MIFGSM(decay=0.3), MIFGSM(loss="margin"), VMIFGSM(steps=3, neighbours=2)):
        found = signed_margins(sample, sample.attack(attack, threat))
        assert torch.allclose(found, expected, atol=1e-4), repr(attack)


def test_without_their_ideas_the_others_are_mi_fgsm_to_the_bit(small: Sample):
    reference = small.attack(MIFGSM(), LINF)
    for attack in (DIFGSM(probability=0), DIFGSM(resize=1), TIFGSM(kernel_size=1), VMIFGSM(neighbours=0)):
        assert torch.equal(small.attack(attack, LINF), reference), repr(attack)
    for attack in (DIFGSM(), TIFGSM(kernel_size=3), VMIFGSM(neighbours=2)):
        assert not torch.equal(small.attack(attack, LINF), reference), repr(attack)


def test_resizing_is_bilinear_interpolation_and_padding():
    images = torch.rand(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    sizes, starts = [9, 8, 7, 5], [0, 1, 0, 3]
    matrices = build_resize_matrices(
        torch.tensor(sizes, dtype=torch.float32), torch.tensor(starts).float(), 9
    )[:, None]
    assert torch.equal(matrices[0, 0], torch.eye(9))
    found = matrices @ images @ matrices.mT
    for row, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        small = F.interpolate(images[row : row + 1], size=(size, size), mode="bilinear", align_corners=False)
        rest = 9 - size - start
        expected = F.pad(small, (start, rest, start, rest))[0]
        assert torch.allclose(found[row], expected, atol=1e-6)


def test_sizes_and_places_are_those_of_the_paper_each_equally_likely():
    images = torch.zeros(2000, 1, 32, 20)
    sample = Sample(
        build_classifier(lambda x: x.flatten(1)[:, :2], 2), images, torch.zeros(2000, dtype=torch.int64)
    )
    attack = DIFGSM()
    down, across = attack._draw_resize_matrices(case(sample, attack, LINF), "0")
    for matrices, side, least in ((down, 32, 28), (across, 20, 18)):
        rows = matrices[:, 0].sum(dim=2) > 0.5
        pixels, start = rows.sum(dim=1), rows.float().argmax(dim=1)
        assert 0.46 < float((pixels == side).float().mean()) < 0.54
        smaller = pixels[pixels < side]
        counts = torch.bincount(smaller)[least:]
        assert len(counts) == side - least
        assert (counts > 0.8 * len(smaller) / len(counts)).all()
        gaps = start[pixels == side - 1]
        assert 0.4 < float(gaps.float().mean()) < 0.6


def case(sample: Sample, attack: Attack, threat: ThreatModel) -> AttackInputs:
    return AttackInputs(
        sample.classifier, sample.images, sample.labels, threat, sample.build_stream(attack), None
    )


def test_the_gradient_through_the_resizing_is_that_of_autograd(small: Sample):
    attack = DIFGSM(probability=0.7)
    given = case(small, attack, LINF)
    found, values = attack._compute_gradient(given, small.images, "0")
    down, across = attack._draw_resize_matrices(given, "0")
    leaf = small.images.clone().requires_grad_()
    odds = compute_log_odds(small.classifier.model(down @ leaf @ across.mT), small.labels, torch.tensor([]))
    (expected,) = torch.autograd.grad(odds.sum(), leaf)
    assert torch.allclose(values, odds.detach(), atol=1e-4)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_smoothing_is_the_convolution_with_a_gaussian_of_a_third_of_its_radius():
    gradient = torch.randn(2, 3, 11, 9, generator=torch.Generator().manual_seed(1))
    place = torch.arange(-3, 4).float()
    bell = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 2)
    kernel = (bell / bell.sum()).expand(3, 1, 7, 7)
    assert torch.allclose(
        smooth_gradient(gradient, 7), F.conv2d(gradient, kernel, padding=3, groups=3), atol=1e-6
    )
    assert torch.equal(smooth_gradient(gradient, 1), gradient)
    assert smooth_gradient(gradient, 15).shape == gradient.shape


@pytest.mark.parametrize("threat", [LINF, L2, TARGETED], ids=str)
def test_vmi_is_algorithm_1_on_the_plain_cross_entropy(small: Sample, threat: ThreatModel):
    sample = small.select_images((small.labels % 2 == 0).nonzero().flatten())
    attack = VMIFGSM(steps=3, neighbours=4)
    targets, stream = torch.tensor(threat.targets), sample.build_stream(attack)

    def gradient(points: Tensor) -> Tensor:
        def loss(logits: Tensor) -> Tensor:
            return (
                compute_cross_entropy_to_target_set(logits, sample.labels, targets)
                if threat.targets
                else compute_cross_entropy(logits, sample.labels)
            )

        return sample.classifier.compute_gradient(points, loss)[2]

    points = sample.images
    variance = momentum = torch.zeros_like(points)
    wide = ThreatModel(norm=threat.norm, eps=1.5 * threat.eps)
    for step in range(3):
        here = gradient(points)
        slope = here + variance
        momentum = momentum + slope / slope.abs().sum(dim=(1, 2, 3), keepdim=True)
        around = [
            gradient(
                (
                    points
                    + sample_random_start(stream, (3, 8, 8), wide, draw=f"{step}/{number}", device="cpu")
                ).clamp(0, 1)
            )
            for number in range(4)
        ]
        variance = sum(around) / 4 - here
        length = threat.eps / 3
        if threat.norm == "Linf":
            points = points + length * momentum.sign()
        else:
            points = points + length * momentum / momentum.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        points = points.clamp(0, 1)
    found = sample.attack(attack, threat)
    assert ((found - points).abs() < 1e-4).float().mean() > 0.995


def test_log_odds_point_where_the_cross_entropy_points_and_never_saturate():
    generator = torch.Generator().manual_seed(2)
    logits = (3 * torch.randn(6, 4, generator=generator)).requires_grad_()
    labels, targets = torch.tensor([0, 1, 3, 0, 1, 3]), torch.tensor([2, 1])
    for chosen, loss in (
        (torch.tensor([]), compute_cross_entropy(logits, labels)),
        (targets, compute_cross_entropy_to_target_set(logits, labels, targets)),
    ):
        odds = compute_log_odds(logits, labels, chosen)
        likely = (-loss).exp() if not len(chosen) else loss.exp()
        sign = -1 if not len(chosen) else 1
        assert torch.allclose(odds, sign * (likely / (1 - likely)).log(), atol=1e-5)
        mine, theirs = (
            torch.autograd.grad(each.sum(), logits, retain_graph=True)[0] for each in (odds, loss)
        )
        assert torch.allclose(F.normalize(mine), F.normalize(theirs), atol=1e-5)
    sure = torch.tensor([[500.0, 0.0, 1.0]], requires_grad=True)
    (slope,) = torch.autograd.grad(compute_log_odds(sure, torch.tensor([0]), torch.tensor([])).sum(), sure)
    assert torch.allclose(slope, torch.tensor([[-1.0, 0.2689, 0.7311]]), atol=1e-4)


def test_a_saturated_softmax_does_not_stop_the_attacks(small: Sample):
    sure = Sample(build_classifier(lambda x: 1000 * small.classifier.model(x), 5), small.images, small.labels)
    _, _, flat = sure.classifier.compute_gradient(
        sure.images, lambda logits: compute_cross_entropy(logits, sure.labels)
    )
    frozen = ~flat.flatten(1).any(dim=1)
    assert frozen.float().mean() > 0.8
    for attack in ATTACKS:
        usual = small.find_adversarial(small.attack(attack, LINF), LINF)
        found = sure.find_adversarial(sure.attack(attack, LINF), LINF)
        assert int(found.sum()) >= int(usual.sum()) - 5, repr(attack)
        assert found[frozen].float().mean() > 0.5


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_nan_stays_with_its_image(small: Sample, attack: Attack):
    bad = torch.arange(96) % 8 == 0

    def sometimes_nan(images: Tensor) -> Tensor:
        # the blue of one corner pixel tells the images apart on their whole path
        logits = small.classifier.model(images)
        return torch.where(images[:, 2, 0, :1] > 0.9, torch.nan, logits)

    images = small.images.clone()
    images[:, 2, 0, 0] = torch.where(bad, 1.0, 0.4)
    usual = Sample(small.classifier, images, small.labels).attack(attack, LINF)
    found = Sample(build_classifier(sometimes_nan, 5), images, small.labels).attack(attack, LINF)
    assert torch.isfinite(found).all()
    assert ((found - usual)[~bad].abs() < 1e-6).float().mean() > 0.99


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_without_any_gradient_an_image_goes_its_own_random_way(small: Sample, norm: str):
    threat = ThreatModel(norm=norm, eps=0.1)
    flat = Sample(build_classifier(lambda x: 0 * x.flatten(1)[:, :5], 5), small.images, small.labels)
    found = flat.attack(MIFGSM(), threat)
    size = compute_norms(found - small.images, norm)
    assert (size > 0.05).all()
    half = Sample(flat.classifier, small.images[:1], small.labels[:1])
    assert torch.equal(half.attack(MIFGSM(), threat), found[:1])
    directions = F.normalize((found - small.images).flatten(1))
    assert (directions @ directions.T - torch.eye(96)).abs().max() < 0.6


def test_a_lost_image_finds_its_gradient_again(small: Sample):
    """A plateau around every image, as from a quantising defense: the random way leads off it."""

    def plateau(images: Tensor) -> Tensor:
        moved = (images - small.images).abs().amax(dim=(1, 2, 3)) > 0.02
        logits = small.classifier.model(images)
        return torch.where(moved[:, None], logits, logits.detach() + 0 * logits)

    found = Sample(build_classifier(plateau, 5), small.images, small.labels).attack(MIFGSM(steps=20), LINF)
    assert small.find_adversarial(found, LINF).float().mean() > 0.2


@pytest.mark.parametrize("attack", [DIFGSM(), VMIFGSM(steps=3, neighbours=2)], ids=repr)
def test_neither_batches_nor_order_decide(small: Sample, attack: Attack):
    whole = small.attack(attack, LINF)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    stream = small.build_stream(attack)
    for rows in order.split(7):
        part = attack.perturb(
            small.classifier, small.images[rows], small.labels[rows], LINF, stream.select_images(rows)
        )
        assert ((part - whole[rows]).abs() < 1e-6).float().mean() > 0.99
        assert (
            int(
                (
                    small.select_images(rows).find_adversarial(part, LINF)
                    ^ small.find_adversarial(whole, LINF)[rows]
                ).sum()
            )
            == 0
        )


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_outside_the_mask_no_bit_changes(small: Sample, attack: Attack):
    threat = ThreatModel(norm="Linf", eps=0.3, region="mask")
    masks = torch.rand(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)) > 0.6
    found = small.attack(attack, threat, masks)
    outside = ~masks.expand_as(found)
    assert torch.equal(found[outside], small.images[outside])
    assert small.find_adversarial(found, threat).float().mean() > 0.5


@pytest.mark.parametrize("attack", ATTACKS, ids=repr)
def test_nothing_to_do_costs_nothing(small: Sample, attack: Attack):
    none = ThreatModel(norm="Linf", eps=0)
    with small.classifier.count_passes(96) as meter:
        assert torch.equal(small.attack(attack, none), small.images)
        assert small.select_images(torch.arange(0)).attack(attack, LINF).shape == (0, 3, 8, 8)
    assert not meter.forward_passes.any()
    assert attack.estimate_cost(none) == (0, 0)


def test_unit_l1_survives_gradients_at_the_ends_of_the_float_range():
    rows = torch.tensor([[1e-42, -1e-42], [3e38, 1e38], [0, 0], [torch.nan, 1], [torch.inf, 1]])
    found = normalize_l1(rows[:, :, None, None]).flatten(1)
    expected = torch.tensor([[0.5, -0.5], [0.75, 0.25], [0, 0], [0, 1], [0, 1]])
    assert torch.allclose(found, expected, atol=1e-3)


WRONG = {
    "at least 1 step": lambda: MIFGSM(steps=0),
    "step_size must be above 0": lambda: MIFGSM(step_size=0.0),
    "decay must be at least 0": lambda: DIFGSM(decay=-1.0),
    "unknown loss": lambda: MIFGSM(loss="hinge"),
    "probability must be in": lambda: TIFGSM(probability=1.5),
    "resize must be above 0": lambda: DIFGSM(resize=0.0),
    "kernel_size must be odd": lambda: TIFGSM(kernel_size=4),
    "0 or more neighbours": lambda: VMIFGSM(neighbours=-1),
    "beta must be above 0": lambda: VMIFGSM(beta=0.0),
}


@pytest.mark.parametrize("message", WRONG)
def test_impossible_numbers_are_refused(message: str):
    with pytest.raises(ConfigError, match=message):
        WRONG[message]()


def test_a_loss_that_is_not_defined_is_refused(small: Sample):
    with pytest.raises(ThreatError, match="DLR"):
        MIFGSM(loss="dlr").check_support(TARGETED, small.classifier)


def test_the_resizing_s_clamp_hides_no_pixel_at_the_border():
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(4, 3, 8, 8, generator=generator) > 0.5).float()  # nothing but black and white
    weights = 0.05 * torch.randn(3, 192, generator=generator)
    sample, attack = build_linear_sample(weights, torch.zeros(3), images), DIFGSM(probability=1.0, resize=0.9)
    case = AttackInputs(sample.classifier, images, sample.labels, LINF, sample.build_stream(attack), None)
    slope, _ = attack._compute_gradient(case, images, "0")
    down, across = attack._draw_resize_matrices(case, "0")
    leaf = images.clone().requires_grad_()
    logits = (down @ leaf @ across.mT).flatten(1) @ weights.T
    (expected,) = torch.autograd.grad(attack._build_objective(case)(logits).sum(), leaf)
    assert torch.allclose(slope, expected, atol=1e-6)
    assert (slope != 0).float().mean() > 0.7
