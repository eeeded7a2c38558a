"""The gallery: one image a row under every model and attack, chosen by a rule, within a budget of pixels."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from sample_run import HOSTILE_CLASS_NAMES

from robustbench_local.reports.analysis import example_gallery
from robustbench_local.reports.analysis.example_gallery import (
    MAX_PICTURE_PIXELS,
    MAX_ROWS,
    build_example_gallery,
    choose_images,
)
from robustbench_local.reports.analysis.example_images import select_example_cells
from robustbench_local.reports.page.example_filters import build_filter_rules
from robustbench_local.reports.sections.examples_section import EXAMPLES
from robustbench_local.store import RunStore


@pytest.fixture(scope="module")
def gallery(content):
    return content.get_content(EXAMPLES)


def test_a_row_is_one_image(gallery):
    assert 1 < len(gallery.rows) <= MAX_ROWS
    for row in gallery.rows:
        pictured = [tile for tile in row.tiles if tile.example]
        assert pictured
        for tile in row.tiles:
            assert tile.cell.verdicts[tile.image_id]
            assert tile.image_id == row.image
        for tile in pictured:
            assert tile.outcome == "attack succeeded"
            assert tile.example.image == row.image
            assert np.array_equal(tile.example.clean_image, row.clean_image)
            change = tile.example.adversarial_image - tile.example.clean_image
            expected = np.clip(0.5 + tile.amplification * change, 0, 1)
            assert np.allclose(tile.example.difference_image, expected)


def test_every_attack_shows_its_first_success(content, gallery):
    shown = {row.image for row in gallery.rows}
    for cell in select_example_cells(content.evidence):
        broken = [image for image, verdict in cell.verdicts.items() if verdict.broken]
        assert not broken or broken[0] in shown
    first_cell = content.evidence.cells[0]
    order = [image for image in first_cell.verdicts if image in shown]
    assert [row.image for row in gallery.rows] == order
    assert [row.number for row in gallery.rows] == list(range(1, len(order) + 1))


def test_outcomes_are_those_of_the_verdicts(gallery):
    words = {(True, True): "attack succeeded", (True, False): "robust", (False, False): "misclassified clean"}
    for row in gallery.rows:
        for tile in row.tiles:
            verdict = tile.cell.verdicts[tile.image_id]
            assert tile.outcome == words[verdict.clean_correct, verdict.broken]
            assert tile.prediction


def test_an_image_without_a_verdict_says_so(content, gallery):
    tile = gallery.rows[0].tiles[0]
    unknown = tile.cell.verdicts[tile.image_id]._replace(clean_correct=True, broken=False, robust=False)
    cell = replace(tile.cell, verdicts={tile.image_id: unknown})
    assert example_gallery._find_outcome(cell, tile.image_id) == "no verdict"


@pytest.mark.parametrize(("side", "count"), [(32, MAX_ROWS), (160, None), (100_000, 1)])
def test_the_pictures_have_a_budget_of_pixels(content, side, count):
    cells = [cell for cell in select_example_cells(content.evidence) if cell.is_done]
    images = choose_images(cells, side)
    stored = [
        {image for image, verdict in cell.verdicts.items() if verdict.broken and image in images}
        for cell in cells
    ]
    pictures = sum(1 + 2 * sum(image in some for some in stored) for image in images)
    assert count is None or len(images) == count
    assert len(images) == 1 or pictures * side**2 <= MAX_PICTURE_PIXELS * 1.5
    assert choose_images([], side) == []


def test_damaged_and_missing_pictures_are_left_out(sample, content, monkeypatch):
    with RunStore.open_readonly(sample.run_dir) as store:
        damaged = {cell.record.key: "gone" for cell in content.evidence.cells}
        none = build_example_gallery(store, replace(content.evidence, damaged_images=damaged))
        assert not none
        assert none.candidate_count > 0
        kept = content.evidence.cells[0]
        some = build_example_gallery(
            store,
            replace(
                content.evidence, damaged_images={key: "gone" for key in damaged if key != kept.record.key}
            ),
        )
        assert {tile.cell.record.key for row in some.rows for tile in row.tiles if tile.example} == {
            kept.record.key
        }
        monkeypatch.setattr(example_gallery, "MAX_CELLS", 2)
        fewer = build_example_gallery(store, content.evidence)
        assert len(fewer.subjects) == 1
        assert fewer.cell_count == len(
            [cell for cell in select_example_cells(content.evidence) if cell.is_done]
        )


def test_filters_name_elements_by_numbers_and_every_choice_has_a_rule(hostile, gallery):
    html = hostile.html
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    rules = re.findall(r'option\[value="(\w+)"\]:checked', style)
    choices = re.findall(r'<option value="(\w+)">', html)
    assert sorted(rules) == sorted(choices)
    assert len(rules) > 10
    assert all(re.fullmatch(r"[icmao]\d+", value) for value in rules)
    assert not any(name in style for name in HOSTILE_CLASS_NAMES if len(name) > 3)
    named = [value for found in re.findall(r'class="tile ([^"]+)"', html) for value in found.split()]
    assert {value for value in choices if value[0] in "mao"} <= set(named)
    tile_rule = next(rule for rule in build_filter_rules(gallery).splitlines() if '"m0"' in rule)
    assert tile_rule == (
        '.gallery:has(option[value="m0"]:checked) :is(.tile:not(.m0), .example-row:not(:has(.m0))) '
        "{ display: none; }"
    )


def test_links_lead_to_images_and_examples(sample):
    ids = re.findall(r' id="([^"]+)"', sample.html)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#(image-[^"]+)"', sample.html)
    assert len(links) > 8
    assert set(links) <= set(ids)
    assert 'id="image-1-1"' in sample.html


def test_the_sample_is_stated(gallery):
    text = EXAMPLES.describe_sample(gallery)
    assert text.startswith(
        f"Shown: {len(gallery.rows)} of {gallery.candidate_count} images with a successful attack: "
    )
    assert "first 40 are shown" in EXAMPLES.describe_sample(replace(gallery, cell_count=41))
    assert "first 40 are shown" not in EXAMPLES.describe_sample(replace(gallery, cell_count=40))
