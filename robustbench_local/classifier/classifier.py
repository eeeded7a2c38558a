"""The one interface between an image classifier and everything that works against it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robustbench_local.classifier.binary_output import REMEDY, check_head
from robustbench_local.classifier.device import ChannelsLast, place, resolve_device
from robustbench_local.classifier.foreign_errors import first_line, out_of_memory
from robustbench_local.classifier.fresh_copy import OriginalState
from robustbench_local.classifier.gradient_guard import GradientGuard
from robustbench_local.classifier.gradient_repair import GradientFaults, confirm_slope
from robustbench_local.classifier.image_borders import NOTE, BorderProbe, move_inside
from robustbench_local.classifier.model_identity import describe_model, digest_parts
from robustbench_local.classifier.model_output import read_labels, read_logits
from robustbench_local.classifier.pass_counter import (
    CountedModule,
    Meter,
    input_gradient,
    pass_finished,
    uses_reentrant_checkpoints,
)
from robustbench_local.classifier.preprocessing import Normalization, Preprocessing, parse_normalization
from robustbench_local.classifier.state_guard import (
    ModuleState,
    RandomStates,
    Settings,
    set_evaluation_mode,
    sound_arithmetic,
)
from robustbench_local.errors import ConfigError, ModelError, RobustbenchError
from robustbench_local.straight_through import straight_through

Access = Literal["gradients", "scores", "labels"]
Precision = Literal["fp32", "bf16"]
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """How far a model's answer to an image is the image's own; what `probe_consistency` found, in short."""

    mark: str = ""
    """Why it is not, although the user allowed that, in one line; empty if it is. With a mark, no number of
    the model is relied on."""
    varies: bool = False
    """Whether the same image gets another answer each time, by random numbers that no seed repeats."""
    draws: bool = True
    """Whether it may draw random numbers: then answers can only be compared after equal seeds."""
    tolerance: float = 1e-4
    """Share of the logits' range by which answers differ by rounding."""


