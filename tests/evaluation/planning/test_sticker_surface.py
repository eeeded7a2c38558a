"""What a cell says of the surface that its stickers may be on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robustbench_local.data.dataset import Dataset
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.cells import build_cells
from robustbench_local.evaluation.planning.entry_cards import resolve_entry_cards
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.evaluation.planning.sticker_surface import build_surface_record
from robustbench_local.store import SurfaceRecord
from robustbench_local.threats.threat_model import ThreatModel

TENTH = ThreatModel(norm="sticker", eps=0.1, transformation="rectangles")


def images(**more) -> Dataset:
    return Dataset(
        images=torch.zeros(3, 3, 10, 20),
        labels=torch.zeros(3, dtype=torch.int64),
        ids=("a", "b", "c"),
        class_names=("red",),
        name="made",
        **more,
    )


def masks() -> torch.Tensor:
    """Of 0, 55 and 100 pixels."""
    found = torch.zeros(3, 1, 10, 20, dtype=torch.bool)
    found[1, 0, :5, :11] = True
    found[2, 0, :, :10] = True
    return found


def test_means_are_over_the_images_of_the_cell_and_rounded_down_sign_by_sign():
    data = images(masks=masks(), surface="the mask 'rect'")
    found = build_surface_record(data, torch.tensor([1, 2]), TENTH)
    assert found == SurfaceRecord(what="the mask 'rect'", pixels=77.5, covered=7.5, image_pixels=200)
    assert found.coverable_share == pytest.approx(0.0375)
    whole = replace(TENTH, eps=1.0, transformation="poster")
    assert build_surface_record(data, torch.tensor([2]), whole).covered == 100


def test_where_nobody_says_what_the_masks_are_or_there_are_none():
    assert build_surface_record(images(masks=masks()), torch.tensor([1]), TENTH).what == "the data's masks"
    found = build_surface_record(images(), torch.tensor([0, 1]), TENTH)
    assert found == SurfaceRecord(
        what="the frame less a border of 10%", pixels=8 * 16, covered=12, image_pixels=200
    )


def test_only_stickers_have_one():
    assert build_surface_record(images(), torch.tensor([0]), ThreatModel(norm="Linf", eps=0.1)) is None
    assert build_surface_record(images(), torch.tensor([0]), ThreatModel(norm="patch", eps=0.1)) is None
    assert build_surface_record(images(), torch.tensor([], dtype=torch.int64), TENTH) is None


def test_a_planned_cell_says_it_and_its_key_does_not_depend_on_it(tmp_path):
    grid = Grid.model_validate(
        {
            "schema": 1,
            "data": {"source": "signs", "classes": ["Stop"], "limit": 2},
            "models": [{"id": "plain", "source": "zoo:signs-plain"}],
            "attacks": ["sticker-10", "pgd50-linf-8"],
        }
    )
    plan = make_plan(grid, Options(), base_folder=tmp_path, is_dry_run=True)
    sticker, digital = (cell.record for cell in plan.cells)
    assert sticker.surface.what == "the sign inside the outline that it is drawn with"
    assert 0 < sticker.surface.covered <= sticker.surface.pixels / 10 < sticker.surface.image_pixels / 10
    assert digital.surface is None
    subject = replace(plan.subjects[0], data=replace(plan.data, surface="the mask 'octagon'"))
    again = build_cells(grid, {}, [subject], resolve_entry_cards(grid, []), plan.identity["code"])
    renamed = next(iter(again)).record
    assert (renamed.surface.what, renamed.key) == ("the mask 'octagon'", sticker.key)
