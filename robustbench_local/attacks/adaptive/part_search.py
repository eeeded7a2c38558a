"""Parts of a model that classify images themselves: members of ensembles, networks under a defense."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.findings import PartFinding, PartInput, PartRole
from robustbench_local.attacks.adaptive.fixed_draws import PROBE_SEED, preserve_randomness
from robustbench_local.attacks.adaptive.local_slopes import select_output
from robustbench_local.attacks.adaptive.logit_checks import check_logits
from robustbench_local.attacks.adaptive.model_parts import iterate_parts
from robustbench_local.attacks.adaptive.module_records import ModuleRecord, record_modules
from robustbench_local.attacks.adaptive.part_model import convert_to_part_input, resize_to_part
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import seed_everything

MIN_AGREEMENT = 0.5
"""Share of images with the same label from which a part, fed directly, is worth a transfer attack."""
MAX_NONLINEARITY = 1e-3
"""Largest relative deviation from linearity of what feeds a part, up to which its path is a normalization or
resizing, whose gradients are exact.

Measured: rounding in float32 gives 1e-6; 8-bit quantization of the pixels, the finest of defenses, 4e-3."""


@dataclass(frozen=True)
class _Candidate:
    """A module that gives K scores for each image.

    Attributes:
        path: Its path.
        module: The module.
        source: What the model feeds it, (N, C, h, w).
        output: Its scores, (N, K).
        is_direct: Whether what feeds it is linear in the model's input.
    """

    path: str
    module: nn.Module
    source: Tensor
    output: Tensor
    is_direct: bool


@dataclass(frozen=True)
class _Whole:
    """The model itself: its input, (N, C, H, W), and its logits, (N, K)."""

    source: Tensor
    logits: Tensor


def find_parts(classifier: Classifier, images: Tensor) -> tuple[PartFinding, ...]:
    """Find the parts of a model that are classifiers of images.

    A network behind a mere normalization or resizing, whose scores are the model's, is no part: its gradient
    is the model's.

    Args:
        classifier: Without wrappers, in evaluation mode; the open counter counts the passes.
        images: (N, C, H, W) in [0, 1].
    """
    mixed = (images + images.roll(1, dims=0)) / 2
    logits, first = _record_pass(classifier, images, PROBE_SEED)
    _, second = _record_pass(classifier, mixed, PROBE_SEED + 1)  # random fronts are not linear, either
    whole = _Whole(_prepare_images(classifier, images), logits)
    candidates = [
        _Candidate(path, record.module, record.source, record.output, _is_linear(record, second.get(path)))
        for path, record in {**second, **first}.items()  # a random model may use others each time
        if record.source is not None
        and record.output is not None
        and _is_classifier(record.source, record.output, whole)
    ]
    candidates += _call_unused_modules(classifier, whole, {**first, **second})
    chosen = _select_outermost(candidates, whole)
    role: PartRole = "member" if len(chosen) > 1 else "base"
    findings = [_judge_part(classifier, candidate, whole, role) for candidate in chosen]
    return tuple(finding for finding in findings if finding.agreement >= MIN_AGREEMENT)


def _record_pass(classifier: Classifier, images: Tensor, seed: int) -> tuple[Tensor, dict[str, ModuleRecord]]:
    """Return the logits and the first call of each module on all images."""
    with preserve_randomness(), record_modules(classifier.model) as calls, torch.no_grad():
        seed_everything(seed)
        logits = classifier(images)
    fitting = [
        call for call in calls if call.path and call.source is not None and len(call.source) == len(images)
    ]
    first: dict[str, ModuleRecord] = {}
    for call in fitting:
        first.setdefault(call.path, call)
    return logits, first


def _prepare_images(classifier: Classifier, images: Tensor) -> Tensor:
    prepared: Tensor = classifier._preprocessing(images)  # noqa: SLF001  what the model gets
    return prepared


def _is_classifier(source: Tensor, output: Tensor, whole: _Whole) -> bool:
    count, classes = whole.logits.shape
    return (
        source.ndim == 4
        and source.shape[:2] == whole.source.shape[:2]
        and output.ndim == 2
        and output.shape[0] == count
        and output.shape[1] in {classes, classes - 1}
        and output.shape[1] >= 2
    )


def _is_linear(record: ModuleRecord, mixed: ModuleRecord | None) -> bool:
    """Check that a part's input on mixed images is the mixture of its inputs."""
    source = record.source
    if source is None or mixed is None or mixed.source is None or mixed.source.shape != source.shape:
        return False
    expected = ((source + source.roll(1, dims=0)) / 2).double()
    spread = (source.double() - source.double().mean()).norm().clamp_min(1e-12)
    return float((mixed.source.double() - expected).norm() / spread) <= MAX_NONLINEARITY


