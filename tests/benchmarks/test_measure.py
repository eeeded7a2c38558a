"""The benchmark's own arithmetic: verdicts, ratios, overhead, and the page that comes out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import __main__ as command
from benchmarks import page
from benchmarks.job import BenchmarkJob
from benchmarks.ladder import RADIUS_SHARES, attack_each_radius, mark_robust_at_radii
from benchmarks.measure import BenchmarkResult, Implementation, measure_row
from benchmarks.rows import QUICK_IMAGE_COUNTS, ROWS, BenchmarkRow
from benchmarks.subjects import MODEL_NAMES, BenchmarkModel, load_model
from benchmarks.table import render_tables
from robustbench_local import Classifier
from robustbench_local.attack_score.peers import PEERS, PeerLibrary

ROW = BenchmarkRow(name="FGSM", peer_method="fgsm", our_methods=("fgsm",), steps=1, image_count=6)


def by_first_pixel(images: Tensor) -> Tensor:
    """Class 1 from one half on."""
    return torch.stack([torch.zeros(len(images)), images[:, 0, 0, 0] - 0.5], dim=1) * 10


class FirstPixel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return by_first_pixel(images) * self.scale


@pytest.fixture(scope="module")
def subject() -> BenchmarkModel:
    images = torch.full((6, 1, 2, 2), 0.5)
    images[:, 0, 0, 0] = torch.tensor([0.55, 0.585, 0.7, 0.9, 0.45, 0.45])
    return BenchmarkModel(
        name="toy",
        classifier=Classifier(FirstPixel(), num_classes=2),
        images=images,
        labels=torch.tensor([1, 1, 1, 1, 0, 1]),  # the last one is read wrong
        radii={"weak": 0.03, "middle": 0.1, "strong": 0.5},
    )


def darker(job: BenchmarkJob) -> Tensor:
    """A library that only knows one direction, and looks twice."""
    job.module(job.images)
    leaf = job.images.clone().requires_grad_()
    torch.autograd.grad(job.module(leaf).sum(), leaf)
    return (job.images - job.eps).clamp(0, 1)


def too_far(job: BenchmarkJob) -> Tensor:
    return torch.zeros_like(job.images)


def broken(job: BenchmarkJob) -> Tensor:
    raise ValueError("no such | thing")


@pytest.fixture(scope="module")
def result(subject: BenchmarkModel) -> BenchmarkResult:
    return measure_row(ROW, subject, 0.1, 6, 2, {"darker": darker, "far": too_far, "broken": broken}, "cpu")


def test_an_image_is_robust_if_it_is_read_right_before_and_after(result: BenchmarkResult):
    robust = {arm.name: arm.robust[0].tolist() for arm in result.implementations if arm.robust}
    assert robust["ours"] == [False, False, True, True, False, False]
    assert robust["darker"] == [False, False, True, True, True, False]
    assert robust["far"] == [True, True, True, True, True, False]
    assert (
        result.implementations[2].outside_count == 2 * 4
    )  # in both rounds; two candidates are inside, or break nothing


def test_passes_are_those_that_happened(result: BenchmarkResult):
    passes = {arm.name: arm.passes for arm in result.implementations}
    assert passes["ours"] == [(1, 1), (1, 1)]
    assert passes["darker"] == [(2, 1), (2, 1)]
    assert passes["far"] == [(0, 0), (0, 0)]


def test_a_library_that_fails_is_a_line_of_the_table(result: BenchmarkResult):
    assert result.implementations[3].failure == "ValueError: no such | thing"
    text = render_tables([result], has_times=False)
    assert "| broken | no result: ValueError: no such / thing |" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_ratios_are_medians_of_rounds(subject: BenchmarkModel):
    network = subject.frozen_network.network
    ours = Implementation(
        name="ours", attack=darker, network=network, seconds=[1.0, 2.0, 4.0], bare_seconds=[0.5, 1.6, 2.5]
    )
    other = Implementation(
        name="other", attack=darker, network=network, seconds=[3.0, 3.0, 4.0], bare_seconds=[1.0, 2.0, 1.0]
    )
    result = BenchmarkResult(row=ROW, subject=subject, eps=0.1, image_count=2, implementations=[ours, other])
    assert result.compute_time_ratio(other) == 1.5
    assert result.compute_overhead(ours) == pytest.approx(1.6)
    assert result.compute_overhead(other) == pytest.approx(3.0)


def test_the_second_seed_stands_beside_ours_and_what_ours_missed_beside_the_others(result: BenchmarkResult):
    lines = render_tables([result], has_times=False).splitlines()
    assert "(seed: 0 / 0)" in lines[4]
    assert "| 66.7 |" not in lines[4]
    assert "| 50.0 | 0 / 1 |" in lines[5]
    assert ", 8 outside |" in lines[6]


def test_independent_radii_keep_the_nearest_success(subject: BenchmarkModel):
    job = BenchmarkJob(
        module=subject.trainable_network,
        verdict_network=subject.frozen_network,
        images=subject.images[:4],
        labels=subject.labels[:4],
        num_classes=2,
        eps=0.32,
        steps=1,
        seed=0,
    )
    moved = (attack_each_radius(darker)(job) - job.images).abs().flatten(1).amax(dim=1)
    # .05, .085, .2 and .4 to the border: the first radius beyond each, and none for the last
    assert moved.tolist() == pytest.approx([0.06, 0.12, 0.32, 0.0])
    distances = torch.where(moved > 0, moved, torch.inf)
    expected = [
        [share * 0.32 + 1e-4 < nearest for nearest in (0.06, 0.12, 0.32, 9)] for share in RADIUS_SHARES
    ]
    assert mark_robust_at_radii(distances, 0.32).tolist() == expected


def test_the_measured_part_replaces_the_old_one_and_nothing_else(tmp_path: Path):
    file = tmp_path / "performance.md"
    page.write_page("first\n", file)
    assert file.read_text().startswith("# Performance")
    file.write_text(file.read_text().replace("# Performance", "# My own words"))
    file.write_text(file.read_text() + "\n\nand the end\n")
    page.write_page("second\n", file)
    text = file.read_text()
    assert "first" not in text
    assert text.startswith("# My own words")
    assert text.endswith("and the end\n")
    assert text.count("second") == 1


def test_the_command_measures_a_row_and_writes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(command, "PEERS", ())
    monkeypatch.setattr(command, "keep_freed_memory", lambda: None)
    threads, file = torch.get_num_threads(), tmp_path / "results.md"
    try:
        command.main(rows="fgsm", subjects="signs-pgd-at", image_count=2, rounds=1, out=file)
    finally:
        torch.set_num_threads(threads)
    text = file.read_text()
    assert "| FGSM | 10/255 | 2 | ours |" in text
    assert (
        text.partition("<!-- measured -->")[2].partition("<!-- end -->")[0].strip() in capsys.readouterr().out
    )


def test_absent_libraries_are_named_with_how_to_get_them(monkeypatch: pytest.MonkeyPatch):
    ghost = PeerLibrary("Ghost", "with_ghost", "no_such_library", "ghost", "ghost==1")
    monkeypatch.setattr(page, "PEERS", (ghost,))
    assert page.list_missing_libraries() == ["Ghost is absent: `pip install ghost==1`"]


def test_the_page_says_what_was_run_with_which_versions(result: BenchmarkResult):
    text = page.render_page(
        [result], command="python -m benchmarks", rounds=2, device="cpu", skipped=["this and that"]
    )
    assert "`python -m benchmarks`" in text
    assert "2 rounds" in text
    assert "torch " + torch.__version__.partition("+")[0] in text
    assert "- this and that" in text
    assert "ms an image" not in text


def test_rows_name_what_exists():
    assert {name for row in ROWS for name in row.models} == set(MODEL_NAMES)
    assert set(QUICK_IMAGE_COUNTS) <= {row.name for row in ROWS}
    assert load_model("mnist-fast", 1, None) is None
    installed = {peer.name for peer in PEERS if peer.is_installed()}
    assert "pyautoattack" in installed  # a dependency
    assert all(peer.load_methods() for peer in PEERS if peer.name == "pyautoattack")
