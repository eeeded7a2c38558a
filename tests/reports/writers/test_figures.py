"""Figures by themselves: nothing is cut, however few columns there are and however long the names."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image
from sample_run import EPS_8_OF_255, SPEED_LIMIT_CLASSES, STOP_CLASS, SamplePlan, SampleRun, build_run

from robustbench_local.reports.sections.report_data import read_report_data
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


@pytest.mark.parametrize("name", ["each-target-1.png", "targets-1.png", "robust-accuracy.png"])
def test_nothing_is_cut_off_at_the_edges_of_a_narrow_figure(figures, name):
    with Image.open(io.BytesIO(figures[name])) as picture:
        ink = np.asarray(picture.convert("L")) < 200
    edge = DPI // 30
    for side in (ink[:edge], ink[-edge:], ink[:, :edge], ink[:, -edge:]):
        assert not side.any()
    assert ink.any()
