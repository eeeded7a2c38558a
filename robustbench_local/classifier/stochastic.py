"""Stochastic classifiers: what attacks query, and how a verdict on them is reached.

An attack queries an average over fresh draws, so that it works against the defense and not against a single
draw (expectation over transformation). A verdict is an average over draws that belong to the image and to the
run's seed, and that no attack has seen: it is the same in every batch, at any position, and in every
repetition (trust invariants V8, V9).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar, Final

import torch
from torch import Tensor

from robustbench_local.classifier import Access, Classifier
from robustbench_local.classifier.image_borders import MASKED_BORDERS_NOTE
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.counted_nouns import format_count
from robustbench_local.errors import InvariantError
from robustbench_local.randomness import RandomNumbers, RandomStream, compute_point_keys, derive_seed

DEFAULT_DRAWS = 20
"""Number of draws averaged in a query of an attack."""
DEFAULT_VERDICT_DRAWS = 100
"""Number of draws averaged in a verdict."""
MIN_LEAD_STD_ERRORS = 5.0
"""Standard errors by which a class has to lead before a search takes it for the winner: by chance that
happens once in 25,000 queries (Student's t for 20 draws), and a search makes hundreds."""
TIED_LEAD = 5e-6
"""Largest lead that counts as tied, as a share of the range of the logits: attacks treat it as rounding."""


class RandomizedClassifier(WrappedClassifier):
    """A classifier whose answer to the same image is drawn anew at each call.

    A call or a gradient returns the mean over ``draws`` draws, each of which counts as a pass of its own. The
    draws are fresh at every new point, yet depend only on the point and the attack's seed, so that a search
    takes the same path in every batch. A class whose lead may be chance, less than five standard errors,
    counts as nearly tied with the next one: no search ends there. Inside `with_verdict_draws` the answer is
    the mean over ``verdict_draws`` other draws that belong to the image.

    Args:
        inner: The wrapped classifier.
        name: Name of the whole in messages.
        access: The attacker's access.
        draws: Number of draws averaged in a query of an attack.
        verdict_draws: Number of draws averaged in a verdict.

    Source: Athalye et al. 2018, arXiv:1707.07397, section 2 (expectation over transformation).
    """

    answers_with_one_draw: ClassVar[bool] = True
    """Whether whoever uses the model gets the answer of a single draw, and another one when asking again."""

    def __init__(
        self,
        inner: Classifier,
        *,
        name: str | None = None,
        access: Access | None = None,
        draws: int = DEFAULT_DRAWS,
        verdict_draws: int = DEFAULT_VERDICT_DRAWS,
    ) -> None:
        super().__init__(inner, name=name, access=access)
        self._draws, self._attack_seed = draws, 0
        self.verdict_draws: Final = verdict_draws
        self.add_note(
            "draws random numbers: an attack looks at the mean over "
            f"{format_count(draws, 'draw')}, and a verdict is reached "
            f"on {format_count(verdict_draws, 'draw')} of the image's own"
        )
        self._current_numbers: RandomNumbers | None = None
        self._verdict_stream: RandomStream | None = None
        self._verdict_samples: Tensor | None = None
        self._fixed_stream: RandomStream | None = None

    @property
    def draws(self) -> int:
        """Number of draws averaged in a query of an attack; 1 while the draw is fixed."""
        return self._draws if self._fixed_stream is None else 1

    @contextmanager
    def use_draws(self, draws: int) -> Iterator[None]:
        """Set the number of draws per query while the context is open."""
        before, self._draws = self._draws, draws
        try:
            yield
        finally:
            self._draws = before

    @property
    def has_fixed_draw(self) -> bool:
        """Whether every answer is the same one draw at present."""
        return self._fixed_stream is not None

    @contextmanager
    def use_fixed_draw(self, stream: RandomStream) -> Iterator[None]:
        """Fix the draw while the context is open: every answer, to attack and harness, is the same one draw.

        Args:
            stream: The images' random numbers; ``rows`` then give the image of each row.
        """
        before, self._fixed_stream = self._fixed_stream, stream
        try:
            yield
        finally:
            self._fixed_stream = before

    @contextmanager
    def use_attack_seed(self, seed: int) -> Iterator[None]:
        """Set the seed of the draws that attacks see while the context is open."""
        before, self._attack_seed = self._attack_seed, seed
        try:
            yield
        finally:
            self._attack_seed = before

    @abstractmethod
    def sample(self, images: Tensor, numbers: RandomNumbers) -> Tensor:
        """Return logits, (N, K), of one draw.

        Args:
            images: (N, C, H, W) in [0, 1].
            numbers: Its random numbers, one row per image; the only source of randomness.
        """

    def pool_samples(self, samples: Tensor) -> Tensor:
        """Pool the logits of several draws, (D, N, K), to one answer, (N, K): their mean."""
        return samples.mean(dim=0)

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """See :meth:`Classifier.__call__`; returns the pooled answer of several draws."""
        if self._current_numbers is not None:
            return super().__call__(images, rows)
        images = self._check_images(images)
        samples = []
        for points, which, numbers in self._iterate_draws(images, rows):
            with self._use_numbers(numbers):
                samples.append(_split_draws(super().__call__(points, which), len(images)))
        joined = torch.cat(samples)
        if self._verdict_stream is not None and self.answers_with_one_draw:
            self._verdict_samples = joined
        return super()._merge_rejection(self._combine_samples(joined), rows)

    def _merge_rejection(self, logits: Tensor, rows: Tensor | None) -> Tensor:
        """See `Classifier`; draws are pooled first."""
        return logits if self._current_numbers is not None else super()._merge_rejection(logits, rows)

    def take_verdict_samples(self) -> Tensor | None:
        """Return the logits of each draw of the latest verdict, (D, N, K), and forget them; None without."""
        samples, self._verdict_samples = self._verdict_samples, None
        return samples

    def compute_gradient(
        self, images: Tensor, loss: Callable[[Tensor], Tensor], rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Classifier.compute_gradient`; the loss of the pooled answer, through all its draws."""
        logits, losses, gradient = super().compute_gradient(images, loss, rows)
        if self._pass_counters:
            per_draw = 1 if losses.ndim == 1 else losses.shape[1]
            self._pass_counters[-1].add_backward(rows, len(images), times=(self.draws - 1) * per_draw)
        return logits, losses, gradient

    def confirm_gradient(
        self,
        losses_at: Callable[[Tensor], Tensor],  # noqa: ARG002
        images: Tensor,
        losses: Tensor,  # noqa: ARG002
        gradient: Tensor,  # noqa: ARG002
    ) -> Tensor:
        """See `Classifier`; draws at other points would exceed any difference of losses."""
        return torch.ones(len(images), dtype=torch.bool, device=images.device)

    def find_masked_borders(self, images: Tensor) -> None:
        """See `Classifier`; only the wrapped classifier is checked, because its answers are not random."""
        self.inner.find_masked_borders(images)
        if self.inner.border_probe.masked:
            self.add_note(MASKED_BORDERS_NOTE)

    @contextmanager
    def count_passes(self, count: int, limit: int | None = None) -> Iterator[PassCounter]:
        """See :meth:`Classifier.count_passes`; the limit is on queries, and their draws are counted."""
        with super().count_passes(count, None if limit is None else limit * self.draws) as counter:
            yield counter

    def queries_left(self, rows: Tensor | None = None) -> Tensor | None:
        """Return the remaining queries of images."""
        draws = super().queries_left(rows)
        return None if draws is None else draws // self.draws

    @contextmanager
    def with_verdict_draws(self, stream: RandomStream) -> Iterator[None]:
        """Make answers verdicts while the context is open.

        Args:
            stream: The images' random numbers; ``rows`` then give the image of each row.
        """
        before, self._verdict_stream = self._verdict_stream, stream
        try:
            yield
        finally:
            self._verdict_stream = before

    def _compute_external_logits(self, images: Tensor) -> Tensor:
        """Answer an external library's attack; the caller counts the passes, one per query."""
        images = self._check_images(images)
        samples = []
        for points, _, numbers in self._iterate_draws(images, None):
            with self._use_numbers(numbers):
                samples.append(_split_draws(super()._compute_external_logits(points), len(images)))
        pooled = self.pool_samples(torch.cat(samples))
        return super()._merge_rejection(pooled, self._find_nearest_originals(images))

    def _compute_logits(self, images: Tensor) -> Tensor:
        """Answer each row with one draw from the current random numbers."""
        if self._current_numbers is None:
            raise InvariantError("a randomized classifier was asked for logits outside of a draw")
        return self.sample(images, self._current_numbers)

    def _combine_samples(self, samples: Tensor) -> Tensor:
        """Combine several draws, (D, N, K); except in a verdict, a lead that may be chance is removed."""
        answer = self.pool_samples(samples).clone()
        if self._verdict_stream is None and len(samples) > 1:
            with torch.no_grad():  # the slopes stay those of the answer
                others = ~torch.eye(len(samples), dtype=torch.bool, device=samples.device)
                answer.copy_(
                    _shrink_uncertain_leads(
                        answer, torch.stack([self.pool_samples(samples[rest]) for rest in others])
                    )
                )
        return answer

    @contextmanager
    def _use_numbers(self, numbers: RandomNumbers) -> Iterator[None]:
        self._current_numbers = numbers
        try:
            yield
        finally:
            self._current_numbers = None

    def _iterate_draws(
        self, images: Tensor, rows: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, RandomNumbers]]:
        """Iterate over images, rows and random numbers of all draws, as many draws as fit into a batch."""
        count = len(images)
        which = torch.arange(count, device=self.device) if rows is None else rows.to(self.device)
        if self._fixed_stream is not None:
            fixed = RandomStream(self._fixed_stream.seed, self._fixed_stream.ids, "fixed draw")
            keys, draws = fixed.compute_keys("", self.device)[which], 1
        elif self._verdict_stream is None:
            keys, draws = compute_point_keys(images, self._attack_seed), self.draws
        else:
            verdicts = RandomStream(self._verdict_stream.seed, self._verdict_stream.ids, "verdict")
            keys, draws = verdicts.compute_keys("", self.device)[which], self.verdict_draws
        at_once = max(1, self.limit_batch_size(count) // max(count, 1))
        for first in range(0, draws, at_once):
            shifts = [derive_seed("draw", draw) for draw in range(first, min(first + at_once, draws))]
            several = len(shifts)
            numbers = RandomNumbers(torch.cat([keys + shift for shift in shifts]))
            yield images.repeat(several, 1, 1, 1), which.repeat(several), numbers


def _split_draws(rows: Tensor, count: int) -> Tensor:
    """Reshape (D * N, ...) to (D, N, ...), N = ``count``."""
    return rows.view(len(rows) // max(count, 1), count, *rows.shape[1:])


def _shrink_uncertain_leads(answer: Tensor, without: Tensor) -> Tensor:
    """Return logits in which a lead below `MIN_LEAD_STD_ERRORS` shrinks below that of a success.

    Args:
        answer: (N, K), over all draws.
        without: (D, N, K), each over all draws but one: their spread gives the standard error.

    Source: the jackknife, Efron & Stein 1981, doi:10.1214/aos/1176345462, eq. 1.3.
    """
    winner, second = answer.topk(2, dim=1).indices.unbind(dim=1)
    rows = torch.arange(len(answer), device=answer.device)
    lead = answer[rows, winner] - answer[rows, second]
    leads = without[:, rows, winner] - without[:, rows, second]
    count = len(without)
    clear = MIN_LEAD_STD_ERRORS * (leads.var(dim=0, correction=0) * (count - 1)).sqrt()
    # it still grows with the lead, so that a search finds its way; where something is not finite, it stays
    room = answer[rows, second] - answer.amin(dim=1)
    shrunk = answer[rows, second] + TIED_LEAD * room * lead / clear
    shrunk_answer = answer.clone()
    doubtful = (lead < clear) & torch.isfinite(shrunk)
    shrunk_answer[rows, winner] = torch.where(doubtful, shrunk, answer[rows, winner])
    return shrunk_answer


def with_verdict_draws(classifier: Classifier, stream: RandomStream | None) -> AbstractContextManager[None]:
    """Make a randomized classifier answer with verdicts; any other one, or without a stream, is unchanged."""
    if isinstance(classifier, RandomizedClassifier) and stream is not None:
        return classifier.with_verdict_draws(stream)
    return nullcontext()


def averages_draws(classifier: Classifier) -> bool:
    """Return whether attacks need not average over queries: each is a mean already, or all are one draw."""
    if not isinstance(classifier, RandomizedClassifier):
        return False
    return classifier.draws > 1 or classifier.has_fixed_draw


def take_verdict_samples(classifier: Classifier) -> Tensor | None:
    """Return the logits of each draw of the latest verdict, (D, N, K); None where answers are no draws."""
    return classifier.take_verdict_samples() if isinstance(classifier, RandomizedClassifier) else None


def with_attack_seed(classifier: Classifier, seed: int) -> AbstractContextManager[None]:
    """Set the seed of the draws that attacks see of a randomized classifier."""
    if isinstance(classifier, RandomizedClassifier):
        return classifier.use_attack_seed(seed)
    return nullcontext()


def passes_per_query(classifier: Classifier) -> tuple[int, int]:
    """Return the passes per query of an attack and of the harness: 1 and 1 for most classifiers."""
    if isinstance(classifier, RandomizedClassifier):
        return classifier.draws, classifier.verdict_draws
    return 1, 1
