"""Classifiers that answer as the real model does, bit for bit, and whose gradients come from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.activation_rules import GENTLE_OPERATORS, SMOOTHED_OPERATORS
from robustbench_local.attacks.adaptive.findings import StudentRecord
from robustbench_local.attacks.adaptive.fixed_draws import PROBE_SEED
from robustbench_local.attacks.adaptive.model_parts import resolve_part
from robustbench_local.attacks.adaptive.part_model import MIN_PROBABILITY, PartModel
from robustbench_local.attacks.adaptive.rank_rules import CHOSEN_SCORES, CHOSEN_VALUES
from robustbench_local.attacks.adaptive.student import rebuild_student
from robustbench_local.attacks.adaptive.surrogate_model import (
    SurrogateModel,
    ignore_rejection,
    replace_model,
    share_account,
)
from robustbench_local.attacks.adaptive.view_spec import ViewSpec, list_views
from robustbench_local.classifier import Classifier, ClassifierSettings
from robustbench_local.classifier.gradient_guard import LossFunction
from robustbench_local.classifier.pass_counter import PassCounter
from robustbench_local.classifier.state_guard import RandomStates
from robustbench_local.classifier.wrapper import WrappedClassifier, find_innermost
from robustbench_local.errors import ConfigError

__all__ = ["GradientView", "ViewSpec", "build_view", "list_views"]

CONDITIONAL_OPERATORS = frozenset({"threshold", "top-k mask", "argmax"})
"""Operators that a view through certain ones leaves alone: in other places they may be continuous gates."""
NEIGHBORS = 4
"""Points of a neighborhood over which gradients are averaged."""
_OWN_KINDS = frozenset({"own", "log", "rescaled"})
"""Views with the model's own gradient, of another loss or averaged."""
_CHECKED_GRADIENTS = 3
"""Number of first gradients whose logits are compared with the real model's; one difference, and they always
come from a pass of their own."""


def build_view(classifier: Classifier, spec: ViewSpec) -> Classifier:
    """Build a view of a classifier.

    Args:
        classifier: The real one; not changed. Its open counter counts the passes of the view.
        spec: How gradients are obtained.

    Returns:
        A classifier whose answers are those of ``classifier``.

    Raises:
        ConfigError: If the classifier has no such parts or no wrapper.
    """
    if spec.kind == "own" and spec.draws == 1:
        return classifier
    if spec.kind == "undefended" and not isinstance(classifier, WrappedClassifier):
        raise ConfigError("has no wrapper defense that could be left out", where=classifier.name)
    return GradientView(classifier, spec)


