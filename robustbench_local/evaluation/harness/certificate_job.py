"""The work of a certificate's cell: certify images, some at a time, and write one outcome for each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.attack_job import Job, OutcomeBatch, split_positions
from robustbench_local.evaluation.harness.outcome import build_certificate_outcome
from robustbench_local.evaluation.harness.verify import predict
from robustbench_local.randomness import RandomStream

CHUNK_PIXELS = 2**28
"""Pixel values that go through a classifier between two commits, about: a few minutes of one core."""


@dataclass(frozen=True, kw_only=True)
class CertificateJob(Job):
    """A certificate, asked about some images."""

    certificate: Certificate
    """The method and its hyper-parameters."""

    @property
    def queried_model(self) -> Classifier:
        """What is asked in order to certify the classifier."""
        return self.certificate.get_base_classifier(self.classifier)

    def build_queue(self, batch_size: int, done_positions: set[int]) -> list[list[int]]:
        """The positions still to do, so many together as a kill may cost."""
        pixels = sum(self.certificate.estimate_cost(self.threat)) * int(self.data.images[0].numel())
        at_once = max(1, min(batch_size, CHUNK_PIXELS // max(1, pixels)))
        return split_positions(
            [position for position in range(len(self.data)) if position not in done_positions], at_once
        )

    def run(self, positions: list[int]) -> OutcomeBatch:
        """Certify some images and write one outcome for each."""
        started = time.perf_counter()
        data, asked = self.data.select_images(positions), self.queried_model
        images, labels = data.images.to(asked.device), data.labels.to(asked.device)
        stream = RandomStream(self.seed, data.ids, repr(self.certificate))
        with asked.count_passes(len(data)) as meter:
            found = self.certificate.certify(asked, images, labels, self.threat, stream)
        clean, forward = None, meter.forward_passes
        # a proof about the very classifier that is asked has to be about what the harness reads, too
        if asked is self.classifier and self.certificate.get_concern(asked) == "model":
            with asked.open_fresh_copy() as judge, judge.count_passes(len(data)) as reading:
                clean = predict(judge, images, labels)
                forward = forward + reading.forward_passes
        seconds = (time.perf_counter() - started) / len(positions)
        passes = zip(forward.tolist(), meter.backward_passes.tolist(), strict=True)
        outcomes = tuple(
            build_certificate_outcome(self.key, position, data, row, found, clean, spent, seconds)
            for row, (position, spent) in enumerate(zip(positions, passes, strict=True))
        )
        return OutcomeBatch(outcomes=outcomes, candidates=data.images.clone())
