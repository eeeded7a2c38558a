"""The job of a certificate cell: certify images in batches and write one outcome for each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.device import move_batch
from robustbench_local.evaluation.harness.job import Job, OutcomeBatch, split_positions
from robustbench_local.evaluation.harness.outcome import build_certificate_outcome
from robustbench_local.evaluation.harness.outside_checks import (
    check_certified_batch,
    keep_model_unchanged,
    keep_process_unchanged,
)
from robustbench_local.evaluation.harness.verify import predict
from robustbench_local.randomness import RandomStream

CHUNK_PIXELS = 2**28
"""Approximate number of pixel values per classifier between two commits: a few minutes of one core."""


@dataclass(frozen=True, kw_only=True)
class CertificateJob(Job):
    """A job that runs a certificate on each image."""

    certificate: Certificate
    """The method and its hyper-parameters."""

    @property
    def queried_model(self) -> Classifier:
        """The classifier that the certificate queries."""
        return self.certificate.get_base_classifier(self.classifier)

    @property
    def max_passes(self) -> tuple[int, int]:
        """Maximum number of forward and backward passes over all images; votes that stop early cost less."""
        forward, backward = self.certificate.estimate_cost(self.threat)
        return self.image_count * (forward + 1), self.image_count * backward

    @property
    def work_passes(self) -> tuple[int, int]:
        """Numbers of passes that take as long as all images: bounds pass through a graph of their own."""
        work = self.certificate.estimate_work(self.threat)
        if work == sum(self.certificate.estimate_cost(self.threat)):
            return self.max_passes
        return self.image_count * (work + 1), 0

    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """Return the remaining positions in groups of the size that a kill may cost."""
        pixels = self.certificate.estimate_work(self.threat) * int(self.data.images[0].numel())
        at_once = max(1, min(batch_size, CHUNK_PIXELS // max(1, pixels)))
        return split_positions(
            [position for position in range(self.image_count) if position not in done_positions], at_once
        )

    def run(self, positions: list[int]) -> OutcomeBatch:
        """Certify some images and write one outcome for each."""
        started = time.perf_counter()
        data, queried = self.select_images(positions), self.queried_model
        images, labels = (move_batch(part, queried.device) for part in (data.images, data.labels))
        stream = RandomStream(self.seed, data.ids, repr(self.certificate))
        with (
            queried.count_passes(len(data)) as counter,
            keep_model_unchanged(self.certificate, self.classifier, queried),
            keep_process_unchanged(self.certificate, self.classifier.add_note),
        ):
            returned = self.certificate.certify(queried, images, labels, self.threat, stream)
        certified = check_certified_batch(self.certificate, returned, len(data))
        clean, forward = None, counter.forward_passes
        # a proof about the classifier itself has to agree with the harness's clean prediction
        if queried is self.classifier and self.certificate.get_concern(queried) == "model":
            with queried.open_fresh_copy() as judge, judge.count_passes(len(data)) as checks:
                clean = predict(judge, images, labels)
                forward = forward + checks.forward_passes
        seconds = (time.perf_counter() - started) / len(positions)
        passes = zip(forward.tolist(), counter.backward_passes.tolist(), strict=True)
        outcomes = tuple(
            build_certificate_outcome(self.key, position, data, row, certified, clean, spent, seconds)
            for row, (position, spent) in enumerate(zip(positions, passes, strict=True))
        )
        return OutcomeBatch(outcomes=outcomes, candidates=data.images.clone())
