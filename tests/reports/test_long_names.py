"""Names of any length: short at the heads of columns, whole where there is room, figures with their axes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image
from sample_run import SAMPLE_PLANS, SIGN_CLASS_NAMES, SampleRun, build_run

from robustbench_local.config.cards import MAX_VALUE_CHARACTERS, expand_card, find_card
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.reports import write_report
from robustbench_local.reports.figures.examples_figure import CAPTION_POINTS, CAPTION_WIDTH_INCHES
from robustbench_local.reports.figures.layout import fit_text, measure_width_inches
from robustbench_local.reports.formatting.fonts import MAX_NAME_CHARACTERS, select_drawable_text, shorten_text
from robustbench_local.reports.page import render
from robustbench_local.reports.summary import headline

HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
LONG_CLASSES = (
    "x" * 200, "\N{GRINNING FACE}" * 60, "تحديدالسرعة" * 15, HASH, "a-" * 100, "word " * 40, "W" * 60,
    *SIGN_CLASS_NAMES[7:],
)  # fmt: skip
LONG_LABEL = f"pgd50-linf-8[targets={'+'.join(f'Speed limit ({n}0km/h)' for n in range(8))},sources=Stop]"
LONG_NAMES_RUN = SampleRun(
    models=("plain", "m" * 100, f"{'abc ' * 20}{HASH[:20]}"),
    class_names=LONG_CLASSES,
    images=32,
    plans=(*SAMPLE_PLANS[:2], SAMPLE_PLANS[-1], replace(SAMPLE_PLANS[-1], attack=LONG_LABEL)),
    question="Q" * 300,
    gates=({"metric": "attack_success", "attack": LONG_LABEL, "max": 0.5},),
)
EIGHT = ["Speed limit (20km/h)", *(f"Speed limit ({n}0km/h)" for n in (3, 5, 6, 7, 8, 10, 12))]


@pytest.fixture(scope="session")
def long_names(tmp_path_factory):
    run = build_run(tmp_path_factory.mktemp("long") / "run", LONG_NAMES_RUN)
    return write_report(run)


def names(**overrides):
    return [
        card.name for card in expand_card(find_card("pgd50-linf-8", kind="attack"), overrides, parameters=())
    ]


def test_eight_targets_make_a_short_name_that_tells_them_from_others():
    (name,) = names(targets=EIGHT, sources=["Stop"])
    assert re.fullmatch(r"pgd50-linf-8\[targets=8 classes #[0-9a-f]{4},sources=Stop\]", name)
    assert names(targets=EIGHT, sources=["Stop"]) == [name]
    assert names(targets=[*EIGHT[:-1], "Yield"], sources=["Stop"]) != [name]
    (stretched,) = names(targets=["T" * 200])
    assert len(stretched) < 60


@pytest.mark.parametrize(
    ("length", "whole"), [(MAX_VALUE_CHARACTERS, True), (MAX_VALUE_CHARACTERS + 1, False)]
)
def test_both_sides_of_what_is_spelled_out(length, whole):
    text = "a" * 19 + "+" + "b" * (length - 20)
    (name,) = names(targets=text.split("+"))
    assert (text in name) == whole


def test_a_gate_finds_an_attack_by_its_short_name():
    (name,) = names(targets=EIGHT)
    grid = {
        "data": {"source": "signs"},
        "models": [{"id": "a", "source": "zoo:signs-plain"}],
        "attacks": [{"card": "pgd50-linf-8", "targets": EIGHT}],
        "gates": [{"metric": "attack_success", "attack": name, "max": 0.1}],
    }
    assert load_grid(grid)[0].gates[0].attack == name


@pytest.mark.parametrize("most", [4, 10, MAX_NAME_CHARACTERS])
@pytest.mark.parametrize("extra", [0, 1, 100])
def test_shortened_names_keep_both_ends(most, extra):
    text = "".join(chr(ord("a") + index % 26) for index in range(most + extra))
    short = shorten_text(text, most)
    assert len(short) <= most
    assert (short == text) == (extra == 0)
    assert short[0] == text[0]
    assert short[-1] == text[-1]


def test_what_is_drawn_fits():
    assert len(select_drawable_text("x" * 200, "class")) == MAX_NAME_CHARACTERS
    for text in ("W" * 200, "\N{GRINNING FACE}" * 60, "i" * 5, HASH):
        assert (
            measure_width_inches([fit_text(text, CAPTION_WIDTH_INCHES, CAPTION_POINTS)], CAPTION_POINTS)
            <= CAPTION_WIDTH_INCHES
        )
    assert fit_text("Stop", CAPTION_WIDTH_INCHES, CAPTION_POINTS) == "Stop"


@pytest.mark.slow
def test_figures_of_long_names_have_a_size_that_can_be_looked_at(long_names):
    figures = sorted((long_names.parent / "figures").glob("*.png"))  # a warning of matplotlib's is an error
    assert len(figures) >= 4
    for path in figures:
        with Image.open(path) as picture:
            assert max(picture.size) < 4000, path.name
            assert min(picture.size) > 250, path.name


def test_every_table_scrolls_inside_itself_and_names_may_break(long_names):
    html = long_names.read_text("utf-8")
    tables = re.findall(r"(<div class=\"scroll\"[^>]*>)?\s*<table", html)
    assert len(tables) > 5
    assert all(tables)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    assert re.search(r"bdi, code, \.mono, dt, dd[^{]*\{ overflow-wrap: anywhere; \}", style)
    assert "max-content) minmax" not in style


@pytest.mark.parametrize(("length", "is_long"), [(160, False), (161, True)])
def test_a_long_question_is_set_smaller_so_that_the_verdict_stays_in_sight(
    content, monkeypatch, length, is_long
):
    monkeypatch.setattr(headline, "describe_question", lambda _: "Q" * length)
    assert ('<h1 class="long">' in render(content)) is is_long


def test_the_whole_name_is_on_the_page(long_names):
    html = long_names.read_text("utf-8")
    for whole in ("x" * 200, HASH, "m" * 100, LONG_LABEL):
        assert whole in html
    assert f'<bdi title="{LONG_LABEL}">' in html
