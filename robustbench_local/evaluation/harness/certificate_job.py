"""The work of a certificate's cell: certify images, some at a time, and write one outcome for each."""

from __future__ import annotations

import time
from dataclasses import dataclass

from robustbench_local.certification.base import Certificate
from robustbench_local.classifier import Classifier
from robustbench_local.evaluation.harness.attack_job import Batch, Work, cut
from robustbench_local.evaluation.harness.outcome import certified_outcome
from robustbench_local.evaluation.harness.verify import read
from robustbench_local.randomness import Stream

PIXELS_IN_A_CHUNK = 2**28
"""Pixel values that go through a classifier between two commits, about: a few minutes of one core."""


@dataclass(frozen=True, kw_only=True)
class Proof(Work):
    """A certificate, asked about some images."""

    certificate: Certificate
    """The method and its hyper-parameters."""

    @property
    def asked(self) -> Classifier:
        """What is asked in order to certify the classifier."""
        return self.certificate.base(self.classifier)

    def queue(self, batch_size: int, done: set[int]) -> list[list[int]]:
        """The positions still to do, so many together as a kill may cost."""
        pixels = sum(self.certificate.cost(self.threat)) * int(self.data.images[0].numel())
        at_once = max(1, min(batch_size, PIXELS_IN_A_CHUNK // max(1, pixels)))
        return cut([position for position in range(len(self.data)) if position not in done], at_once)

    def run(self, positions: list[int]) -> Batch:
        """Certify some images and write one outcome for each."""
        started = time.perf_counter()
        data, asked = self.data.select(positions), self.asked
        images, labels = data.images.to(asked.device), data.labels.to(asked.device)
        stream = Stream(self.seed, data.ids, repr(self.certificate))
        with asked.metered(len(data)) as meter:
            found = self.certificate.certify(asked, images, labels, self.threat, stream)
        clean, forward = None, meter.forward
        # a proof about the very classifier that is asked has to be about what the harness reads, too
        if asked is self.classifier and self.certificate.concerns(asked) == "model":
            with asked.fresh() as judge, judge.metered(len(data)) as reading:
                clean = read(judge, images, labels)
                forward = forward + reading.forward
        seconds = (time.perf_counter() - started) / len(positions)
        passes = zip(forward.tolist(), meter.backward.tolist(), strict=True)
        outcomes = tuple(
            certified_outcome(self.key, position, data, row, found, clean, spent, seconds)
            for row, (position, spent) in enumerate(zip(positions, passes, strict=True))
        )
        return Batch(outcomes=outcomes, candidates=data.images.clone())
