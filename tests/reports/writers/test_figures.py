"""Figures by themselves: nothing is cut, however few columns there are and however long the names."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from sample_run import EPS_8_OF_255, SPEED_LIMIT_CLASSES, STOP_CLASS, SamplePlan, SampleRun, build_run

from robustbench_local.reports.report_files import write_report_files
from robustbench_local.reports.sections.heatmap_section import HeatmapSection
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.writers import figures as figures_writer
from robustbench_local.reports.writers.figures import DPI, draw_figures
from robustbench_local.store import RunStore

GOAL = SPEED_LIMIT_CLASSES[:2]
LONG = "stop-to-speed-limit[targets=1+2,sources=Stop,restarts=1,steps=1000]"


def _plan(name, targets=(), sources=()):
    return SamplePlan(
        attack=name, card=name[:4], norm="Linf", eps=EPS_8_OF_255, threat="linf-8", strength=0.6,
        passes_per_image=(402, 400), targets=targets, sources=sources,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["p", "a model with a long name, as people give them"])
def figures(request, tmp_path_factory):
    """The figures of one model under one attack, and under one that is given two targets."""
    parts = ((GOAL, LONG), *(((one,), f"stop[targets={one}]") for one in GOAL))
    plans = (_plan("fgsm"), *(_plan(name, targets, (STOP_CLASS,)) for targets, name in parts))
    sample = SampleRun(plans=plans, models=(request.param,), failing_cell=None, has_images=False)
    with RunStore.open_readonly(build_run(tmp_path_factory.mktemp("narrow") / "run", sample)) as store:
        content = read_report_data(store)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where axes collapse
        return draw_figures(content).files


def test_a_figure_without_memory_is_left_out_with_a_line_and_the_report_is_written(tmp_path, monkeypatch):
    run = build_run(tmp_path / "run", SampleRun(models=("m",), failing_cell=None, has_images=False))
    encode = figures_writer._encode_png
    names = []

    def encode_all_but_the_first(figure):
        names.append(figure)
        if len(names) == 1:
            raise MemoryError
        return encode(figure)

    def draw_nothing(_section, _content, _names):
        raise MemoryError
        yield

    monkeypatch.setattr(figures_writer, "_encode_png", encode_all_but_the_first)
    monkeypatch.setattr(HeatmapSection, "draw_figures", draw_nothing)
    written = write_report_files(run)
    (note,) = written.notes
    assert note.startswith("2 figures are left out, because memory ran out while drawing: ")
    assert note.endswith("rbl report writes them later")
    assert note in (run / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert "because memory ran out while drawing" in written.page.read_text(encoding="utf-8")
    assert any((run / "figures").iterdir())


@pytest.mark.parametrize("name", ["each-target-1.png", "targets-1.png", "robust-accuracy.png"])
def test_nothing_is_cut_off_at_the_edges_of_a_narrow_figure(figures, name):
    with Image.open(io.BytesIO(figures[name])) as picture:
        ink = np.asarray(picture.convert("L")) < 200
    edge = DPI // 30
    for side in (ink[:edge], ink[-edge:], ink[:, :edge], ink[:, -edge:]):
        assert not side.any()
    assert ink.any()