class GradientView(WrappedClassifier):
    """A classifier with the real model's answers and the gradients of a `ViewSpec`.

    ``compute_gradient`` returns the real logits, the loss of the real logits (for ``log`` and ``rescaled``,
    of the transformed ones) and the other gradient. The real classifier's counter counts all passes.

    Args:
        inner: The real classifier.
        spec: How gradients are obtained.
    """

    def __init__(self, inner: Classifier, spec: ViewSpec) -> None:
        super().__init__(inner, access="gradients")
        self._spec = spec
        self._pass_counters: list[PassCounter] = inner._pass_counters  # noqa: SLF001  one account for both
        self._checks_left = _CHECKED_GRADIENTS
        self._is_exact = spec.kind in {"bpda", "smooth", "wide"}
        self._surrogate: tuple[Any, nn.Module] | None = None
        self._student: Classifier | None = None
        for path in spec.paths if spec.kind == "part" else ():
            resolve_part(find_innermost(inner).model, path)

    @property
    def identity(self) -> str:
        """The view's description."""
        return repr(self._spec)

    @property
    def settings(self) -> ClassifierSettings:
        """The settings of the real classifier."""
        return self.inner.settings

    def configure(self, **changes: Any) -> GradientView:
        """Change how the real classifier is used."""
        self.inner.configure(**changes)
        return self

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """See `Classifier.evaluation_mode`; that of the real classifier."""
        with self.inner.evaluation_mode():
            yield

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return the real model's logits."""
        return self.inner(images, rows)

    def _compute_logits(self, images: Tensor) -> Tensor:
        return self.inner._compute_logits(images)  # noqa: SLF001

    def compute_gradient(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Classifier.compute_gradient` and the class."""
        if self._spec.kind == "neighborhood":
            return self._average_neighborhood(images, loss, rows)
        with self.inner.evaluation_mode():
            draws = [self._compute_one(images, loss, rows) for _ in range(self._spec.draws)]
        if len(draws) == 1:
            return draws[0]
        logits, losses, gradient = (torch.stack(part).mean(dim=0) for part in zip(*draws, strict=True))
        return logits, losses, gradient

    def _average_neighborhood(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the real logits, and the mean gradient at points that are the same around every image."""
        with self.inner.evaluation_mode():
            with torch.no_grad():
                logits = self.inner(images, rows)
            gradients = [
                self.inner.compute_gradient((images + offset).clamp(0, 1), loss, rows)[2]
                for offset in draw_offsets(images, self._spec.radius, self._spec.norm)
            ]
        return logits, loss(logits).detach(), torch.stack(gradients).mean(dim=0)

    def _compute_one(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        randomness = RandomStates.from_process()
        with self._open_twin() as twin:
            logits, losses, gradient = twin.compute_gradient(images, _transform_loss(self._spec, loss), rows)
        if self._spec.kind in _OWN_KINDS or (self._is_exact and self._checks_left <= 0):
            return logits, losses, gradient
        after = RandomStates.from_process()
        if self._spec.kind != "student":  # which draws no random numbers
            randomness.restore_states()
        with torch.no_grad():
            real = self.inner(images, rows)
        after.restore_states()
        self._checks_left -= 1
        self._is_exact = self._is_exact and torch.equal(real, logits)
        # labels say nothing about the loss
        says_labels = self._spec.student is not None and self._spec.student.answers == "labels"
        return real, losses if says_labels else loss(real).detach(), gradient

    @contextmanager
    def _open_twin(self) -> Iterator[Classifier]:
        """Open the classifier that gradients come from; it shares the account of passes."""
        inner, core = self.inner, find_innermost(self.inner)
        if self._spec.kind in _OWN_KINDS:
            yield inner
            return
        if self._spec.student is not None:
            yield self._get_student_classifier(self._spec.student)
            return
        with core.open_fresh_copy() if core.settings.uses_fresh_copies else nullcontext(core) as source:
            if self._spec.kind == "undefended" and isinstance(inner, WrappedClassifier):
                twin = replace_model(inner.inner, source.model)
                twin.copy_accepted_labels(inner)
            else:
                twin = replace_model(inner, self._build_model(source.model))
            if self._spec.kind == "part":
                ignore_rejection(twin)
            yield share_account(twin, inner)

    def _get_student_classifier(self, record: StudentRecord) -> Classifier:
        """Return the student, whose passes are no queries of the model."""
        if self._student is None:
            student = rebuild_student(record)
            self._student = Classifier(
                student, num_classes=self.num_classes, device=self.device, name=self.name
            )
        return self._student

    def _build_model(self, model: Any) -> nn.Module:
        """Return the model that gradients come from; the last one is kept, with what it has learned."""
        spec = self._spec
        if self._surrogate is None or self._surrogate[0] is not model:
            if spec.kind == "part":
                parts = [resolve_part(model, path) for path in spec.paths]
                surrogate: nn.Module = PartModel(parts, spec.parts, self.num_classes)
            else:
                surrogate = SurrogateModel(
                    model,
                    selects=partial(_selects_operator, spec),
                    bypassed=spec.bypassed,
                    measured=spec.measured,
                    width=spec.width,
                    anchors=dict(zip(spec.anchors, spec.parts, strict=False)),
                )
            self._surrogate = (model, surrogate)
        return self._surrogate[1]


def draw_offsets(images: Tensor, radius: float, norm: str) -> tuple[Tensor, ...]:
    """Return the offsets of a neighborhood, in opposite pairs; they depend on the shape of an image alone.

    Args:
        images: (N, C, H, W).
        radius: Size of the offsets: their norm, for ``Linf`` the standard deviation of a pixel.
        norm: ``Linf``, ``L2`` or ``L1``.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    offsets = torch.randn(NEIGHBORS // 2, *images.shape[1:], generator=generator).to(images)
    if norm != "Linf":
        size = offsets.flatten(1).norm(p=int(norm[1:]), dim=1)
        offsets = offsets / size.view(-1, 1, 1, 1)
    return (*(radius * offsets), *(-radius * offsets))


def _selects_operator(spec: ViewSpec, path: str, operator: str) -> bool:
    """Check whether a view replaces an operator in the module at a path."""
    if spec.kind == "smooth":
        return operator in SMOOTHED_OPERATORS
    if spec.kind == "wide":
        is_chosen = operator in {CHOSEN_VALUES, CHOSEN_SCORES}
        is_wanted = is_chosen and operator in (spec.operators or (operator,))
        return is_wanted or operator not in (GENTLE_OPERATORS | SMOOTHED_OPERATORS)  # which have mean slopes
    if operator in GENTLE_OPERATORS or spec.anchors or (spec.paths and path not in spec.paths):
        return False
    return not spec.operators or operator in spec.operators or operator not in CONDITIONAL_OPERATORS


def _transform_loss(spec: ViewSpec, loss: LossFunction) -> LossFunction:
    if spec.kind == "log":
        return lambda probabilities: loss(probabilities.clamp_min(MIN_PROBABILITY).log())
    if spec.kind == "rescaled":
        return lambda logits: loss(logits / spec.scale)
    return loss
