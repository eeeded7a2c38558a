"""The example package: installed, listed, run, reported, judged, resumed; and refused when it has changed."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys

import pytest
from example_package import EXAMPLE, forget, write_distribution

import robustbench_local as rbl
from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError
from robustbench_local.extensions import entry_points
from robustbench_local.extensions.entry_points import list_entry_points

OPTIONS = rbl.Options(workers=1, batch_size=16, device="cpu")


@pytest.mark.slow
def test_a_grid_of_entry_points_runs_is_reported_judged_and_resumed(installed_example, tmp_path):
    grid = tmp_path / "grid.yaml"
    shutil.copy(EXAMPLE / "grid.yaml", grid)
    run = rbl.run_grid(grid, out=tmp_path / "run", options=OPTIONS)
    cells = run.results["cells"]
    assert {cell["status"] for cell in cells} == {"done", "skipped"}
    assert run.is_complete
    attacks = {cell["attack"] for cell in cells}
    assert {"example-corners-linf-4[lengths=2]", "example-linear-margin-linf-4"} <= attacks
    assert "example-rounding[levels=6]" in {cell["defense"] for cell in cells}
    claims = [cell["note"] for cell in cells if cell["attack"] == "example-linear-margin-linf-4"]
    assert all(
        note.startswith("claimed by example-linear-margin of robustbench-example 0.1.0") for note in claims
    )
    assert run.evaluate_gates().exit_code == 0
    page = run.report().read_text(encoding="utf-8")
    markdown = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    for text in (page, markdown.replace("\\", "")):
        assert "example-corners" in text
        assert "claimed by example-linear-margin of robustbench-example 0.1.0" in text.lower()
    before = run.outcomes
    again = rbl.run_grid(grid, out=tmp_path / "run", options=OPTIONS)
    assert again.outcomes.equals(before)

    source = installed_example / "attack.py"
    source.write_text(source.read_text().replace("gradient.sign()", "-gradient.sign()"))
    forget("robustbench_example")
    importlib.invalidate_caches()
    with pytest.raises(ConfigError, match=r"attack\.py of attack example-corners"):
        rbl.run_grid(grid, out=tmp_path / "run", options=OPTIONS)


def test_calls_take_entry_points(installed_example):
    classifier = rbl.load_classifier("example-linear")
    data = rbl.load_dataset("example-blobs", limit=9, classes=[0, 2])
    assert len(data) == 9
    assert set(data.labels.tolist()) == {0, 2}
    images, success = rbl.attack(
        classifier, data.images, data.labels, "example-corners", lengths=1, norm="Linf", eps=0.2
    )
    assert success.any()
    assert (images - data.images).abs().max() <= 0.2 + 1e-6
    defended = rbl.defend(classifier, "example-rounding", levels=4)
    assert "Rounding(levels=4)" in defended.describe_parts()["wrapper"]
    result = rbl.certify(classifier, data, certificate="example-linear-margin", norm="L2", eps=0.1)
    assert result.certified_accuracy.value > 0.5
    with pytest.raises(ConfigError, match="size is for image files"):
        rbl.load_dataset("example-blobs", size=16)


def test_the_list_shows_them_with_their_distribution(installed_example, capsys):
    for kind, name in (
        ("attacks", "example-corners"),
        ("certificates", "example-linear-margin"),
        ("defenses", "example-rounding"),
        ("models", "example-linear"),
        ("data", "example-blobs"),
    ):
        assert run_command(["list", kind, "--json"]) == 0
        printed = capsys.readouterr().out
        assert name in printed
        assert "robustbench-example 0.1.0" in printed


BROKEN = {
    "no-such-module": "no_such_module_anywhere:Attack",
    "no-such-name": "robustbench_example.attack:Missing",
    "not-a-class": "robustbench_example.blobs:make_blobs",
    "badly written": "robustbench_example.attack:Corners",
    "no-colon": "robustbench_example.attack",
    "pgd": "robustbench_example.attack:Corners",
    "fgsm-linf-8": "robustbench_example.attack:Corners",
    "leaves": "leaving_on_import:Attack",
}


def test_what_is_broken_is_one_line_and_does_not_break_the_rest(installed_example, site, capsys):
    write_distribution(site, "broken-one", {"robustbench_local.attacks": BROKEN})
    (site / "leaving_on_import.py").write_text("raise SystemExit(3)")
    entry_points._read_entry_points.cache_clear()
    problems = {record.name: record.problem for record in list_entry_points("attacks")}
    assert problems["example-corners"] == ""
    assert "no module 'no_such_module_anywhere'" in problems["no-such-module"]
    assert "letters, digits" in problems["badly written"]
    assert "not written module:NAME" in problems["no-colon"]
    assert run_command(["list", "attacks", "--json"]) == 0
    printed = capsys.readouterr().out
    assert "the name 'pgd' is built in" in printed
    assert "the name 'fgsm-linf-8' is built in" in printed

    classifier = rbl.load_classifier("example-linear")
    data = rbl.load_dataset("example-blobs", limit=3)
    given = {"norm": "Linf", "eps": "8/255"}
    for name, message in (
        ("no-such-module", "no module 'no_such_module_anywhere'"),
        ("no-such-name", "AttributeError"),
        ("not-a-class", "is a function, not a class of attacks"),
        ("leaves", "SystemExit"),
        ("example-corner", "Did you mean example-corners|there is no card"),
    ):
        with pytest.raises(rbl.RobustbenchError, match=message) as caught:
            rbl.evaluate(classifier, data, attack=name, **given)
        assert "\n" not in str(caught.value)
    assert rbl.evaluate(classifier, data, attack="example-corners", **given).counts.n == 3
    assert type(rbl.evaluate(classifier, data, attack="pgd", steps=1, **given).attack) is rbl.PGD


def test_two_distributions_of_one_name_are_refused(installed_example, site):
    write_distribution(
        site,
        "another",
        {"robustbench_local.attacks": {"example-corners": "robustbench_example.attack:Corners"}},
    )
    entry_points._read_entry_points.cache_clear()
    classifier = rbl.load_classifier("example-linear")
    data = rbl.load_dataset("example-blobs", limit=3)
    with pytest.raises(ConfigError, match="several distributions offer 'example-corners'"):
        rbl.evaluate(classifier, data, attack="example-corners", norm="Linf", eps=0.1)


@pytest.mark.slow
@pytest.mark.extra
def test_pip_installs_it(tmp_path):
    pytest.importorskip("hatchling")
    source = tmp_path / "source"
    shutil.copytree(EXAMPLE, source)
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(tmp_path / "site"), str(source)], check=True, timeout=300)
    seen = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n" + LOOK],
        check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert seen.stdout.split() == ["example-corners", "3"]


LOOK = """
import robustbench_local as rbl
from robustbench_local.extensions.entry_points import list_entry_points
records = list_entry_points("attacks")
print(*[record.name for record in records if record.distribution.startswith("robustbench-example")])
data, classifier = rbl.load_dataset("example-blobs", limit=3), rbl.load_classifier("example-linear")
result = rbl.evaluate(classifier, data, attack="example-corners", norm="Linf", eps=0.1)
print(result.counts.n)
"""
