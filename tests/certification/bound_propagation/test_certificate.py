"""The certificates by bounds: what they claim about classifiers, and that no attack contradicts it."""

from __future__ import annotations

import copy

import bound_samples as samples
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robustbench_local.attacks.pgd import PGD
from robustbench_local.certification import make_certificate
from robustbench_local.certification.base import CertifiedBatch
from robustbench_local.certification.bound_propagation import certificate as proof
from robustbench_local.certification.bound_propagation.certificate import BoundCertificate
from robustbench_local.certification.bound_propagation.crown import CROWN
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.config.cards import list_cards
from robustbench_local.data.data_sources import load_dataset
from robustbench_local.errors import ConfigError, ModelError, ThreatError
from robustbench_local.evaluation.harness import verify
from robustbench_local.models.networks.small_networks import ResNet2b, SmallCNN, strided_cnn
from robustbench_local.randomness import RandomStream
from robustbench_local.threats import lp_ball
from robustbench_local.threats.threat_model import ThreatModel

METHODS = pytest.mark.parametrize(
    "certificate", [IBP(), CROWN(intermediate="ibp"), CROWN(), CROWN(steps=3)], ids=repr
)
CARDS = [card for card in list_cards("certificate") if card.method in {"ibp", "crown"}]
SMALL = ThreatModel(norm="Linf", eps=0.1)


def _classifier(make=samples.ResidualNetwork) -> Classifier:
    normalize = ((0.4,), (0.3,))
    return Classifier(samples.build_seeded_network(make), num_classes=3, normalize=normalize, name="mine")


def _stream(count: int) -> RandomStream:
    return RandomStream(0, tuple(str(place) for place in range(count)), "test")


def _certified(
    certificate: BoundCertificate, classifier: Classifier, images: Tensor, labels: Tensor, threat: ThreatModel
) -> CertifiedBatch:
    certificate.check_support(threat, classifier)
    with classifier.evaluation_mode():
        return certificate.certify(classifier, images, labels, threat, _stream(len(images)))


@METHODS
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_no_attack_breaks_what_is_verified_and_margins_are_not_above_what_it_finds(certificate, norm: str):
    classifier, images = _classifier(samples.build_plain_network), samples.draw_images(16)
    with torch.no_grad():
        labels = classifier(images).argmax(dim=1)
    verified = 0
    for eps in (0.003, 0.05):
        threat = ThreatModel(norm=norm, eps=eps)
        found = _certified(certificate, classifier, images, labels, threat)
        with classifier.evaluation_mode():
            candidates = PGD(steps=10).perturb(classifier, images, labels, threat, _stream(16))
            reading = verify.predict(classifier, candidates, labels)
        assert not (found.verified & ~reading.correct).any()
        assert (found.margins <= reading.margin).all()
        verified += int(found.verified.sum())
    assert verified > 5


@METHODS
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_bgr_in_0_to_255_is_certified_in_pixels_of_0_to_1(certificate, norm: str):
    """The contract's scale and channel order are part of the bounds; eps stays in pixel units."""
    network = samples.build_seeded_network(
        lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)), 3
    )
    flipped = copy.deepcopy(network)
    flipped[0].weight.data = network[0].weight.data.flip(1)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    scaled = tuple(tuple(255 * value for value in part) for part in (mean[::-1], std[::-1]))
    caffe = {"channel_order": "bgr", "value_scale": 255}
    one = Classifier(network, num_classes=3, normalize=(mean, std))
    other = Classifier(flipped, num_classes=3, normalize=scaled, preprocessing=caffe)
    images = samples.draw_images(12, (3, 4, 4))
    with torch.no_grad():
        labels = one(images).argmax(dim=1)
    threat = ThreatModel(norm=norm, eps=0.05)
    plain, found = (_certified(certificate, wrapped, images, labels, threat) for wrapped in (one, other))
    torch.testing.assert_close(plain.margins, found.margins, rtol=0, atol=1e-3)
    assert found.verified.any()
    with other.evaluation_mode():
        candidates = PGD(steps=10).perturb(other, images, labels, threat, _stream(12))
        assert not (found.verified & ~verify.predict(other, candidates, labels).correct).any()


