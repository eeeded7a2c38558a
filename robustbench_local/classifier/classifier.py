"""The one interface between an image classifier and every attack, defense and certificate."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from robustbench_local.classifier.abstention_declaration import (
    AbstainDeclaration,
    check_rejecting_index,
    parse_abstention,
)
from robustbench_local.classifier.argument_checks import (
    check_classes,
    check_finite_weights,
    check_images,
    resolve_access,
)
from robustbench_local.classifier.batch_limits import forward_in_allowed_batches
from robustbench_local.classifier.binary_output import check_output_kind
from robustbench_local.classifier.configured import ConfiguredClassifier
from robustbench_local.classifier.device import find_computing_dtype, move_to_device, resolve_device
from robustbench_local.classifier.evaluation_mode import EvaluationMode, evaluation_mode
from robustbench_local.classifier.foreign_errors import is_out_of_memory
from robustbench_local.classifier.fresh_copy import FreshCopies
from robustbench_local.classifier.gradient_guard import GradientGuard, LossFunction
from robustbench_local.classifier.gradient_repair import confirm_gradient
from robustbench_local.classifier.image_borders import MASKED_BORDERS_NOTE, BorderProbe
from robustbench_local.classifier.input_contract import InputContract, make_contract
from robustbench_local.classifier.input_gradient import (
    differentiate_model,
    explain_missing_gradient,
    uses_reentrant_checkpoints,
)
from robustbench_local.classifier.library_view import CountedModule, count_nearest_faults
from robustbench_local.classifier.literals import Access
from robustbench_local.classifier.model_call import ModelCall
from robustbench_local.classifier.model_identity import describe_model, digest_parts
from robustbench_local.classifier.pass_counter import record_finished_pass
from robustbench_local.classifier.preprocessing import Preprocessing
from robustbench_local.classifier.settings import ClassifierSettings
from robustbench_local.classifier.state_guard import set_evaluation_mode


class Classifier(ConfiguredClassifier):
    """Images in [0, 1], (N, C, H, W), to logits, (N, K): wraps any torch module or callable.

    Normalization and resizing happen inside, so that every attack works in pixels. The model is moved to
    ``device`` and stays there; `evaluation_mode` restores everything else that an evaluation changes. Outside
    of it, the model is called in its current mode.

    Args:
        model: A module, or a callable from images to scores (N, K) or, with access ``"labels"``, labels (N,).
        num_classes: K, at least 2.
        normalize: ``(mean, std)`` per channel or a name such as ``"imagenet"``; None for none.
        input_size: (H, W) that the model takes; other images are resized inside, by default bilinearly.
        preprocessing: The model's `InputContract`, or a mapping with those of its fields that have no
            argument here, such as ``{"channel_order": "bgr"}``.
        channels: Number of input channels, where known; images are checked against it.
        class_names: K names.
        access: The attacker's access: ``"gradients"`` (default for a module), ``"scores"`` (default for a
            callable) or ``"labels"``.
        output: The entry of a returned dict or tuple that holds the logits. ``"sigmoid"``: the single output
            is the probability of class 1; ``"logit"``, ``"ENTRY:logit"``: it is the value before the sigmoid.
        abstain: How the model rejects images, see `AbstainDeclaration`: the last column of logits then does.
        name: Name of the model in messages and reports.
        device: Device to compute on; ``"auto"`` means CUDA where available.
        provenance: Origin of the model as JSON values: source, file, SHA-256; empty if unknown.
        settings: How the classifier is used; see `configure`.

    Attributes:
        contract: How the model takes its images, with everything that is applied inside.
        input_size: (H, W) of the contract.
        normalization: Means and standard deviations of the contract, in units of its value scale.
        notes: Facts about this model for a reader of the results, one sentence each.
        gradient_guard: Keeps gradients finite and counts their faults.
        border_probe: Knows whether gradients vanish at pixels of exactly 0 or 1.

    Raises:
        ModelError: If the number of classes or names is impossible, or the model cannot be moved.
        ConfigError: If the access, normalization or device is unknown.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        *,
        num_classes: int,
        normalize: tuple[Sequence[float], Sequence[float]] | str | None = None,
        input_size: tuple[int, int] | None = None,
        preprocessing: InputContract | Mapping[str, Any] | None = None,
        channels: int | None = None,
        class_names: Sequence[str] | None = None,
        access: Access | None = None,
        output: str | int | None = None,
        abstain: AbstainDeclaration | None = None,
        name: str = "model",
        device: str | torch.device = "cpu",
        provenance: Mapping[str, Any] | None = None,
        settings: ClassifierSettings | None = None,
    ) -> None:
        super().__init__(resolve_device(device), parse_abstention(abstain), settings or ClassifierSettings())
        self._model = model
        self.name: Final = name
        self.output: Final = output
        classes = check_classes(num_classes, class_names, name)
        self.num_classes: Final = classes[0]
        self.class_names: Final = classes[1]
        check_rejecting_index(self.abstention, self.num_classes, name)
        self.access: Final = resolve_access(access, self.module is not None, name)
        self.contract: Final = make_contract(
            preprocessing, normalize=normalize, input_size=input_size, channels=channels
        )
        self.input_size: Final = self.contract.input_size
        self.normalization: Final = self.contract.normalization
        self.notes: Final[list[str]] = []
        self.provenance: Final = dict(provenance or {})
        self._needs_full_backward: bool | None = None
        self._fresh_copies = FreshCopies()
        self._evaluation_mode: EvaluationMode | None = None
        dtype = find_computing_dtype(self.module)
        self.gradient_guard: Final = GradientGuard()
        self.border_probe: Final = BorderProbe(dtype)
        self._preprocessing = Preprocessing(self.contract, self.device, dtype)
        self.channels: Final = self.contract.channels if channels is None else channels
        move_to_device(self.module, self.device, self.name)
        meaning, logit_check = check_output_kind(output, self.num_classes, self.class_names, name)
        self._model_call = ModelCall(
            self.num_classes, self.access, output, name, logit_check, self.abstention
        )
        if meaning:
            self.add_note(meaning)
        if getattr(self.module, "training", False):
            self.add_note("left in training mode by its maker; attacked in evaluation mode")
        if dtype not in (torch.float32, torch.float64):
            self.add_note(f"computes in {str(dtype).removeprefix('torch.')}; images and logits are float32")

    def __repr__(self) -> str:
        size = "" if self.input_size is None else f", {self.input_size[0]}x{self.input_size[1]}"
        about = f"{self.name!r}, {self.num_classes} classes{size}, {self.access}, {self.device}"
        return f"{type(self).__name__}({about})"

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return logits of images; counts one forward pass per image.

        Args:
            images: (N, C, H, W), floating, in [0, 1]; never changed, whatever the model does to its input.
            rows: (N,), the image in the open `count_passes` that each row belongs to; by default the first N.

        Returns:
            (N, K), float32, on ``device``. Differentiable if the access is ``"gradients"``, gradients are
            enabled and ``images`` require them; access ``"labels"`` gives one-hot rows. NaN is passed on.

        Raises:
            ModelError: If the images do not fit the model, it raises, or its output is not (N, K) floats.
            InvariantError: If an image has no query left; the model is then not called.
        """
        images = self._check_images(images)
        if self._pass_counters:
            self._pass_counters[-1].check_queries_left(rows, len(images))
        wanted = self.access == "gradients" and torch.is_grad_enabled() and images.requires_grad
        with torch.set_grad_enabled(wanted):
            logits = self.border_probe.compute_logits(self._compute_logits, images)
        if self._pass_counters:
            for _ in range(self.forward_passes_per_call if wanted else 1):
                self._pass_counters[-1].add_forward(rows, len(images))
        return self._merge_rejection(logits, rows)

    def compute_gradient(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the pixel gradient of a per-image loss; one forward and one backward pass per image.

        Args:
            images: (N, C, H, W) in [0, 1].
            loss: Logits, (N, K), to one value per image, (N,), or to T values, (N, T), each a backward pass.
            rows: As in `__call__`.

        Returns:
            Logits (N, K), losses and their gradients, (N, C, H, W) or (N, T, C, H, W); all detached.
            Gradients are finite: NaN and infinities are removed where they arise, and counted.

        Raises:
            ModelError: If the model gives no gradients: by its access, or because its forward cuts the graph.
        """
        if self.access != "gradients":
            raise explain_missing_gradient(self.access, self.name)
        retry = partial(self.memory_limit.run_with_retries, count=len(images), min_size=self._smallest_part)
        retry(partial(self.find_masked_borders, images.to(self.device)))
        logits, losses, slopes = retry(partial(self._differentiate_once, images, loss, rows))
        record_finished_pass()
        if slopes is None:
            raise explain_missing_gradient(self.access, self.name)
        if self._pass_counters:
            counter = self._pass_counters[-1]
            counter.add_backward(rows, len(images), times=1 if losses.ndim == 1 else losses.shape[1])
            counter.add_gradient_step(rows, len(images))
        losses = losses.detach()
        repair = self.gradient_guard.repair_gradient
        gradient = retry(partial(repair, self, images.to(self.device), loss, rows, losses, slopes))
        return logits.detach(), losses, gradient

    def _differentiate_once(
        self, images: Tensor, loss: LossFunction, rows: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits, losses and gradients; after an exception, the forward pass does not count."""
        counter = self.open_counter
        before = None if counter is None else counter.save_forward_counts()
        try:
            with torch.enable_grad():
                leaf = images.detach().to(self.device).requires_grad_()
                logits = self(leaf, rows)
                losses = loss(logits)
                slopes = self.differentiate_losses(losses, leaf) if losses.requires_grad else None
        except Exception as error:
            if counter is not None and before is not None and is_out_of_memory(error):
                counter.restore_forward_counts(before)
            raise
        return logits, losses, slopes

    def confirm_gradient(
        self, losses_at: LossFunction, images: Tensor, losses: Tensor, gradient: Tensor
    ) -> Tensor:
        """Mark the repaired gradients that finite differences of the losses confirm, (N,)."""
        return confirm_gradient(losses_at, images, losses, gradient)

    def differentiate_losses(self, losses: Tensor, leaf: Tensor) -> Tensor | None:
        """See `differentiate_model`."""
        if self._needs_full_backward is None:
            self._needs_full_backward = uses_reentrant_checkpoints(losses)
        return differentiate_model(losses, leaf, full_backward=self._needs_full_backward, name=self.name)

    @property
    def model(self) -> nn.Module | Callable[[Tensor], Tensor]:
        """The wrapped model: a module, or any other callable."""
        return self._model

    @property
    def module(self) -> nn.Module | None:
        """The model if it is a module."""
        return self._model if isinstance(self._model, nn.Module) else None

    @contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Enter evaluation mode with frozen parameters and exact arithmetic; restore everything after (V10).

        Restored are training flags, requires_grad, .grad, parameters, buffers, random states (Python, NumPy,
        torch), cuDNN and TF32 flags, dtype, threads, grad mode, working directory. Nested calls do nothing.
        """
        if self._evaluation_mode is not None:
            yield
            return
        move_to_device(self.module, self.device, self.name)
        self._remember_original()
        try:
            with evaluation_mode(self.module, self.name, self.add_note) as self._evaluation_mode:
                yield
        finally:
            self._evaluation_mode = None
            self._fresh_copies.record_state(self.model)

    @contextmanager
    def open_fresh_copy(self) -> Iterator[Classifier]:
        """Open a classifier over a copy of the model before its first call; in `evaluation_mode` only.

        It shares parameters, preprocessing and notes with this one, and counts its own passes. While it is
        open, globals and other outside state that the model's code uses have their values of that time, too.

        Yields:
            The copy; this classifier itself, with a note, where its model cannot be copied.
        """
        with self._fresh_copies.open_copy(self.add_note) as model:
            yield self if model is None else self._copy_with_model(model)

    @property
    def uncopied_attributes(self) -> frozenset[str]:
        """Paths of the model's attributes that cannot be copied and that fresh copies share with it."""
        return self._fresh_copies.uncopied_attributes

    def to(self, device: str | torch.device) -> Classifier:
        """Move to another device; ``"auto"`` means CUDA where available.

        Raises:
            ConfigError: If there is no such device here.
            ModelError: If the model cannot be moved.
        """
        self._device = resolve_device(device)
        self._preprocessing = Preprocessing(self.contract, self.device, find_computing_dtype(self.module))
        move_to_device(self.module, self.device, self.name)
        return self

    def as_module(self, originals: Tensor | None = None) -> nn.Module:
        """Return this classifier as a module for other libraries; its passes count in `external_passes`.

        Args:
            originals: The images of the open counter, (N, C, H, W): a gradient fault counts for the nearest
                one. None: faults are not counted.
        """
        record = partial(count_nearest_faults, lambda: self.open_counter, originals)
        return CountedModule(self._compute_external_logits, self._external_passes, self.module, record)

    def compute_digest(self) -> str:
        """Return the SHA-256, hexadecimal, over everything that decides the logits; see `describe_parts`."""
        return digest_parts(self.describe_parts())

    def describe_parts(self) -> dict[str, str]:
        """Describe what decides the logits, by name: weights, layers, code, files, preprocessing, versions.

        Each value is a digest, a version or a few words. See `model_identity` for what is covered.
        """
        declared = (self.access, self.output, *((self.abstention,) if self.abstention else ()))
        parts = (self.num_classes, self.normalization, self.input_size, *declared)
        extras = self.contract.list_extras()
        return {**describe_model(self.model), "preprocessing and access": repr((*parts, *extras))}

    def count_parameters(self) -> int | None:
        """Return the number of trained parameters; None for a callable."""
        return None if self.module is None else sum(p.numel() for p in self.module.parameters())

    def check_finite_weights(self) -> None:
        """Check parameters and buffers for NaN and infinity.

        Raises:
            ModelError: Naming the first tensor that has one.
        """
        check_finite_weights(self.module, self.name)

    def add_note(self, text: str) -> None:
        """Add a note to ``notes``, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _remember_original(self) -> None:
        """Record the model's state, unless it is recorded and only evaluations have used the model since."""
        self._fresh_copies.remember_model(self.model)

    def _copy_with_model(self, model: Any) -> Classifier:
        """Return a classifier like this one over a copy of the model."""
        twin = copy.copy(self)
        twin._model, twin._model_call, twin._pass_counters = model, copy.copy(self._model_call), []  # noqa: SLF001
        twin.configure(uses_fresh_copies=False)
        if twin.module is not None:
            set_evaluation_mode(twin.module)
            move_to_device(twin.module, self.device, self.name)
        return twin

    def _check_images(self, images: Tensor) -> Tensor:
        check_images(images, self.channels, self.name)
        return images.to(self.device)

    def _compute_logits(self, images: Tensor) -> Tensor:
        """Return logits of checked images, in batches that the model accepts and that fit into memory."""
        return self.memory_limit.compute_logits(self._query_in_batches, images, min_size=self._smallest_part)

    def _query_in_batches(self, images: Tensor) -> Tensor:
        limits = self._settings
        logits, must_double = forward_in_allowed_batches(
            self._query_model, images, fixed_size=limits.fixed_batch_size, min_size=limits.min_batch_size
        )
        if must_double:
            self.configure(min_batch_size=2)
            self.add_note(
                "fails on a single image (squeeze() without a dimension?): single images are given twice"
            )
        return logits

    def _query_model(self, images: Tensor) -> Tensor:
        """Query the model, or a fresh copy of it, on these images in one batch."""
        if self._settings.uses_fresh_copies:
            with self.open_fresh_copy() as twin:
                return twin._query_model(images)  # noqa: SLF001
        return self._model_call.compute_logits(
            self.model, images, self._preprocessing, self._evaluation_mode, self.add_note
        )

    def _compute_external_logits(self, images: Tensor) -> Tensor:
        images = self._check_images(images)
        wanted = self.access == "gradients" and torch.is_grad_enabled()
        if wanted and images.requires_grad:
            self.find_masked_borders(images)
        with torch.set_grad_enabled(wanted):
            logits = self.border_probe.compute_logits(self._compute_logits, images)
        return self._merge_rejection(logits, self._find_nearest_originals(images))

    @property
    def forward_passes_per_call(self) -> int:
        """Number of forward passes of an answer with gradients."""
        return 2 if self.border_probe.masked else 1

    def find_masked_borders(self, images: Tensor) -> None:
        """Detect at the first gradients whether they vanish at pixels of exactly 0 or 1."""
        if self.border_probe.detect_masking(self._compute_logits, images):
            self.add_note(MASKED_BORDERS_NOTE)
