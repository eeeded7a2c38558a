"""A small run with images, and its bundle; the report's pages take longer than all the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

import robustbench_local as rbl
from robustbench_local.evidence_bundle import make_bundle as bundle_module
from robustbench_local.evidence_bundle.make_bundle import make_bundle


def write_short_report(_run_dir: Path, out: Path) -> Path:
    """Write something in place of the report's files."""
    (out / "figures").mkdir(parents=True)
    for name in ("report.html", "report.md", "results.csv", "figures/curves.png"):
        (out / name).write_text(name, encoding="utf-8")
    return out / "report.html"


@pytest.fixture(autouse=True)
def _short_report(request, monkeypatch):
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(bundle_module, "write_report", write_short_report)


@pytest.fixture(scope="session")
def evidence_run(tmp_path_factory) -> Path:
    """A run of one network under three attacks, one of them without a norm."""
    folder = tmp_path_factory.mktemp("evidence")
    grid = {
        "data": {"source": "signs", "limit": 6},
        "models": [{"id": "plain", "source": "zoo:signs-plain"}],
        "attacks": ["fgsm-linf-8", {"card": "fgsm-linf-8", "norm": "L2", "eps": 1}, "fog-3"],
        "gates": [{"threat": "linf-8", "min": 0.1}],
    }
    options = rbl.Options(batch_size=8, workers=1, device="cpu")
    return rbl.run_grid(grid, out=folder / "run", options=options).directory


@pytest.fixture(scope="session")
def bundle(evidence_run) -> Path:
    """The bundle of that run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "write_report", write_short_report)
        return make_bundle(evidence_run, evidence_run.parent / "run.zip").path
