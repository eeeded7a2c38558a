"""The policy for inconsistent models: they are refused, or all their numbers are marked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from robustbench_local.classifier import Classifier, Consistency
from robustbench_local.classifier.wrapper import find_innermost
from robustbench_local.errors import ConfigError, ModelError, ModelTimeoutError, ProcessEndedError
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
from robustbench_local.evaluation.probes.consistency_findings import ConsistencyResult
from robustbench_local.evaluation.probes.consistency_probe import probe_consistency
from robustbench_local.models.program_operators import has_active_observers, is_dynamically_quantized

_REMEDIES = {
    "company": "let its forward treat each image by itself, or give --batch-size N and "
    "--allow-batch-dependence (allow_batch_dependence=True): every number is marked then",
    "memory": "let its forward keep nothing, or give --allow-batch-dependence (allow_batch_dependence=True): "
    "every number is marked then",
    "gradients": "let its forward answer the same with and without gradients, or declare access: scores and "
    "use black-box attacks",
}

_MARKED_REMEDY = "or give --batch-size N and --allow-batch-dependence: every number is marked then"
_DYNAMIC_REMEDY = f"quantize it statically, let its forward ask about one image at a time, {_MARKED_REMEDY}"
_OBSERVER_REMEDY = (
    "its quantization observers still watch its inputs: switch them off by "
    "model.apply(torch.ao.quantization.disable_observer)"
)


def check_consistency(
    classifier: Classifier,
    images: Tensor,
    *,
    allowed: bool = False,
    batch_size: int | None = None,
    timeout: float | None = None,
) -> None:
    """Probe a classifier and apply the consequences; a marked one is not probed again.

    Args:
        classifier: The classifier, a defended one as a whole.
        images: (N, C, H, W) in [0, 1], of the data that it will be evaluated on.
        allowed: See `apply_consistency`.
        batch_size: See `apply_consistency`.
        timeout: Time limit of the probe in seconds; with it the probe runs in a child process where possible.

    Raises:
        RobustbenchError: As `apply_consistency` does.
    """
    if not classifier.settings.consistency.inconsistency_note:
        isolated = (
            timeout is not None and classifier.device.type == "cpu" and classifier.settings.is_fork_safe
        )
        probe = (
            _probe_in_child(classifier, images, timeout)
            if isolated
            else probe_consistency(classifier, images)
        )
        if probe is not None:
            apply_consistency(classifier, probe, allowed=allowed, batch_size=batch_size)


def _probe_in_child(
    classifier: Classifier, images: Tensor, timeout: float | None
) -> ConsistencyResult | None:
    """Probe in a child process; None, with a note, where the model ends that process.

    In an evaluation this costs only the images that end it; one image is queried alone here.
    """
    for chosen in (images, images[:1]):
        try:
            ask = partial(probe_consistency, classifier, chosen)
            return call_isolated(ask, timeout=timeout, name=classifier.name)
        except ProcessEndedError:
            continue
        except ModelTimeoutError:
            break
    classifier.add_note(
        "did not survive a few first questions: whether an answer is the image's own is not known"
    )
    return None


def apply_consistency(
    classifier: Classifier, result: ConsistencyResult, *, allowed: bool, batch_size: int | None
) -> None:
    """Apply the consequences of a probe's result.

    Args:
        classifier: The probed classifier; its query settings are adjusted.
        result: The result, from here or from another process.
        allowed: Whether a model whose answers depend on their batch or history is evaluated all the same,
            with a mark at every number.
        batch_size: The exact batch size for such a model.

    Raises:
        ModelError: If the model is not consistent and that is not allowed.
        ConfigError: If it is allowed, but answers depend on a batch whose size is not declared.
    """
    for note in result.notes:
        classifier.add_note(note)
    within = find_innermost(classifier)
    consistency = Consistency(
        is_unrepeatable=result.is_nondeterministic,
        is_random=result.may_be_random,
        draws_numbers=result.may_be_random or result.is_nondeterministic,
        is_probed=True,
        read_files=result.read_files,
        tolerance=result.tolerance,
        has_misleading_gradients=result.has_misleading_gradients
        or within.settings.consistency.has_misleading_gradients,
    )
    classifier.configure(consistency=consistency)
    within.configure(uses_fresh_copies=within.settings.uses_fresh_copies or result.is_stateful)
    if result.is_consistent:
        return
    if not allowed:
        raise ModelError(result.cause, where=classifier.name, remedy=_choose_remedy(classifier, result))
    how = "each call is answered by a copy that remembers nothing"
    if result.kind == "company":
        if batch_size is None:
            remedy = "give --batch-size N (batch_size=N): it is asked in batches of exactly that size then"
            raise ConfigError(result.cause, where=classifier.name, remedy=remedy)
        within.configure(fixed_batch_size=batch_size)
        how = f"asked in batches of exactly {batch_size}, the last ones filled up by repeating images"
    elif result.kind == "gradients":
        how = "judged without gradients, attacked with them"
    reason = f"{result.cause}; allowed: {how}"
    classifier.configure(consistency=replace(consistency, inconsistency_note=reason))
    classifier.add_note(f"not to be relied on: {reason}")


def _choose_remedy(classifier: Classifier, result: ConsistencyResult) -> str:
    """Return what to do about an inconsistent model."""
    module = classifier.module
    if module is not None and result.kind == "company" and is_dynamically_quantized(module):
        return _DYNAMIC_REMEDY
    if module is not None and result.kind == "memory" and has_active_observers(module):
        return _OBSERVER_REMEDY
    return _REMEDIES[result.kind]


def describe_consistency(classifier: Classifier) -> dict[str, Any] | None:
    """Return the stored description of a marked model; None for any other."""
    if not classifier.settings.consistency.inconsistency_note:
        return None
    return {
        "mark": classifier.settings.consistency.inconsistency_note,
        "batch_size": find_innermost(classifier).settings.fixed_batch_size,
    }


def describe_gradients(classifier: Classifier) -> dict[str, Any]:
    """Return the stored description of a model with misleading gradients; empty for any other."""
    return {"misleading_gradients": True} if classifier.settings.consistency.has_misleading_gradients else {}
