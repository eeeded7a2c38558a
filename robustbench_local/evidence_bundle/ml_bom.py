"""The bill of materials: models, data and libraries with hashes, and the results as metrics with intervals.

Source: CycloneDX 1.7 (ECMA-424), with model cards. ``cyclonedx-python-lib`` 11 has no model cards; the tests
validate this file with the schema that it ships.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SPEC_VERSION = "1.7"
_NAMESPACE = uuid.UUID("6f3b3d0e-6d52-5c9c-8f3c-2a8d4ad5f0a1")
"""Makes serial numbers that depend on the results alone."""
_SHARES = ("clean_accuracy", "robust_accuracy", "attack_success", "certified_accuracy")


def build_bom(results: Mapping[str, Any], results_digest: str, *, has_model_card: bool) -> dict[str, Any]:
    """Build the bill of materials of a run.

    Args:
        results: The content of results.json.
        results_digest: Its SHA-256, from which the serial number is made.
        has_model_card: Whether a model card lies beside it in the bundle.

    Returns:
        A CycloneDX 1.7 document.
    """
    models = [_build_model(about, results, has_model_card=has_model_card) for about in results["models"]]
    libraries = [
        {"type": "library", "bom-ref": f"library:{name}", "name": name, "version": str(version)}
        | {"purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"}
        for name, version in sorted((results["environment"].get("versions") or {}).items())
    ]
    started = results["environment"].get("started")
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, results_digest)}",
        "version": 1,
        "metadata": {
            **({"timestamp": started} if started else {}),
            "tools": {
                "components": [
                    {
                        "type": "application",
                        "name": "robustbench_local",
                        "version": str(results["environment"].get("robustbench_local")),
                    }
                ]
            },
            "properties": list(_list_run_properties(results)),
        },
        "components": [*models, _build_data(results), *libraries],
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": ["data"]} for model in models],
    }


def _build_model(
    about: Mapping[str, Any], results: Mapping[str, Any], *, has_model_card: bool
) -> dict[str, Any]:
    provenance = about.get("provenance") or {}
    architecture = provenance.get("architecture")
    reference = f"model:{about['id']}+{about['defense']}"
    weights = provenance.get("sha256")
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": str(about["id"]),
        "version": str(about["digest"]),
        "description": f"defense: {about['defense']}; source: {about['source']}",
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in filter(_is_sha256, [weights])],
        **(
            {"externalReferences": [{"type": "model-card", "url": "model-card.md"}]} if has_model_card else {}
        ),
        "properties": [
            _make_property("digest of weights, preprocessing and code", about["digest"]),
            _make_property("parameters", about.get("parameters")),
            _make_property("access", about.get("access")),
        ],
        "modelCard": {
            "bom-ref": f"{reference}:card",
            "modelParameters": {
                "task": "image classification",
                **({"modelArchitecture": str(architecture)} if architecture else {}),
                "datasets": [{"ref": "data"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_list_metrics(about, results))},
            "considerations": {
                "technicalLimitations": list(_list_limitations(about, results)),
            },
        },
    }


def _build_data(results: Mapping[str, Any]) -> dict[str, Any]:
    data = results["data"]
    size = f"{data.get('n')} images of the split {data.get('split')}"
    entry = {
        "type": "dataset",
        "name": str(data.get("name")),
        "description": f"{size}; images and labels that the models were evaluated on",
        "contents": {
            "properties": [
                _make_property("SHA-256 of ids, labels and images", data.get("digest")),
                _make_property("classes", len(data.get("class_names") or ())),
                _make_property("quarantined files", len(data.get("quarantined") or ())),
            ]
        },
    }
    digests = [value for value in [data.get("digest")] if _is_sha256(value)]
    return {
        "type": "data",
        "bom-ref": "data",
        "name": str(data.get("name")),
        "version": str(data.get("split")),
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
        "data": [entry],
    }


def _list_metrics(about: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """List the shares of a model with intervals: worst cases first, then each attack and certificate."""
    for worst in _select_own(about, results["worst_case"]):
        marks = [f"worst case over {len(worst['attacks'])} attacks", *_list_marks(worst)]
        marks += [] if worst["complete"] else ["incomplete"]
        for name in ("clean_accuracy", "robust_accuracy"):
            yield from _build_metric(name, worst[name], [worst["threat"], *marks])
    for cell in _select_own(about, results["cells"]):
        marks = [cell["attack"], cell["goal"], *_list_marks(cell)]
        marks += [] if cell["status"] == "done" else [cell["reported_status"]]
        for name in _SHARES:
            if name in cell:
                yield from _build_metric(name, cell[name], [cell["threat"], *marks])


def _build_metric(name: str, share: Mapping[str, Any], slices: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Build one metric; a share that is not known is none."""
    if share["value"] is None:
        return
    ends = {
        key: f"{share[end]:.10g}"
        for key, end in (("lowerBound", "low"), ("upperBound", "high"))
        if share[end] is not None
    }
    yield {
        "type": name.replace("_", " "),
        "value": f"{share['value']:.10g}",
        "slice": ", ".join([*slices, f"n = {share['n']}"]),
        "confidenceInterval": ends,
    }


def _list_marks(entry: Mapping[str, Any]) -> list[str]:
    return [entry["mark"]] if entry["mark"] else []


def _list_limitations(about: Mapping[str, Any], results: Mapping[str, Any]) -> Iterator[str]:
    """List what limits the numbers: notes on the model, diagnostics, doubts, and cells without a result."""
    yield (
        "Robust accuracy is an upper bound: attacks that were not run may succeed on more images. Certified "
        "accuracy is a lower bound."
    )
    yield from map(str, about.get("notes") or ())
    for result in _select_own(about, results["diagnostics"]["results"]):
        if result["status"] in {"block", "fail", "warn"}:
            yield f"{result['id']}: {result['sentence']}"
    for doubt in _select_own(about, results["doubts"]):
        yield f"{doubt['threat']}: {doubt['n']} images in doubt: {doubt['reason']}"
    for cell in _select_own(about, results["cells"]):
        if cell["status"] != "done":
            yield f"{cell['attack']}: {cell['reported_status']}: {cell['error'] or 'no result'}"


def _select_own(about: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    own = (about["id"], about["defense"])
    return [entry for entry in entries if (entry["model"], entry["defense"]) == own]


def _list_run_properties(results: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for key in ("code", "python", "torch", "platform", "device"):
        yield _make_property(key, results["environment"].get(key))
    yield _make_property("seed", results["seed"])
    for name, reason in results["data"].get("quarantined") or ():
        yield _make_property("quarantined file", f"{name}: {reason}")


def _make_property(name: str, value: object) -> dict[str, str]:
    return {"name": f"robustbench_local:{name}", "value": str(value)}


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