@METHODS
def test_what_is_misread_is_not_verified_and_has_no_margin(certificate):
    classifier, images = _classifier(), samples.draw_images(12)
    with torch.no_grad():
        predictions = classifier(images).argmax(dim=1)
    labels = torch.where(torch.arange(12) < 6, predictions, (predictions + 1) % 3)
    found = _certified(certificate, classifier, images, labels, ThreatModel(norm="Linf", eps=0.0))
    assert found.verified.tolist() == [True] * 6 + [False] * 6
    assert found.margins.isnan().tolist() == [False] * 6 + [True] * 6
    assert found.predictions.equal(predictions)
    assert found.radius.isnan().all()  # yes or no is all that bounds say
    assert found.margins.dtype == torch.float64


def test_the_margin_without_a_ball_is_the_classifiers_own_but_for_rounding():
    classifier, images = _classifier(), samples.draw_images(6)
    with torch.no_grad():
        logits = classifier(images)
    labels = logits.argmax(dim=1)
    own = verify.predict(classifier, images, labels).margin
    for norm in ("Linf", "L2"):
        margins = _certified(IBP(), classifier, images, labels, ThreatModel(norm=norm, eps=0.0)).margins
        assert (margins <= own).all()
        torch.testing.assert_close(margins.float(), own, rtol=0, atol=1e-3)


def test_verdicts_do_not_depend_on_how_many_images_go_at_once(monkeypatch):
    classifier, images = _classifier(), samples.draw_images(9)
    labels = torch.zeros(9, dtype=torch.long)
    threat = ThreatModel(norm="Linf", eps=0.02)
    together = _certified(CROWN(), classifier, images, labels, threat)
    monkeypatch.setattr(proof, "_MAX_ROWS_BYTES", 1)
    alone = _certified(CROWN(), classifier, images, labels, threat)
    assert together.verified.equal(alone.verified)
    torch.testing.assert_close(together.margins, alone.margins, rtol=0, atol=1e-9, equal_nan=True)


def test_the_ball_is_at_least_as_wide_as_what_the_harness_accepts():
    assert proof.LINF_SLACK >= lp_ball.LINF_SLACK
    assert proof.RELATIVE_SLACK >= lp_ball.RELATIVE_SLACK
    image = torch.full((1, 1, 1, 1), 0.5)
    box = proof.build_input_region(image, ThreatModel(norm="Linf", eps=0.1)).box
    assert box.upper.item() >= 0.6 + lp_ball.LINF_SLACK
    box = proof.build_input_region(image, ThreatModel(norm="Linf", eps=0.7)).box
    assert (box.lower.item(), box.upper.item()) == (0, 1)


class _Wrapped(WrappedClassifier):
    identity = "wrapped"

    def _compute_logits(self, images: Tensor) -> Tensor:
        return self.inner(images.round())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: _Wrapped(_classifier()), "not a plain network"),
        (
            lambda: Classifier(lambda images: images.flatten(1), num_classes=16, name="mine"),
            "not a plain network",
        ),
        (lambda: Classifier(samples.build_plain_network().half(), num_classes=3, name="mine"), "in float16"),
        (lambda: Classifier(SmallCNN(), num_classes=10, name="mine"), "is a MaxPool2d"),
    ],
)
def test_what_bounds_do_not_know_is_refused_before_any_work(make, expected: str):
    with pytest.raises(ModelError, match=f"^mine: .*{expected}"):
        IBP().check_support(ThreatModel(norm="Linf", eps=0.1), make())


def test_a_norm_or_goal_that_bounds_do_not_know_is_refused():
    for threat in (ThreatModel(norm="L1", eps=1), ThreatModel(norm="Linf", eps=0.1, targets=(1,))):
        with pytest.raises(ThreatError):
            CROWN().check_support(threat, _classifier())
    with pytest.raises(ConfigError, match="steps"):
        CROWN(steps=-1)


def test_resizing_is_refused_once_the_images_are_known():
    classifier = Classifier(
        samples.build_seeded_network(samples.build_plain_network),
        num_classes=3,
        input_size=(4, 4),
        name="mine",
    )
    with classifier.evaluation_mode(), pytest.raises(ModelError, match="mine: resizes images"):
        IBP().certify(classifier, torch.rand(1, 1, 8, 8), torch.zeros(1).long(), SMALL, _stream(1))