class Classifier:
    """Images in [0, 1], (N, C, H, W), to logits, (N, K): any torch module or any callable.

    Normalisation and resizing happen inside, so that every attack works in pixels. The model is moved to
    ``device`` and stays there; everything else that an evaluation changes is put back by `attacked`, inside
    which it is in evaluation mode. Outside, it is called in whatever mode it is in.

    Args:
        model: A module, or a callable from images to scores (N, K) or, with access ``"labels"``, labels (N,).
        num_classes: K, at least 2.
        normalize: ``(mean, std)`` per channel or a name such as ``"imagenet"``; None for none.
        input_size: (H, W) that the model takes; other images are resized inside (bilinear, antialiased).
        channels: How many channels the model takes, where known; images are checked against it.
        class_names: K names, where known.
        access: What an attacker may use: ``"gradients"`` (default for a module), ``"scores"`` (default for a
            callable) or ``"labels"``.
        output: Which entry of a dict or tuple that the model returns holds the logits. ``"sigmoid"``: its one
            output is the probability of class 1; ``"logit"``: the value before the sigmoid; ``"ENTRY:logit"``
            where that is an entry. Both make two classes.
        name: What to call the model in messages and reports.
        device: Where to compute; ``"auto"`` means CUDA where there is one.

    Attributes:
        notes: What a reader of the results should know about this model, one sentence each.
        provenance: Where the model comes from, as JSON values: source, file, SHA-256; empty if unknown.
        batch_size: Images that an attack gives it at a time; None leaves it to the attack. No influence on
            verdicts.
        search_precision: ``"fp32"``, or ``"bf16"`` for searches that are faster and miss a few breaks on
            robust networks; successes are confirmed in float32, and so are all verdicts.
        compile_steps: Whether attacks compile their own step with ``torch.compile``: worth a minute's wait in
            long runs on a GPU. No influence on verdicts.
        foreign_passes: ``[forward rows, backward rows]`` spent through `as_module`; its reader resets it.
        passes_elsewhere: Those under way in worker processes.
        can_be_copied: Whether it works in a copy of this process; not where it has threads of its own.
        smallest_batch: Images that the model is given at least: where it is 2, a single one is given twice.
        gradient_guard: Keeps gradients finite and counts what was wrong with them.
        border_probe: Knows whether gradients break off at pixels of exactly 0 or 1.
        consistency: How far an answer is the image's own.
        fixed_batch_size: Images that the model itself is given at a time, exactly: fewer are filled up by
            repeating them. None unless its answers depend on the batch and the user allowed that.
        forgets: Whether every call asks a fresh copy of the model, because it remembers what it was asked.

    Raises:
        ModelError: If the number of classes or names is impossible, or the model cannot be moved.
        ConfigError: If the access, normalisation or device is unknown.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        *,
        num_classes: int,
        normalize: tuple[Sequence[float], Sequence[float]] | str | None = None,
        input_size: tuple[int, int] | None = None,
        channels: int | None = None,
        class_names: Sequence[str] | None = None,
        access: Access | None = None,
        output: str | int | None = None,
        name: str = "model",
        device: str | torch.device = "cpu",
    ) -> None:
        self.model, self.name, self.output = model, name, output
        self.module = model if isinstance(model, nn.Module) else None
        self.device = resolve_device(device)
        self.num_classes, self.class_names = _checked_classes(num_classes, class_names, name)
        self.access = _checked_access(access, self.module is not None, name)
        normalization = parse_normalization(normalize, channels)
        several = normalization is not None and len(normalization[0]) > 1
        self.channels = len(normalization[0]) if normalization and channels is None and several else channels
        self.input_size = None if input_size is None else (int(input_size[0]), int(input_size[1]))
        self.notes: list[str] = []
        self.provenance: dict[str, Any] = {}
        self.batch_size: int | None = None
        self.search_precision: Precision = "fp32"
        self.compile_steps = False
        self.foreign_passes, self.passes_elsewhere = [0, 0], 0
        self.smallest_batch = 1
        self.can_be_copied = True
        self._whole_backward: bool | None = None
        self.fixed_batch_size: int | None = None
        self.consistency, self.forgets = Consistency(), False
        self._original: OriginalState | None = None
        self._meters: list[Meter] = []
        self._attacked = self._examined = False
        self._copying = True
        self._layout: ChannelsLast | None = None
        self._sound: dict[bool, Settings] = {}
        dtype = _computing_dtype(self.module)
        self.gradient_guard, self.border_probe = GradientGuard(), BorderProbe(dtype)
        self._prepare = Preprocessing(normalization, self.input_size, self.device, dtype)
        self._move()
        meaning, self._logit_check = check_head(output, self.num_classes, self.class_names, name)
        if meaning:
            self.note(meaning)
        if getattr(self.module, "training", False):
            self.note("left in training mode by its maker; attacked in evaluation mode")
        if dtype not in (torch.float32, torch.float64):
            self.note(f"computes in {str(dtype).removeprefix('torch.')}; images and logits are float32")

    def __call__(self, images: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits of images; counts one forward pass an image.

        Args:
            images: (N, C, H, W), floating, in [0, 1]; never changed, whatever the model does to its input.
            rows: (N,), which image of the open `metered` each row belongs to; by default the first N.

        Returns:
            (N, K), float32, on ``device``. Differentiable if the access is ``"gradients"``, gradients are
            enabled and ``images`` require them; access ``"labels"`` gives one-hot rows. NaN is passed on.

        Raises:
            ModelError: If the images do not fit the model, it raises, or its output is not (N, K) floats.
            InvariantError: If an image has no query left for it; the model is not asked then.
        """
        images = self._checked_images(images)
        if self._meters:
            self._meters[-1].reserve(rows, len(images))
        wanted = self.access == "gradients" and torch.is_grad_enabled() and images.requires_grad
        with torch.set_grad_enabled(wanted):
            logits = self._answers(images)
        if self._meters:
            for _ in range(self.forwards_each if wanted else 1):
                self._meters[-1].add_forward(rows, len(images))
        return logits

    def gradient(
        self, images: Tensor, loss: Callable[[Tensor], Tensor], rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of a per-image loss with respect to the pixels; a forward and a backward pass an image.

        Args:
            images: (N, C, H, W) in [0, 1].
            loss: Logits, (N, K), to one value an image, (N,), or to T values, (N, T), each a backward pass.
            rows: As in `__call__`.

        Returns:
            Logits (N, K), losses and their gradients, (N, C, H, W) or (N, T, C, H, W); all detached.
            Gradients are finite: what is not is taken out where it arises in the backward pass, and counted.

        Raises:
            ModelError: If the model gives no gradients: by its access, or because its forward cuts the graph.
        """
        if self.access != "gradients":
            raise ModelError(
                f"gives {self.access} only, no gradients", where=self.name, remedy="use a black-box attack"
            )
        self.find_masked_borders(images.to(self.device))
        with torch.enable_grad():
            leaf = images.detach().to(self.device).requires_grad_()
            logits = self(leaf, rows)
            losses = loss(logits)
            found = self.differentiate(losses, leaf) if losses.requires_grad else None
        pass_finished()
        if found is None:
            raise ModelError(
                "no gradient path from the output to the pixels (no_grad, detach or numpy inside?)",
                where=self.name,
                remedy="remove it, or declare access: scores and use black-box attacks",
            )
        if self._meters:
            self._meters[-1].add_backward(rows, len(images), times=1 if losses.ndim == 1 else losses.shape[1])
            self._meters[-1].add_look(rows, len(images))
        losses = losses.detach()
        mended = self.gradient_guard.mend(self, images.to(self.device), loss, rows, losses, found)
        return logits.detach(), losses, mended

    def confirm_gradient(self, losses_at: Loss, images: Tensor, losses: Tensor, gradient: Tensor) -> Tensor:
        """Which repaired gradients the losses themselves confirm, (N,)."""
        return confirm_slope(losses_at, images, losses, gradient)

    def differentiate(self, losses: Tensor, leaf: Tensor) -> Tensor | None:
        """See `input_gradient`; what the model's own backward pass raises is an error of the model."""
        if self._whole_backward is None:
            self._whole_backward = uses_reentrant_checkpoints(losses)
        try:
            return input_gradient(losses, leaf, whole=self._whole_backward)
        except Exception as error:
            if out_of_memory(error) or isinstance(error, RobustbenchError):
                raise
            message = f"its backward pass raised {type(error).__name__}: {first_line(error)}"
            remedy = "mend it, or declare access: scores and use black-box attacks"
            raise ModelError(message, where=self.name, remedy=remedy) from error

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Evaluation mode, frozen parameters, exact arithmetic; afterwards everything is as before (V10).

        Put back are training flags, requires_grad, .grad, parameters, buffers, the global random states of
        Python, NumPy and torch, cuDNN and TF32 flags, default dtype, thread count, grad mode and working
        directory. Opening it again inside itself does nothing.
        """
        if self._attacked:
            yield
            return
        self._move()
        self._keep_original()
        settings, randomness = Settings.current(), RandomStates.current()
        state = self._remembered()
        self._attacked = True
        try:
            if self.module is not None:
                self._freeze(self.module)
                self._layout = ChannelsLast(self.module)
            with sound_arithmetic():
                # read once, with gradients on and off, so that a forward only has to look at them afterwards
                sound = Settings.current()
                self._sound = {on: sound._replace(gradients=on) for on in (True, False)}
                yield
        finally:
            self._attacked, self._sound = False, {}
            self._rearrange()
            settings.restore()
            randomness.restore()
            if state is not None:
                self._put_back(state)
            if self._original is not None:
                self._original.leave(self.model)

    def name_stage(self, rows: Tensor, stage: str) -> None:
        """Note which stage of an ensemble found the candidates of these images of the open `metered`."""
        if self._meters:
            self._meters[-1].name_stage(rows, stage)

    @contextmanager
    def fresh(self) -> Iterator[Classifier]:
        """A classifier over a copy of the model as it was before its first question; inside `attacked` only.

        It shares parameters, preprocessing and notes with this one, and counts its own passes. As long as it
        is open, globals and the like that the model's code uses have the values of then, too.

        Yields:
            The copy; this classifier itself, with a note, where its model cannot be copied.
        """
        with ExitStack() as stack:
            model = None
            if self._original is not None:
                model = stack.enter_context(self._original.copied())
                if self._original.problem:
                    problem = f"its model cannot be copied ({self._original.problem})"
                    self.note(f"{problem}: candidates are judged by the model that was attacked")
            yield self if model is None else self._with_model(model)

    @property
    def uncopied(self) -> frozenset[str]:
        """Paths of the model's attributes that fresh copies share with it, because nobody can copy them."""
        return frozenset(self._original.uncopied if self._original is not None else ())

    @contextmanager
    def metered(self, count: int, limit: int | None = None) -> Iterator[Meter]:
        """Count passes by image while open; the innermost open meter counts.

        Args:
            count: How many images are measured.
            limit: Most forward passes an image may spend; a call that would exceed it fails instead.
        """
        meter = Meter(count, self.device, limit)
        with ExitStack() as stack:
            self._meters.append(meter)
            stack.callback(self._meters.remove, meter)
            yield meter

    def passes_under_way(self) -> int:
        """Passes spent since the open meter was opened or the foreign ones were reset: a sign of life."""
        return self.passes_elsewhere + sum(self.foreign_passes) + sum(one.total for one in self._meters[-1:])

    def left(self, rows: Tensor | None = None) -> Tensor | None:
        """Queries that images of the open meter may still spend, int64; None where nothing limits them.

        Args:
            rows: Which images, (N,), by default all that are measured.
        """
        return self._meters[-1].left(rows) if self._meters else None

    @property
    def open_meter(self) -> Meter | None:
        """The innermost open meter, if any."""
        return self._meters[-1] if self._meters else None

    def to(self, device: str | torch.device) -> Classifier:
        """Compute on another device from now on; ``"auto"`` means CUDA where there is one.

        Raises:
            ConfigError: If there is no such device here.
            ModelError: If the model cannot be moved.
        """
        self.device = resolve_device(device)
        dtype = _computing_dtype(self.module)
        self._prepare = Preprocessing(self._prepare.normalization, self.input_size, self.device, dtype)
        self._move()
        return self

    def as_module(self, originals: Tensor | None = None) -> nn.Module:
        """This classifier for other libraries: a module from images to logits; adds to ``foreign_passes``.

        Args:
            originals: The images of the open meter, (N, C, H, W): what is wrong with a gradient is counted
                for the one that is nearest to where it was taken. None: it is not counted.
        """

        def record(images: Tensor, faults: GradientFaults) -> None:
            if self._meters and originals is not None:
                away = torch.cdist(images.flatten(1), originals.to(images).flatten(1), p=torch.inf)
                self._meters[-1].add_faults(away.argmin(dim=1), faults)

        return CountedModule(self._foreign_logits, self.foreign_passes, self.module, record)

    def digest(self) -> str:
        """SHA-256, hexadecimal, over what decides the logits; see `describe_parts`."""
        return digest_parts(self.describe_parts())

    def describe_parts(self) -> dict[str, str]:
        """What decides the logits, by name: weights, layers, code, files, preprocessing, versions.

        Each value is a digest, a version or a few words. See `model_identity` for what is seen and what not.
        """
        said = (self.num_classes, self._prepare.normalization, self.input_size, self.access, self.output)
        return {**describe_model(self.model), "preprocessing and access": repr(said)}

    @property
    def normalization(self) -> Normalization | None:
        """Means and standard deviations a channel of images in [0, 1]; None if they are left as they are."""
        return self._prepare.normalization

    def parameter_count(self) -> int | None:
        """How many numbers the model was trained to; None for a callable."""
        return None if self.module is None else sum(p.numel() for p in self.module.parameters())

    def check_finite_weights(self) -> None:
        """Look for NaN and infinity in parameters and buffers.

        Raises:
            ModelError: Naming the first tensor that has one.
        """
        if self.module is None:
            return
        for name, tensor in [*self.module.named_parameters(), *self.module.named_buffers()]:
            bad = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
            if bad:
                raise ModelError(
                    f"tensor {name} has {bad} of {tensor.numel()} values that are NaN or infinite",
                    where=self.name,
                    remedy="export the weights again",
                )

    def note(self, text: str) -> None:
        """Add to ``notes``, once."""
        if text not in self.notes:
            self.notes.append(text)

    def _keep_original(self) -> None:
        """Remember the model as it is, unless that was done and only evaluations have used it since."""
        if self._original is None or not self._original.describes(self.model):
            self._original = OriginalState(self.model)

    def _with_model(self, model: Any) -> Classifier:
        """A classifier like this one over a copy of the model."""
        twin = copy.copy(self)
        twin.model, twin.module = model, model if isinstance(model, nn.Module) else None
        twin._meters, twin.forgets = [], False  # noqa: SLF001
        if twin.module is not None:
            set_evaluation_mode(twin.module)
            twin._move()  # noqa: SLF001
        return twin

    def _move(self) -> None:
        if self.module is not None:
            place(self.module, self.device, self.name)

    def _remembered(self) -> ModuleState | None:
        """What using the module may change in it."""
        try:
            return None if self.module is None else ModuleState(self.module)
        except Exception as error:
            if out_of_memory(error):
                raise
            what = f"its parameters and buffers cannot be copied: {first_line(error)}"
            remedy = "give every layer its weights first, lazy ones by a first call"
            raise ModelError(what, where=self.name, remedy=remedy) from error

    def _freeze(self, module: nn.Module) -> None:
        try:
            told = set_evaluation_mode(module)
        except Exception as error:
            what = f"cannot be put into evaluation mode: {type(error).__name__}: {first_line(error)}"
            raise ModelError(what, where=self.name, remedy="let eval() and requires_grad_() work") from error
        if told is not None:
            self.note(told)

    def _put_back(self, state: ModuleState) -> None:
        try:
            changed = state.restore()
        except Exception as error:  # noqa: BLE001 - what was measured is measured
            self.note(f"cannot be put back as it was before it was attacked: {first_line(error)}")
            return
        if changed:
            self.note(f"{', '.join(changed[:3])} changed while it was attacked; put back afterwards")

    def _rearrange(self) -> bool:
        """Let the weights lie as their maker has them; False if they do."""
        layout, self._layout = self._layout, None
        return layout is not None and layout.put_back()

    def _checked_images(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or not images.is_floating_point():
            raise ModelError(
                f"images must be floats (N, C, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}",
                where=self.name,
            )
        if self.channels is not None and images.shape[1] != self.channels:
            raise ModelError(
                f"takes images with {self.channels} channels, these have {images.shape[1]}",
                where=self.name,
                remedy="convert the images, for gray ones with gray_to_rgb: true",
            )
        return images.to(self.device)

    def _logits(self, images: Tensor) -> Tensor:
        """Logits of checked images; a model that cannot take a single one is given it twice."""
        if self.fixed_batch_size is not None and len(images):
            return self._logits_in_fixed_batches(images, self.fixed_batch_size)
        if 0 < len(images) < self.smallest_batch:
            return self._answer(torch.cat([images, images[-1:]]))[:1]
        try:
            return self._answer(images)
        except ModelError:
            if len(images) != 1:
                raise
            try:
                logits = self._answer(torch.cat([images, images]))[:1]
            except Exception:  # noqa: BLE001 - then it is not the number of images: the first error says more
                logits = None
            if logits is None:
                raise
        self.smallest_batch = 2
        self.note("fails on a single image (squeeze() without a dimension?): single images are given twice")
        return logits

    def _logits_in_fixed_batches(self, images: Tensor, size: int) -> Tensor:
        """Logits where the model is always given ``size`` images, the last ones repeated if need be."""
        answers = []
        for part in torch.split(images, size):
            filled = part[torch.arange(size, device=part.device) % len(part)]
            answers.append(self._answer(filled)[: len(part)])
        return torch.cat(answers)

    def _answer(self, images: Tensor) -> Tensor:
        """What the model, or a fresh copy of it, answers to these images together."""
        if self.forgets:
            with self.fresh() as twin:
                return twin._answer(images)  # noqa: SLF001
        given = self._prepare(images)
        if given is images and self._copying:
            given = images.clone()
        settings = self._sound.get(torch.is_grad_enabled()) or Settings.current()
        version = given._version  # noqa: SLF001  the only sign of an in-place change
        randomness = None if self._examined else RandomStates.current()
        try:
            output = self.model(given)
        except Exception as error:
            if out_of_memory(error) or isinstance(error, RobustbenchError):
                raise
            if self._layout is not None and self._layout.explains(error) and self._rearrange():
                return self._answer(images)
            shape = tuple(given.shape)
            message = f"the model raised {type(error).__name__} on images {shape}: {first_line(error)}"
            missing = isinstance(error, ImportError)
            remedy = (
                "import it at the top of the model's file" if missing else "check input_size and channels"
            )
            raise ModelError(message, where=self.name, remedy=remedy) from error
        finally:
            changed = settings.restore()
        if changed:
            self.note(f"its forward changes the process-wide {', '.join(changed)}; put back at once")
        touched = given._version != version  # noqa: SLF001
        if touched and given is images:
            what = "changes its input in place, though not at its first call"
            raise ModelError(what, where=self.name, remedy="let its forward begin with a clone of the input")
        if touched:
            self.note("changes its input in place; it is given a copy")
        read = read_labels if self.access == "labels" else read_logits
        logits = read(output, len(images), self.num_classes, key=self.output, name=self.name).to(self.device)
        if self._logit_check is not None:
            scores = read_logits(output, len(images), 2, key=self.output, name=self.name)
            self._logit_check = None if self._logit_check.look_at(scores) else self._logit_check
        if randomness is not None:
            self._examine(logits, randomness)
            self._copying = touched or not torch.equal(given, self._prepare(images))
        pass_finished()
        return logits

    def _foreign_logits(self, images: Tensor) -> Tensor:
        images = self._checked_images(images)
        wanted = self.access == "gradients" and torch.is_grad_enabled()
        if wanted and images.requires_grad:
            self.find_masked_borders(images)
        with torch.set_grad_enabled(wanted):
            return self._answers(images)

    def _answers(self, images: Tensor) -> Tensor:
        """Logits of images; where gradients break off at the borders, with those of just inside."""
        if not (self.border_probe.masked and torch.is_grad_enabled() and images.requires_grad):
            return self._logits(images)
        with torch.no_grad():
            exact = self._logits(images.detach())
        inside = self._logits(move_inside(images, self.border_probe.inset))
        return straight_through(lambda _: exact, inside)

    @property
    def forwards_each(self) -> int:
        """Forward passes of an answer with gradients."""
        return 2 if self.border_probe.masked else 1

    def find_masked_borders(self, images: Tensor) -> None:
        """At the first gradients: find out whether they break off at pixels of exactly 0 or 1."""
        if self.border_probe.find(self._logits, images):
            self.note(NOTE)

    def _examine(self, logits: Tensor, before: RandomStates) -> None:
        """What the first forward reveals; looking at every one would make each step wait for the device."""
        self._examined = True
        if not before.same(RandomStates.current()):
            self.note("draws random numbers in its forward: its predictions may change from call to call")
        values = logits.detach()
        in_range = ((values >= 0) & (values <= 1)).all()
        if self.access != "labels" and bool(in_range & ((values.sum(dim=1) - 1).abs() <= 1e-5).all()):
            self.note(
                "returns probabilities, not logits: remove the softmax, or losses on logits are weakened"
            )


def _checked_classes(
    num_classes: int, class_names: Sequence[str] | None, name: str
) -> tuple[int, tuple[str, ...] | None]:
    if num_classes < 2:
        remedy = REMEDY if num_classes == 1 else None
        raise ModelError(
            f"a classifier needs at least 2 classes, got {num_classes}", where=name, remedy=remedy
        )
    if class_names is not None and len(class_names) != num_classes:
        raise ModelError(f"{len(class_names)} class names for {num_classes} classes", where=name)
    return num_classes, None if class_names is None else tuple(str(entry) for entry in class_names)


def _checked_access(access: Access | None, is_module: bool, name: str) -> Access:
    if access is None:
        return "gradients" if is_module else "scores"
    if access not in get_args(Access):
        raise ConfigError(
            f"unknown access {access!r}", where=name, remedy=f"use {', '.join(get_args(Access))}"
        )
    return access


def _computing_dtype(module: nn.Module | None) -> torch.dtype:
    floats = (
        (p.dtype for p in module.parameters() if p.is_floating_point()) if module is not None else iter(())
    )
    return next(floats, torch.float32)