def _select_outermost(candidates: list[_Candidate], whole: _Whole) -> list[_Candidate]:
    """Select the outermost candidates; a single one that is the whole model is opened."""
    outermost = [
        candidate
        for candidate in candidates
        if not any(candidate.path.startswith(f"{other.path}.") for other in candidates)
    ]
    if (
        len(outermost) == 1
        and outermost[0].is_direct
        and _gives_same_scores(outermost[0].output, whole.logits)
    ):
        shell = outermost[0].path
        return _select_outermost([other for other in candidates if other.path.startswith(f"{shell}.")], whole)
    return outermost


def _gives_same_scores(output: Tensor, logits: Tensor) -> bool:
    """Check that a model's logits are a part's scores, up to scale, a shift of each row and a softmax."""
    if output.shape != logits.shape:
        return False
    target, origin = (
        values.double() - values.double().mean(dim=1, keepdim=True) for values in (logits, output)
    )
    scale = (target * origin).sum() / origin.square().sum().clamp_min(1e-300)
    residual = float((target - scale * origin).norm() / target.norm().clamp_min(1e-300))
    return residual <= MAX_NONLINEARITY or torch.allclose(
        output.float().softmax(dim=1), logits.float(), atol=1e-4
    )


def _call_unused_modules(
    classifier: Classifier, whole: _Whole, used: dict[str, ModuleRecord]
) -> list[_Candidate]:
    """Call the modules that the hooks have not seen, as those of scripted models, on the model's input."""
    candidates: list[_Candidate] = []
    for path, module in iterate_parts(classifier.model):
        inside = any(path.startswith(f"{candidate.path}.") for candidate in candidates)
        is_used = path in used or any(other.startswith(f"{path}.") for other in used)
        if is_used or inside or not any(True for _ in module.parameters()):
            continue
        output = _call_on_images(module, whole.source)
        if output is not None and _is_classifier(whole.source, output, whole):
            candidates.append(_Candidate(path, module, whole.source, output, is_direct=False))
    return candidates


def _call_on_images(module: nn.Module, images: Tensor) -> Tensor | None:
    """Return a module's output for images; None if it does not take them."""
    with preserve_randomness(), torch.no_grad():
        seed_everything(PROBE_SEED)
        try:
            return select_output(module(images.clone()))
        except Exception:  # noqa: BLE001 - most modules take something else
            return None


def _judge_part(classifier: Classifier, candidate: _Candidate, whole: _Whole, role: PartRole) -> PartFinding:
    """Feed a part directly and compare its labels with the model's."""
    part_input = _fit_input(whole.source, candidate.source)
    output = _call_on_images(candidate.module, convert_to_part_input(whole.source, part_input))
    if classifier.open_counter is not None:
        classifier.open_counter.add_forward(None, len(whole.source))
    agreement, gives_probabilities = 0.0, False
    if output is not None and output.shape == candidate.output.shape:
        agreement = float((output.argmax(dim=1) == whole.logits.argmax(dim=1)).float().mean())
        gives_probabilities = check_logits(output).are_probabilities
    return PartFinding(
        path=candidate.path,
        role=role,
        agreement=agreement,
        input=part_input,
        gives_probabilities=gives_probabilities,
    )


def _fit_input(source: Tensor, target: Tensor) -> PartInput:
    """Fit a straight line per channel from the model's input to a part's input."""
    size = None if source.shape == target.shape else (target.shape[2], target.shape[3])
    resized = resize_to_part(source, size).double().transpose(0, 1).flatten(1)
    goal = target.double().transpose(0, 1).flatten(1)
    centered = resized - resized.mean(dim=1, keepdim=True)
    power = centered.square().sum(dim=1).clamp_min(1e-12)
    slopes = (centered * (goal - goal.mean(dim=1, keepdim=True))).sum(dim=1) / power
    offsets = goal.mean(dim=1) - slopes * resized.mean(dim=1)
    return PartInput(slopes=tuple(slopes.tolist()), offsets=tuple(offsets.tolist()), size=size)
