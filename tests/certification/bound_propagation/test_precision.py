"""Certificates of networks that compute in float64, in two formats, or in one that is not covered."""

from __future__ import annotations

import bound_samples as samples
import pytest
import torch
from torch import Tensor, nn

from robustbench_local.certification.base import CertifiedBatch
from robustbench_local.certification.bound_propagation.certificate import BoundCertificate
from robustbench_local.certification.bound_propagation.crown import CROWN
from robustbench_local.certification.bound_propagation.graph import trace_network
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.certification.bound_propagation.interval import Interval, propagate
from robustbench_local.certification.bound_propagation.rounding import Rounding
from robustbench_local.classifier import Classifier
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.harness import verify
from robustbench_local.randomness import RandomStream
from robustbench_local.threats import lp_ball
from robustbench_local.threats.threat_model import ThreatModel

METHODS = pytest.mark.parametrize("certificate", [IBP(), CROWN()], ids=repr)


def _certified(
    certificate: BoundCertificate, classifier: Classifier, images: Tensor, threat: ThreatModel
) -> CertifiedBatch:
    certificate.check_support(threat, classifier)
    stream = RandomStream(0, tuple(str(place) for place in range(len(images))), "test")
    with classifier.evaluation_mode():
        return certificate.certify(classifier, images, torch.zeros(len(images)).long(), threat, stream)


def _contradicted(
    found: CertifiedBatch, classifier: Classifier, images: Tensor, candidates: Tensor, threat
) -> int:
    """Images that are verified, and broken by a candidate that the harness accepts."""
    allowed = torch.tensor([each is None for each in verify.find_ball_violations(candidates, images, threat)])
    with classifier.evaluation_mode():
        reading = verify.predict(classifier, candidates, torch.zeros(len(images)).long())
    return int((found.verified & allowed & ~reading.correct).sum())


def _two_classes(weight: list[list[float]], bias: list[float], dtype: torch.dtype) -> nn.Sequential:
    layer = nn.Linear(len(weight[0]), 2, dtype=dtype)
    layer.weight.data, layer.bias.data = torch.tensor(weight, dtype=dtype), torch.tensor(bias, dtype=dtype)
    return nn.Sequential(nn.Flatten(), layer)


