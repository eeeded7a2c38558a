"""The base class of certificates by bounds: from a classifier and its images to certified margins."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustbench_local.certification.base import Certificate, CertifiedBatch
from robustbench_local.certification.bound_propagation.bounds import build_margin_rows
from robustbench_local.certification.bound_propagation.graph import Graph, check_layers, trace_network
from robustbench_local.certification.bound_propagation.input_set import BoxRegion, InputRegion, L2Region
from robustbench_local.certification.bound_propagation.interval import Interval
from robustbench_local.certification.bound_propagation.operations import (
    Affine,
    Diagonal,
    ReversedChannels,
    broadcast_channels,
)
from robustbench_local.certification.bound_propagation.precision import (
    check_dtypes_covered,
    list_stored_dtypes,
)
from robustbench_local.certification.bound_propagation.rounding import Rounding
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.input_contract import InputContract
from robustbench_local.classifier.normalizations import Normalization
from robustbench_local.errors import ModelError
from robustbench_local.randomness import RandomStream
from robustbench_local.threats.threat_model import ThreatModel

LINF_SLACK = 1e-6
RELATIVE_SLACK = 1e-5
"""Widening of the ball, at least the tolerance that the harness grants to attacks."""

_LOGIT_TOLERANCE_SHARE = 1e-4
"""Tolerance, relative to the largest logit, between the classifier and its graph."""
_MAX_ROWS_BYTES = 64 * 2**20
"""Memory for the margins' coefficients at the widest layer of the network."""


@dataclass(frozen=True, kw_only=True)
class BoundCertificate(Certificate):
    """Certifies margins by bounds that hold for the whole ball and for the rounded arithmetic.

    Guarantee: for every certified image, the classifier in evaluation mode predicts the label on every image
    of the ball inside [0, 1]. This covers the classifier's own arithmetic: from float32 images to float32
    logits, in float32, float64 or a mixture of both, whatever the order of summation. Half precision is
    refused. Float32 arithmetic with other errors is not covered: TF32 and convolutions by transforms
    (Winograd, FFT). The bounds are computed in float64; see `rounding`.
    """

    norms: ClassVar[frozenset[str]] = frozenset({"Linf", "L2"})

    @abstractmethod
    def compute_margins(self, graph: Graph, ball: InputRegion, rows: Tensor, rounding: Rounding) -> Tensor:
        """Compute lower bounds of functions of the logits.

        Args:
            graph: The network on images in [0, 1].
            ball: Neighborhoods of N images, in float64.
            rows: The functions' coefficients, (N, M, K).
            rounding: Rounding of the network's arithmetic, to be covered.

        Returns:
            (N, M), float64.
        """

    def certify(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
        stream: RandomStream,  # noqa: ARG002  nothing is drawn
    ) -> CertifiedBatch:
        """See :meth:`Certificate.certify`; misclassified images need no bounds."""
        with torch.no_grad():
            logits = classifier(images)
            predictions = logits.argmax(dim=1)
            graph, rounding = build_network_graph(classifier, images), Rounding.from_dtype(torch.float32)
            _check_agreement(graph, images, logits, classifier.name)
            margins = torch.full((len(images),), torch.nan, dtype=torch.float64, device=logits.device)
            read_correctly = (predictions == labels).nonzero().flatten()
            for chosen in torch.split(read_correctly, _count_images_per_chunk(graph)):
                rows = build_margin_rows(labels[chosen], logits.shape[1]).double()
                margin_bounds = self.compute_margins(
                    graph, build_input_region(images[chosen], threat), rows, rounding
                )
                margins[chosen] = margin_bounds.amin(dim=1)
        return CertifiedBatch(
            predictions=predictions.cpu(),
            verified=(margins > 0).cpu(),
            radius=torch.full((len(images),), torch.nan, dtype=torch.float64),
            margins=margins.cpu(),
        )

    def check_support(self, threat: ThreatModel, classifier: Classifier) -> None:
        """See :meth:`Certificate.check_support`; the error names a layer without bounds."""
        super().check_support(threat, classifier)
        check_layers(_get_plain_module(classifier), classifier.name)


def build_network_graph(classifier: Classifier, images: Tensor) -> Graph:
    """Convert a classifier to a graph from images in [0, 1] to its float32 logits.

    Raises:
        ModelError: If it is wrapped, resizes its images, or has a layer or precision without bounds.
    """
    module = _get_plain_module(classifier)
    size = tuple(images.shape[-2:])
    if classifier.input_size not in (None, size):
        raise ModelError(
            f"resizes images from {size} to {classifier.input_size}, for which there are no bounds",
            where=classifier.name,
            remedy="load the data in that size",
        )
    graph = trace_network(module, tuple(images.shape[1:]), name=classifier.name)
    for operation in reversed(list(_list_preprocessing(classifier.contract))):
        graph = graph.prepend_affine(operation)
    return graph


def _list_preprocessing(contract: InputContract) -> Iterator[Affine]:
    """List what is applied before the module, in its order; each rounds as the classifier does."""
    if contract.channel_order == "bgr":
        yield ReversedChannels()
    if contract.value_scale != 1:
        yield _build_scale(contract.value_scale)
    if contract.normalization is not None:
        yield _build_normalization(contract.normalization)


def build_input_region(images: Tensor, threat: ThreatModel) -> InputRegion:
    """Return the threat model's set of images, as the harness measures it, in float64."""
    images = images.double()
    if threat.norm == "Linf":
        eps = threat.eps + LINF_SLACK
        return BoxRegion(Interval.from_bounds((images - eps).clamp_min(0), (images + eps).clamp_max(1)))
    return L2Region(images, threat.eps * (1 + RELATIVE_SLACK) + LINF_SLACK**2)


def _get_plain_module(classifier: Classifier) -> torch.nn.Module:
    """Return the network, if nothing without bounds is around it."""
    module = classifier.module
    if type(classifier) is not Classifier or module is None or classifier.output is not None:
        raise ModelError(
            "is not a plain network (a callable, several outputs, or a defense around it)",
            where=classifier.name,
            remedy="use a smoothing certificate",
        )
    check_dtypes_covered(list_stored_dtypes(module), classifier.name)
    return module


def _build_scale(scale: float) -> Affine:
    def read(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero = like.new_zeros(())
        # as the classifier multiplies: by the float32 number
        return torch.tensor(scale, dtype=torch.float32).to(like), zero, zero

    return Diagonal(read, operation_count=1)


def _build_normalization(normalization: Normalization) -> Affine:
    def read(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # the classifier computes with these numbers rounded to float32
        mean, std = (
            broadcast_channels(torch.tensor(part, dtype=torch.float32), like) for part in normalization
        )
        return 1 / std, -mean / std, (mean / std).abs()

    return Diagonal(read, operation_count=3)


def _check_agreement(graph: Graph, images: Tensor, logits: Tensor, name: str) -> None:
    """Refuse a graph whose logits differ from the classifier's."""
    scale = float(logits.abs().amax()) + 1.0
    if not torch.allclose(
        graph(images.double()), logits.double(), rtol=0.0, atol=_LOGIT_TOLERANCE_SHARE * scale
    ):
        raise ModelError(
            "does not compute what its layers describe",
            where=name,
            remedy="use a smoothing certificate",
        )


def _count_images_per_chunk(graph: Graph) -> int:
    widest = max(torch.Size(node.shape).numel() for node in graph.nodes)
    return max(1, _MAX_ROWS_BYTES // (8 * widest * graph.nodes[-1].shape[0]))
