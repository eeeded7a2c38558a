"""Which parts of public standards a run is evidence for, with the place of the evidence; it never judges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any

import yaml

from robustbench_local.counted_nouns import choose_form, format_count
from robustbench_local.evidence_bundle.bundle_files import RESULTS_NAME
from robustbench_local.reports.formatting.markdown_tables import escape_markdown, render_table

Results = Mapping[str, Any]
MAX_POINTERS = 20
"""Most places of one kind of evidence that are named; their number is given in any case."""
STATEMENT = (
    "What this run tested, held against parts of public standards, and where the evidence lies. It says what "
    "was tested and with which result; it says nothing about conformity with a standard or a law, which "
    "depends on much that no test of a model shows."
)
ACT_NOTE = (
    "AI Act: obligations for high-risk systems of Annex III apply from 2 December 2027, and of Annex I from "
    "2 August 2028, as amended by the Digital Omnibus (secondary sources; see the Official Journal)."
)
_BLACK_BOX_ENSEMBLES = frozenset({"autoattack", "reference:autoattack"})
"""Methods with a stage that uses scores alone, although as a whole they need gradients."""
_KIND_NAMES = {
    "attacks": "attacks",
    "white_box_attacks": "white-box attacks",
    "black_box_attacks": "black-box attacks",
    "score_attacks": "attacks by scores",
    "label_attacks": "attacks by labels alone",
    "transfer_attacks": "transfer attacks",
    "adaptive_attacks": "adaptive attacks",
    "physical_attacks": "stickers and patches",
    "certificates": "certificates",
    "corruptions": "common corruptions",
    "worst_cases": "worst cases over attacks",
    "classes": "results by class",
    "compared_models": "models compared on the same images",
    "diagnostics": "diagnostics of the numbers",
    "gates": "gates",
    "twins": "a shipped model beside its float twin",
}


def build_evidence_map(results: Results) -> dict[str, Any]:
    """Build the map of a run.

    Args:
        results: The content of results.json.

    Returns:
        ``statement``, ``notes`` and ``items``: framework, id, title, ``status`` (``tested``,
        ``partly tested`` or ``not tested``), the ``evidence`` (kind, number of places, JSON pointers into
        results.json), what is ``missing``, ``caveats`` about the evidence, and ``beyond_this_tool``.
    """
    return {
        "statement": STATEMENT,
        "notes": [ACT_NOTE],
        "items": [_build_item(requirement, results) for requirement in read_requirements()],
    }


def format_evidence_map(content: Mapping[str, Any]) -> str:
    """Format a map as Markdown."""
    rows = [
        [
            escape_markdown(f"{item['framework']}, {item['id']}"),
            escape_markdown(item["title"]),
            item["status"],
            escape_markdown("; ".join(_format_evidence(item))),
        ]
        for item in content["items"]
    ]
    table = render_table(["standard", "part", "status", "evidence and limits"], rows)
    return "\n".join(["# Evidence map", "", content["statement"], "", *content["notes"], "", *table, ""])


@cache
def read_requirements() -> tuple[dict[str, Any], ...]:
    """Read the parts of standards that maps list."""
    text = files("robustbench_local.evidence_bundle").joinpath("requirements.yaml").read_text("utf-8")
    return tuple(yaml.safe_load(text))


def _build_item(requirement: Mapping[str, Any], results: Results) -> dict[str, Any]:
    found = {kind: list(EVIDENCE_KINDS[kind](results)) for kind in requirement["evidence"]}
    missing = [_KIND_NAMES[kind] for kind, pointers in found.items() if not pointers]
    caveats = _list_caveats(results, [pointer for pointers in found.values() for pointer in pointers])
    is_whole = not (missing or caveats or requirement["also"])
    status = "not tested" if not any(found.values()) else "tested" if is_whole else "partly tested"
    return {
        "framework": requirement["framework"],
        "id": requirement["id"],
        "title": requirement["title"],
        "status": status,
        "evidence": [
            {
                "kind": _KIND_NAMES[kind],
                "count": len(pointers),
                "file": RESULTS_NAME,
                "pointers": pointers[:MAX_POINTERS],
            }
            for kind, pointers in found.items()
            if pointers
        ],
        "missing": missing,
        "caveats": caveats,
        "beyond_this_tool": requirement["also"],
    }


def _list_caveats(results: Results, pointers: Sequence[str]) -> list[str]:
    """List what limits the evidence: numbers that diagnostics distrust, and cells that are not done."""
    entries = [_follow_pointer(results, pointer) for pointer in dict.fromkeys(pointers)]
    marked = [entry for entry in entries if entry.get("trustworthy") is False]
    partial = [entry for entry in entries if entry.get("status") in {"partial", "stopped"}]
    incomplete = [entry for entry in entries if entry.get("complete") is False]
    return [
        f"{len(chosen)} of {format_count(len(entries), 'place')} of evidence "
        f"{choose_form(len(chosen), 'is', 'are')} {words}"
        for chosen, words in (
            (marked, "void or not trustworthy"),
            (partial, "about part of the images"),
            (incomplete, "without one of the attacks"),
        )
        if chosen
    ]


def _format_evidence(item: Mapping[str, Any]) -> Iterator[str]:
    for entry in item["evidence"]:
        more = f" and {entry['count'] - 1} more" if entry["count"] > 1 else ""
        yield f"{entry['kind']}: {entry['file']}#{entry['pointers'][0]}{more}"
    if item["missing"]:
        yield f"missing: {', '.join(item['missing'])}"
    yield from item["caveats"]
    if item["beyond_this_tool"]:
        yield f"not shown by any run: {item['beyond_this_tool']}"


def _follow_pointer(results: Any, pointer: str) -> Mapping[str, Any]:
    for part in pointer.split("/")[1:]:
        results = results[int(part)] if isinstance(results, list) else results[part]
    return results if isinstance(results, dict) else {}


def _list_cells(results: Results, accept: Callable[[Mapping[str, Any]], bool]) -> Iterator[str]:
    """List pointers to the cells with outcomes that are accepted."""
    for index, cell in enumerate(results["cells"]):
        if cell["n"] and cell["status"] in {"done", "partial", "stopped"} and accept(cell):
            yield f"/cells/{index}"


def _is_attack(cell: Mapping[str, Any]) -> bool:
    return bool(cell["measure"] != "certificate" and cell["norm"] != "corruption")


def _has_knowledge(*kinds: str) -> Callable[[Results], Iterator[str]]:
    return lambda results: _list_cells(results, lambda cell: _is_attack(cell) and cell["knowledge"] in kinds)


def _list_entries(key: str) -> Callable[[Results], Iterator[str]]:
    return lambda results: (f"/{key}/{index}" for index in range(len(results[key])))


def _list_gates(results: Results) -> Iterator[str]:
    return (f"/gates/verdicts/{index}" for index in range(len(results["gates"]["verdicts"])))


EVIDENCE_KINDS: Mapping[str, Callable[[Results], Iterator[str]]] = {
    "attacks": lambda results: _list_cells(results, _is_attack),
    "white_box_attacks": _has_knowledge("white-box"),
    "black_box_attacks": lambda results: _list_cells(
        results,
        lambda cell: (
            _is_attack(cell)
            and (
                cell["knowledge"] in {"scores", "labels"}
                or cell["parameters"].get("method") in _BLACK_BOX_ENSEMBLES
            )
        ),
    ),
    "score_attacks": _has_knowledge("scores"),
    "label_attacks": _has_knowledge("labels"),
    "transfer_attacks": _has_knowledge("transfer"),
    "adaptive_attacks": lambda results: chain(
        _list_entries("adaptive_steps")(results), _list_entries("naive_vs_adaptive")(results)
    ),
    "physical_attacks": lambda results: _list_cells(results, lambda cell: cell["measure"] == "views"),
    "certificates": lambda results: _list_cells(results, lambda cell: cell["measure"] == "certificate"),
    "corruptions": lambda results: _list_cells(results, lambda cell: cell["norm"] == "corruption"),
    "worst_cases": _list_entries("worst_case"),
    "classes": _list_entries("classes"),
    "compared_models": _list_entries("comparisons"),
    "diagnostics": lambda results: (
        f"/diagnostics/results/{index}" for index in range(len(results["diagnostics"]["results"]))
    ),
    "gates": _list_gates,
    "twins": _list_entries("twins"),
}
"""What counts as each kind of evidence: pointers into results.json."""
