"""The forms of a comparison: page, Markdown, JSON and terminal, with names that attack the reader."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sample_run import HOSTILE_CLASS_NAMES, HOSTILE_MODELS, SampleRun, build_run

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError, RefusedError
from robustbench_local.reports.comparison_files import (
    FILE_NAMES,
    format_comparison,
    read_comparison,
    write_comparison,
)
from robustbench_local.reports.sections.comparison.comparison_data import ComparisonData

LONG_NAME = "x" * 200
GATES = ({"metric": "robust_accuracy", "threat": "linf-8", "min": 0.2},)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two ordinary runs, and one whose every name attacks the reader."""
    folder = tmp_path_factory.mktemp("compared")
    hostile = SampleRun(models=HOSTILE_MODELS, class_names=HOSTILE_CLASS_NAMES, images=32, gates=GATES)
    return (
        build_run(folder / "old", SampleRun(images=48, gates=GATES)),
        build_run(folder / "new", SampleRun(images=48, gates=GATES)),
        build_run(folder / "<script>alert(1)<" / f"{LONG_NAME}|`", hostile),
    )


@pytest.fixture(scope="module")
def data(runs) -> ComparisonData:
    return read_comparison(runs[:2], {"signs-plain": "signs-pgd-at"})


@pytest.fixture(scope="module")
def hostile_data(runs) -> ComparisonData:
    return read_comparison([runs[2], runs[2]], {HOSTILE_MODELS[0]: HOSTILE_MODELS[1]}, max_pictures=4)


