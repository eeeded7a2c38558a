"""A shipped artefact with the gradients of its float twin: what attacks on a deployed model search on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier, ClassifierSettings
from robustbench_local.classifier.gradient_guard import LossFunction
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import WrappedClassifier
from robustbench_local.errors import ConfigError

Slopes = Literal["artefact", "twin"]
"""Whose logits the loss is differentiated at."""
MAX_SUM_ERROR = 0.02
"""Largest distance from 1 of the sum of a row of probabilities: 8-bit outputs round each of them."""


class TwinView(WrappedClassifier):
    """Answers as the artefact does; gradients go back through the twin.

    A search on this view follows the float network and ends only where the artefact is misclassified, so that
    it goes on beyond the float network's own decision boundary. Nothing here decides a verdict: the harness
    verifies candidates on the artefact alone.

    The artefact's passes count in its own account and the twin's in that of the twin. Probabilities are read
    as their logarithms, which makes them comparable with the twin's logits. Where the artefact gives labels
    only, or probabilities that are rounded to 0 but for one, the answers are the twin's logits, with the two
    largest classes exchanged where the labels differ.

    Args:
        artefact: The model under test; its access may be ``"scores"`` or ``"labels"``.
        twin: The network that it was made from, with gradients and the same classes.
        slopes: ``"artefact"``: losses are differentiated at the artefact's logits (BPDA). ``"twin"``: at the
            twin's, which goes on increasing its loss, whatever the artefact answers meanwhile.

    Raises:
        ConfigError: If the classes differ, the twin has no gradients, or one of them draws random numbers.

    Source: Athalye et al. 2018, arXiv:1802.00420, section 4.1 (gradients of another network).
    """

    def __init__(self, artefact: Classifier, twin: Classifier, *, slopes: Slopes = "artefact") -> None:
        check_twin(artefact, twin)
        super().__init__(artefact, access="gradients")
        self.twin, self._slopes = twin, slopes
        self._pass_counters: list[PassCounter] = artefact._pass_counters  # noqa: SLF001  one account for both
        vars(self)["gradient_guard"] = twin.gradient_guard

    @property
    def identity(self) -> str:
        """The digest of the twin."""
        return f"gradients of {self.twin.compute_digest()}"

    @property
    def settings(self) -> ClassifierSettings:
        """The settings of the artefact."""
        return self.inner.settings

    def configure(self, **changes: object) -> TwinView:
        """Change how both networks are used."""
        self.inner.configure(**changes)
        self.twin.configure(**changes)
        return self

    def to(self, device: str | torch.device) -> Classifier:
        """Move both networks to another device."""
        self.twin.to(device)
        return super().to(device)

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """See `Classifier.evaluation_mode`; both networks are prepared."""
        with self.inner.evaluation_mode(), self.twin.evaluation_mode():
            yield

    def accept_only(self, originals: Tensor, labels: Tensor) -> TwinView:
        """See `RejectingClassifier.accept_only`; both networks are viewed so."""
        inner, twin = self.inner.accept_only(originals, labels), self.twin.accept_only(originals, labels)
        return (
            self if inner is self.inner and twin is self.twin else TwinView(inner, twin, slopes=self._slopes)
        )

    def differentiate_at(self, slopes: Slopes) -> TwinView:
        """Return the same view with losses differentiated elsewhere; it shares everything with this one."""
        view = copy.copy(self)
        view._slopes = slopes  # noqa: SLF001 - a view of itself
        return view

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the artefact's logits, (N, K), in the twin's scale; differentiable through the twin."""
        if self.inner.access != "labels" and not (torch.is_grad_enabled() and images.requires_grad):
            return rescale_probabilities(self.inner(images, rows))
        with torch.no_grad():
            answers = self.inner(images.detach(), rows)
        return _attach_slopes(
            self._read_answers(answers, twin_logits := self.twin(images, rows)), twin_logits
        )

    def compute_gradient(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Classifier.compute_gradient`: the artefact's logits, and losses with the twin's gradient."""
        with torch.no_grad():
            answers = self.inner(images, rows)
        shift: list[Tensor] = []

        def compute_losses(twin_logits: Tensor) -> Tensor:
            if self._slopes == "twin":
                return loss(twin_logits)
            if not shift:  # one shift for all points around this one, whose losses may be compared
                known = twin_logits.detach()
                shift.append((self._read_answers(answers, known) - known).nan_to_num(0.0, 0.0, 0.0))
            return loss(twin_logits + shift[0])

        twin_logits, losses, gradient = self.twin.compute_gradient(images, compute_losses, rows)
        return self._read_answers(answers, twin_logits), losses, gradient

    def _compute_logits(self, images: Tensor) -> Tensor:
        """Return the same as a call, without counting; other libraries query this."""
        with torch.no_grad():
            answers = self.inner._compute_logits(images.detach())  # noqa: SLF001
        twin_logits = self.twin._compute_logits(images)  # noqa: SLF001
        return _attach_slopes(self._read_answers(answers, twin_logits), twin_logits)

    def _read_answers(self, answers: Tensor, twin_logits: Tensor) -> Tensor:
        """Return the artefact's answers, (N, K), as logits in the twin's scale."""
        if self.inner.access == "labels":
            return exchange_largest(twin_logits.detach(), answers)
        without_rival = names_only_label(answers)
        if not bool(without_rival.any()):
            return rescale_probabilities(answers)
        exchanged = exchange_largest(twin_logits.detach(), answers)
        return torch.where(without_rival[:, None], exchanged, rescale_probabilities(answers))

    def _wrap_copy(self, inner: Classifier) -> Classifier:
        return TwinView(inner, self.twin, slopes=self._slopes)

    def find_masked_borders(self, images: Tensor) -> None:
        """See `Classifier.find_masked_borders`; only the twin has gradients."""
        self.twin.find_masked_borders(images)


def check_twin(artefact: Classifier, twin: Classifier) -> None:
    """Check that a network can stand in for an artefact in a search.

    Raises:
        ConfigError: If the classes differ, the twin has no gradients, or one of them draws random numbers.
    """
    where = f"twin of {artefact.name}"
    if twin.access != "gradients":
        raise ConfigError(
            f"{twin.name!r} gives {twin.access} only, and a search needs its gradients",
            where=where,
            remedy="the entry's source is the shipped artefact, twin: its float network",
        )
    if twin.num_classes != artefact.num_classes:
        raise ConfigError(
            f"{twin.name!r} has {twin.num_classes} classes, the artefact has {artefact.num_classes}",
            where=where,
            remedy="name the network that the artefact was made from",
        )
    for model in (artefact, twin):
        if isinstance(model, RandomizedClassifier):
            raise ConfigError(
                f"{model.name!r} draws random numbers, which the two would draw differently",
                where=where,
                remedy="leave the random defense out",
            )


def rescale_probabilities(scores: Tensor) -> Tensor:
    """Return scores, (N, K), with the logarithm in rows of probabilities; decisions stay the same.

    A probability of 0, as 8-bit outputs have, counts as half the smallest other one of its image.
    """
    rows = is_probability(scores)
    if not bool(rows.any()):
        return scores
    least = scores.masked_fill(scores <= 0, torch.inf).amin(dim=1, keepdim=True)
    logarithms = torch.where(scores > 0, scores, least / 2).log()
    return torch.where(rows[:, None], logarithms, scores)


def is_probability(scores: Tensor) -> Tensor:
    """Return which rows of scores, (N, K), are probabilities, (N,) boolean."""
    return (scores >= 0).all(dim=1) & ((scores.sum(dim=1) - 1).abs() <= MAX_SUM_ERROR)


def is_logarithm(scores: Tensor) -> Tensor:
    """Return which rows of scores, (N, K), are logarithms of probabilities, (N,): the largest is exactly 0.

    Files that end in a softmax are read as log(p / max p).
    """
    return scores.amax(dim=1) == 0


def names_only_label(scores: Tensor) -> Tensor:
    """Return which rows of scores, (N, K), tell nothing but the label, (N,): all others of 3 or more tie.

    So it is where a softmax saturates: every other probability is rounded to 0.
    """
    if scores.shape[1] <= 2:
        return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    label = scores.argmax(dim=1, keepdim=True)
    largest = scores.scatter(1, label, -torch.inf).amax(dim=1)
    return largest == scores.scatter(1, label, torch.inf).amin(dim=1)


def exchange_largest(logits: Tensor, answers: Tensor) -> Tensor:
    """Return logits, (N, K), with the largest one exchanged so that it belongs to the label in ``answers``.

    Args:
        logits: The twin's.
        answers: One-hot rows of labels, (N, K); a row that is not finite is returned as it is.
    """
    own, label = logits.argmax(dim=1, keepdim=True), answers.nan_to_num().argmax(dim=1, keepdim=True)
    exchanged = logits.scatter(1, own, logits.gather(1, label)).scatter(1, label, logits.gather(1, own))
    return torch.where(torch.isfinite(answers).all(dim=1, keepdim=True), exchanged, answers)


def _attach_slopes(values: Tensor, source: Tensor) -> Tensor:
    """Return values with the gradient of another tensor of the same shape."""
    if not source.requires_grad:
        return values
    return values + (source - source.detach())