class Mixed(nn.Module):
    """A layer in float64, then (1e2 x + margin) - 1e2 x in float32."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.first = _two_classes([[1.0], [0.0]], [0.0, 0.0], torch.float64)
        self.second = _two_classes([[1e2, 0.0], [1e2, 0.0]], [margin, 0.0], torch.float32)
        self.third = _two_classes([[1.0, -1.0], [0.0, 0.0]], [0.0, 0.0], torch.float32)

    def forward(self, images: Tensor) -> Tensor:
        return self.third(self.second(self.first(images).float()))


@METHODS
def test_a_network_of_two_formats_is_not_taken_for_one_of_the_finer(certificate):
    images = 0.1 + 0.8 * samples.draw_images(200, (1, 1, 1))
    threat = ThreatModel(norm="Linf", eps=1e-3)
    fragile, sound = (Classifier(Mixed(margin), num_classes=2) for margin in (1e-6, 1e-2))
    found, safe = (_certified(certificate, each, images, threat) for each in (fragile, sound))
    contradicted = sum(
        _contradicted(found, fragile, images, images + shift, threat)
        for shift in torch.linspace(-9e-4, 9e-4, 9)
    )
    assert contradicted == 0
    assert safe.verified.all()


@METHODS
def test_images_are_normalised_in_float32_before_a_network_of_float64(certificate):
    """A border between a normalised pixel at the end of the ball as it is, and as float32 rounds it."""
    mean, std = torch.tensor(0.4), torch.tensor(0.3)
    threat = ThreatModel(norm="Linf", eps=167772 * 2.0**-24 - 1e-6)  # so that float32 reaches the very end
    pixels = 0.3 + 0.5 * samples.draw_images(300, (1,)).flatten()
    ends = pixels.double() - (threat.eps + lp_ball.LINF_SLACK)
    inside = torch.where(ends.float() < ends, ends.float().nextafter(torch.tensor(1.0)), ends.float())
    exact, rounded = (ends - mean.double()) / std.double(), ((inside - mean) / std).double()
    chosen = (rounded < exact - 1e-9).nonzero().flatten()[:5].tolist()
    assert len(chosen) == 5
    for place in chosen:
        image, candidate = pixels[place].view(1, 1, 1, 1), inside[place].view(1, 1, 1, 1)
        for border in ((exact + rounded)[place] / 2, exact[place] - 1e-5):
            network = _two_classes([[1e6], [0.0]], [-1e6 * float(border), 0.0], torch.float64)
            classifier = Classifier(network, num_classes=2, normalize=((0.4,), (0.3,)))
            found = _certified(certificate, classifier, image, threat)
            assert not _contradicted(found, classifier, image, candidate, threat)
        assert found.verified.all()  # the second border is far enough


def test_logits_of_float64_are_read_as_float32():
    """What differs in the tenth digit is a tie."""
    classifier = Classifier(_two_classes([[0.0], [0.0]], [1 + 1e-9, 1.0], torch.float64), num_classes=2)
    images, threat = samples.draw_images(1, (1, 1, 1)), ThreatModel(norm="Linf", eps=0.1)
    found = _certified(IBP(), classifier, images, threat)
    assert not _contradicted(found, classifier, images, images, threat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_logits_too_large_for_float32_are_not_verified(dtype: torch.dtype):
    classifier = Classifier(_two_classes([[2e38, 2e38], [0.0, 0.0]], [1e37, 0.0], dtype), num_classes=2)
    images, threat = torch.full((1, 1, 1, 2), 0.3), ThreatModel(norm="Linf", eps=0.6)
    found = _certified(IBP(), classifier, images, threat)
    assert not _contradicted(found, classifier, images, images + 0.59, threat)


def test_a_conversion_to_float32_has_noise_of_its_own_and_one_to_float64_has_none():
    images = samples.draw_images(32)

    class Converted(nn.Module):
        def __init__(self, convert) -> None:
            super().__init__()
            self.convert, self.head = convert, nn.Linear(16, 2)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.convert(images).flatten(1))

    for convert, extra in (
        (lambda x: (x.double() / 3).float(), 2),
        (lambda x: (x.double() / 3).to(torch.float32), 2),
        (lambda x: x.double().float().to(x.device), 1),
        (lambda x: x.float(), 0),
    ):
        graph = trace_network(
            samples.build_seeded_network(lambda convert=convert: Converted(convert)), samples.IMAGE_SHAPE
        )
        assert len(graph.nodes) == 3 + extra
    bounds = propagate(
        trace_network(
            samples.build_seeded_network(lambda: Converted(lambda x: (x.double() / 3).float())),
            samples.IMAGE_SHAPE,
        ),
        Interval.from_bounds(images.double(), images.double()),
        rounding=Rounding.from_dtype(torch.float32),
    )
    assert (bounds.noise[2] >= (images.double() / 3 - (images.double() / 3).float()).abs()).all()


class Autocast(nn.Module):
    """Computes in bfloat16 behind the back of its trace; its logits are small, and differ by little."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 3)
        self.head.weight.data.mul_(1e-3)

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = self.head(images.flatten(1))
        return logits.float()


class Rounded(nn.Sequential):
    """A linear layer behind images in another format."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, 3))
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.to(self.dtype).float())


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (Autocast, "computes in bfloat16, for which there are no bounds"),
        (lambda: Rounded(torch.float16), "to gives torch.float16, for which there are no bounds"),
    ],
)
def test_half_precision_on_the_way_is_named(make, expected: str):
    with pytest.raises(ModelError, match=f"^mine: {expected}"):
        trace_network(samples.build_seeded_network(make), samples.IMAGE_SHAPE, name="mine")


def test_half_precision_that_is_stored_is_refused_before_any_work():
    module = samples.build_seeded_network(samples.ResidualNetwork)
    module.mean = module.mean.bfloat16()
    with pytest.raises(ModelError, match=r"^mine: computes in bfloat16"):
        IBP().check_support(ThreatModel(norm="Linf", eps=0.1), Classifier(module, num_classes=3, name="mine"))


def test_a_sum_that_rounds_in_passing_is_named():
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3, dtype=torch.float64), nn.Linear(2, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).mean((2, 3), dtype=torch.float32))

    with pytest.raises(ModelError, match=r"mean rounds to float32 implicitly.*float"):
        trace_network(samples.build_seeded_network(Mean), samples.IMAGE_SHAPE)
