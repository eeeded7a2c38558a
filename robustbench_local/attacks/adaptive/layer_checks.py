"""The innermost modules and custom functions at which gradients go wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_local.attacks.adaptive.custom_functions import (
    CustomFunctions,
    FunctionCall,
    find_custom_functions,
)
from robustbench_local.attacks.adaptive.findings import LayerFault, LayerFinding, OperatorFinding
from robustbench_local.attacks.adaptive.fixed_draws import PROBE_SEED, preserve_randomness
from robustbench_local.attacks.adaptive.local_slopes import (
    find_local_fault,
    has_identity_slope,
    select_output,
)
from robustbench_local.attacks.adaptive.measured_jacobian import is_nearly_affine
from robustbench_local.attacks.adaptive.module_paths import track_module_paths
from robustbench_local.attacks.adaptive.module_records import ModuleRecord, record_modules
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.state_guard import seed_everything
from robustbench_local.classifier.wrapper import find_innermost

LAYER_IMAGES = 4
"""Images whose features the layers are tested on."""
PASSES_PER_LAYER = 26
"""Forward passes of the test of one layer: 2 with a graph for a backward pass each, 24 for differences."""


def check_layers(classifier: Classifier, images: Tensor) -> tuple[LayerFinding, ...]:
    """Find the innermost modules whose gradient is cut, zero, not finite, wrong or nearly zero.

    Args:
        classifier: In evaluation mode; the open counter counts the passes, one for each level of modules.
        images: (N, C, H, W) in [0, 1]; the first `LAYER_IMAGES` are used.
    """
    model = find_innermost(classifier).model
    images = images[:LAYER_IMAGES]
    with preserve_randomness(), record_modules(model) as records, torch.no_grad():
        seed_everything(PROBE_SEED)
        classifier(images)
    first_calls = {record.path: record for record in reversed(records)}
    faults: dict[str, LayerFault] = {}
    for path, record in first_calls.items():
        fault = _find_module_fault(record)
        if fault is not None:
            faults[path] = fault
    _count_layer_passes(classifier, len(images), first_calls)
    return tuple(
        LayerFinding(
            path=path,
            kind=fault,
            keeps_shape=_keeps_shape(first_calls[path]),
            inputs=_count_inputs(first_calls[path]),
            is_affine=_is_affine(first_calls[path]),
            is_declared_identity=_is_within_identity(path, first_calls),
        )
        for path, fault in faults.items()
        if not any(_is_inside(other, path) for other in faults)
    )


def check_functions(classifier: Classifier, images: Tensor) -> tuple[OperatorFinding, ...]:
    """Find the custom autograd functions whose backward contradicts their forward.

    Args:
        classifier: As in `check_layers`.
        images: As there.
    """
    counts: dict[tuple[str, str], int] = {}
    for call, apply_function, source in _list_function_calls(classifier, images):
        with preserve_randomness():
            if _try_local_check(apply_function, source) is not None:
                key = (call.path, f"custom function {call.function.__name__}")
                counts[key] = counts.get(key, 0) + 1
    return tuple(
        OperatorFinding(path=path, operator=operator, count=count)
        for (path, operator), count in counts.items()
    )


def has_straight_functions(classifier: Classifier, images: Tensor) -> bool:
    """Check whether a custom autograd function changes its argument and has the gradient of the identity.

    Args:
        classifier: As in `check_layers`.
        images: As there.
    """
    for _, apply_function, source in _list_function_calls(classifier, images):
        with preserve_randomness(), torch.no_grad():
            value = select_output(apply_function(source.clone()))
        if value is None or value.shape != source.shape or torch.equal(value, source):
            continue
        with preserve_randomness():
            if has_identity_slope(apply_function, source):
                return True
    return False


def _list_function_calls(
    classifier: Classifier, images: Tensor
) -> list[tuple[FunctionCall, Callable[[Tensor], Any], Tensor]]:
    """List the calls of custom functions, each as a function of its first tensor, with that tensor."""
    images = images[:LAYER_IMAGES]
    model = find_innermost(classifier).model
    with preserve_randomness(), torch.enable_grad():
        seed_everything(PROBE_SEED)
        logits = classifier(images.detach().clone().requires_grad_())
        functions = CustomFunctions(find_custom_functions(logits))
        if not functions.classes:
            return []
        with track_module_paths(model) as stack, functions.record_calls(stack) as calls:
            classifier(images.detach().clone().requires_grad_())
    found: list[tuple[FunctionCall, Callable[[Tensor], Any], Tensor]] = []
    for call in calls:
        index = next((i for i, value in enumerate(call.arguments) if _is_floating(value)), None)
        if index is not None:
            found.append((call, partial(_apply_function, call, index), call.arguments[index]))
    return found


def _apply_function(call: FunctionCall, index: int, source: Tensor) -> Any:
    seed_everything(PROBE_SEED)
    return call.function.apply(*call.arguments[:index], source, *call.arguments[index + 1 :])


def _find_module_fault(record: ModuleRecord) -> LayerFault | None:
    if record.source is None or record.output is None:
        return None
    with preserve_randomness():
        return _try_local_check(_make_repeatable(record), record.source)


def _is_within_identity(path: str, calls: dict[str, ModuleRecord]) -> bool:
    """Check whether a module, or one around it, has the gradient of the identity by its own doing."""
    around = [outer for outer in calls if outer and (outer == path or _is_inside(path, outer))]
    return any(_declares_identity(calls[outer]) for outer in around)


def _declares_identity(record: ModuleRecord) -> bool:
    if record.source is None or not _keeps_shape(record):
        return False
    with preserve_randomness():
        return has_identity_slope(_make_repeatable(record), record.source)


def _is_affine(record: ModuleRecord) -> bool:
    if record.source is None:
        return False
    with preserve_randomness():
        try:
            return is_nearly_affine(_make_repeatable(record), record.source)
        except Exception:  # noqa: BLE001 - a module that cannot be called alone is not measured
            return False


def _make_repeatable(record: ModuleRecord) -> Callable[[Tensor], Any]:
    """Return a function that calls the module with the same draws each time."""

    def call_module(values: Tensor) -> Any:
        seed_everything(PROBE_SEED)
        return record.call_module(values)

    return call_module


def _try_local_check(unit: Any, source: Tensor) -> LayerFault | None:
    try:
        return find_local_fault(unit, source)
    except Exception:  # noqa: BLE001 - a module that cannot be called alone is not judged
        return None


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _keeps_shape(record: ModuleRecord) -> bool:
    return (
        record.source is not None and record.output is not None and record.source.shape == record.output.shape
    )


def _count_inputs(record: ModuleRecord) -> int:
    return 0 if record.source is None else record.source[0].numel()


def _is_inside(path: str, outer: str) -> bool:
    return path != outer and (outer == "" or path.startswith(f"{outer}."))


def _count_layer_passes(classifier: Classifier, count: int, calls: dict[str, ModuleRecord]) -> None:
    """Count the tests of modules: all those of one level together cost one pass of the model."""
    counter = classifier.open_counter
    levels = 1 + max((path.count(".") + 1 for path in calls if path), default=0)
    if counter is not None and calls and isinstance(find_innermost(classifier).model, nn.Module):
        for _ in range(levels * PASSES_PER_LAYER):
            counter.add_forward(None, count)
        for _ in range(levels):
            counter.add_backward(None, count)