class TagCollector(HTMLParser):
    """Collects tags, and attributes that could run or load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.dangers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for key, value in attrs:
            is_local = (value or "").startswith(("#", "data:"))
            if key.startswith("on") or (key in {"src", "href"} and not is_local):
                self.dangers.append(f"{tag} {key}={value}")


def read_tags(page: str) -> TagCollector:
    collector = TagCollector()
    collector.feed(page)
    return collector


def test_the_page_has_every_section_without_scripts_or_requests(data):
    page = format_comparison(data, "html")
    for anchor in ("gates", "worst-cases", "attacks", "classes", "clean", "images", "cost", "runs"):
        assert f'id="{anchor}"' in page
    assert "<h1>Is new worse than old?</h1>" in page
    assert "signs-pgd-at in new is better than signs-plain in old under linf-8" in page
    assert '<section class="verdict pass" aria-label="Verdict">' in page
    assert '<strong class="label">BETTER</strong> signs-pgd-at in new is better' in page
    assert "< 0.001" not in page.replace("&lt;", "<")
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    tags = read_tags(page)
    assert "script" not in tags.tags
    assert tags.dangers == []
    assert page == format_comparison(data, "html")


def test_pictures_are_of_both_kinds_and_no_more_than_asked_for(runs):
    for limit in (0, 2):
        data = read_comparison(runs[:2], {"signs-plain": "signs-pgd-at"}, max_pictures=limit)
        pictures = [picture for group in data.pictures.values() for picture in group]
        assert len(pictures) == limit
        assert format_comparison(data, "html").count("data:image/png") == 3 * limit
        for picture in pictures:
            assert picture.example.image == picture.changed.image
            assert picture.example.label == picture.changed.label
            assert picture.example.prediction == picture.changed.attacked_side.prediction
    back = read_comparison(runs[:2], {"signs-pgd-at": "signs-plain"}, max_pictures=3)
    shown = [picture for group in back.pictures.values() for picture in group]
    assert {picture.changed.is_lost for picture in shown} == {True}


def test_names_from_outside_are_text_in_every_form(hostile_data):
    page = format_comparison(hostile_data, "html")
    tags = read_tags(page)
    assert not tags.tags & {"script", "iframe", "object", "form"}
    assert tags.dangers == []
    assert "<img src=x" not in page
    markdown = format_comparison(hostile_data, "markdown")
    assert "<script" not in markdown
    assert "\u202e" not in markdown
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    content = json.loads(format_comparison(hostile_data, "json"))
    assert content["comparisons"][0]["models"][0]["model"] == HOSTILE_MODELS[1]


def test_json_has_every_row_and_no_nan(data):
    text = format_comparison(data, "json")
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["schema"] == 1
    (compared,) = content["comparisons"]
    assert compared["paired"] is True
    assert compared["models"][0]["verdict"] == "better"
    row = compared["models"][0]["row"]
    assert row["n"] == 48
    assert row["difference"]["value"] == pytest.approx((row["won"] - row["lost"]) / 48)
    assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    assert len(compared["changed_images"]) == row["won"] + row["lost"]
    assert {image["change"] for image in compared["changed_images"]} <= {"won", "lost"}
    assert len(compared["classes"]) == 16
    assert [gate["changed"] for gate in compared["gates"]] == [True]
    assert compared["cost"][0]["passes_ratio"] > 1
    assert compared["same_weights"] is False


def test_several_runs_have_a_column_for_the_run(runs):
    data = read_comparison([runs[0], runs[1], runs[0]])
    markdown = format_comparison(data, "markdown")
    assert "# Are new and old (2) worse than old?" in markdown
    assert "| run | model | threat model and attacks | old | this run |" in markdown
    assert "| new | signs-plain | linf-8" in markdown
    assert 'id="worst-cases"' in format_comparison(data, "html")


def test_files_are_written_by_their_ending(data, tmp_path):
    assert write_comparison(data, tmp_path / "folder") == [
        tmp_path / "folder" / name for name in FILE_NAMES.values()
    ]
    assert write_comparison(data, tmp_path / "new" / "page.html") == [tmp_path / "new" / "page.html"]
    assert write_comparison(data, tmp_path / "text", "markdown") == [tmp_path / "text" / "compare.md"]
    assert write_comparison(data, tmp_path / "any.txt", "markdown") == [tmp_path / "any.txt"]
    with pytest.raises(ConfigError, match=r"'.pdf' names no form.*Use one of"):
        write_comparison(data, tmp_path / "page.pdf")
    with pytest.raises(ConfigError, match="that of html, and --format says json"):
        write_comparison(data, tmp_path / "page.html", "json")
    (tmp_path / "link.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="symbolic link"):
        write_comparison(data, tmp_path / "link.md")


def test_the_command_prints_the_answer_first(runs, tmp_path, capsys):
    old, new = map(str, runs[:2])
    assert run_command(["compare", old, new, "--model", "signs-pgd-at=signs-plain", "-o", str(tmp_path)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("signs-plain in new is worse than signs-pgd-at in old under linf-8")
    assert out[-1] == f"comparison: {tmp_path / 'compare.json'}"
    assert any("Robust accuracy, worst case over attacks" in line for line in out)
    assert run_command(["compare", old, new, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"].startswith("new against old: not shown to differ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{old}"], "a comparison needs two runs or more"),
        (["{old}", "nowhere"], "nowhere: there is no run here"),
        (["{old}", "{new}", "--model", "signs-plain"], "'signs-plain' names no two models"),
        (["{old}", "{new}", "--model", "a=b", "--model", "a=c"], "'a' is named twice"),
        (["{old}", "{new}", "--model", "signs-plane=signs-plain"], "Did you mean signs-plain?"),
        (["{old}", "{hostile}"], "the runs have no model in common"),
        (["{old}", "{new}", "--format", "pdf"], "pdf"),
    ],
)
def test_mistakes_are_one_line(runs, capsys, arguments, message):
    places = dict(zip(("old", "new", "hostile"), runs, strict=True))
    given = [argument.format(**places) for argument in arguments]
    assert run_command(["compare", *given]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_without_a_common_result_the_exit_code_is_4(runs, tmp_path, capsys):
    attacks = ("fgsm-linf-8", "pgd50-linf-2", "pgd50-linf-4", "pgd50-linf-8", "autoattack-linf-8")
    attacks += ("autoattack-l2-0.5", "stop-to-speed-limit")
    statuses = {(model, attack): "pending" for model in ("signs-plain", "signs-pgd-at") for attack in attacks}
    sample = SampleRun(images=48, has_images=False, failing_cell=None, statuses=statuses)
    assert run_command(["compare", str(runs[0]), str(build_run(tmp_path / "late", sample))]) == 4
    assert "without an answer" in capsys.readouterr().out


def test_blocked_models_have_no_answer(data):
    from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

    comparison = data.comparisons[0]
    block = DiagnosticResult(
        id="D22", name="better than guessing", model="signs-pgd-at", defense="none", threat=None,
        status="block", sentence="The model guesses.", n=48,
    )  # fmt: skip
    evidence = replace(comparison.candidate.evidence, diagnostics=DiagnosticsRecord(results=(block,)))
    blocked = replace(
        data,
        comparisons=(replace(comparison, candidate=replace(comparison.candidate, evidence=evidence)),),
    )
    assert "**No answer: in new, the model guesses.**" in format_comparison(blocked, "markdown")