def test_a_classifier_that_computes_something_else_than_its_module_is_refused():
    module = samples.build_seeded_network(samples.build_plain_network)
    classifier = Classifier(module, num_classes=3, name="mine")
    classifier._compute_logits = lambda images: 2 * module(images)
    with (
        classifier.evaluation_mode(),
        pytest.raises(ModelError, match="mine: does not compute what its layers describe"),
    ):
        IBP().certify(classifier, samples.draw_images(1), torch.zeros(1).long(), SMALL, _stream(1))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_builds_its_certificate_and_is_named_after_its_ball(card):
    certificate = make_certificate(card.method, card.parameters)
    certificate.check_support(card.threat.build_threat_model(), _classifier())
    assert card.name == f"certify-{card.method}-{card.threat.build_threat_model().name}"
    threat = card.threat.build_threat_model()
    assert certificate.estimate_work(threat) > sum(certificate.estimate_cost(threat)) == 1


def test_there_are_cards_for_the_fields_radii():
    names = {card.name for card in CARDS}
    expected = {f"certify-{method}-linf-{eps}" for method in ("ibp", "crown") for eps in (1, 2, 4, 8)}
    assert names == expected | {"certify-crown-l2-0.25", "certify-crown-l2-0.5"}


@pytest.mark.gpu
def test_a_gpu_proves_the_same_images():
    images, labels = samples.draw_images(32), torch.zeros(32, dtype=torch.long)
    threat = ThreatModel(norm="Linf", eps=0.02)
    here = _certified(CROWN(), _classifier(), images, labels, threat)
    there = _certified(CROWN(), _classifier().to("cuda"), images.cuda(), labels.cuda(), threat)
    assert here.verified.equal(there.verified)


@pytest.mark.slow
def test_mnist_convex_is_verified_nearly_as_its_authors_did(shared_data):
    """Published: certified error 5.8 % on the whole test set; PGD error 4.1 %."""
    images, labels = _published(shared_data, "mnist_test_first1000.npz", 40)
    network = strided_cnn().eval()
    network.load_state_dict(load_file(shared_data / "checkpoints" / "mnist_convex_eps0.1.safetensors"))
    classifier = Classifier(network, num_classes=10)
    _between_certified_and_attacked(classifier, images, labels, ThreatModel(norm="Linf", eps=0.1), least=36)


@pytest.mark.slow
def test_resnet2b_is_verified_below_what_attacks_leave(shared_data):
    images, labels = _published(shared_data, "cifar10_test_strat1000.npz", 10)
    network = ResNet2b().eval()
    network.load_state_dict(load_file(shared_data / "checkpoints" / "cifar10_resnet2b_vnncomp21.safetensors"))
    classifier = Classifier(network, num_classes=10, normalize="cifar10")
    _between_certified_and_attacked(
        classifier, images, labels, ThreatModel(norm="Linf", eps="1/255"), least=5
    )


def _published(shared_data, name: str, count: int) -> tuple[Tensor, Tensor]:
    data = load_dataset(f"npz:{shared_data / name}", limit=count, choose="first")
    return data.images, data.labels


def _between_certified_and_attacked(
    classifier: Classifier, images: Tensor, labels: Tensor, threat: ThreatModel, *, least: int
) -> None:
    found = _certified(CROWN(), classifier, images, labels, threat)
    with classifier.evaluation_mode():
        candidates = PGD(steps=40).perturb(classifier, images, labels, threat, _stream(len(images)))
        robust = verify.predict(classifier, candidates, labels).correct
    assert not (found.verified & ~robust).any()
    assert int(found.verified.sum()) >= least


def test_a_smaller_memory_for_rows_changes_no_bound(monkeypatch):
    classifier, images = _classifier(), samples.draw_images(4)
    labels, threat = torch.zeros(4, dtype=torch.long), ThreatModel(norm="L2", eps=0.3)
    whole = _certified(CROWN(), classifier, images, labels, threat)
    monkeypatch.setattr("robustbench_local.certification.bound_propagation.crown._MAX_ROWS_BYTES", 1)
    pieces = _certified(CROWN(), classifier, images, labels, threat)
    torch.testing.assert_close(whole.margins, pieces.margins, rtol=0, atol=1e-9, equal_nan=True)


def test_certifying_leaves_no_gradients_behind():
    classifier: Classifier = _classifier()
    images, labels = samples.draw_images(4), torch.zeros(4, dtype=torch.long)
    _certified(CROWN(steps=2), classifier, images, labels, ThreatModel(norm="Linf", eps=0.3))
    assert isinstance(classifier.module, nn.Module)
    assert all(each.grad is None and each.requires_grad for each in classifier.module.parameters())
