"""The page: safe against every name, still without a network, honest about what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import jinja2
import pytest
from sample_run import HOSTILE_CLASS_NAMES, SampleRun, build_run

from robustbench_local.reports import write_report
from robustbench_local.reports.page import create_environment, hash_source, render
from robustbench_local.reports.sections.examples_section import EXAMPLES
from robustbench_local.reports.sections.heatmap_section import HEATMAP
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.reports.sections.threats_section import THREATS
from robustbench_local.store import RunStore

VOID_ELEMENTS = {"meta", "link", "img", "br", "line", "circle", "rect", "path", "polygon", "polyline"}


class HtmlReader(HTMLParser):
    """What a browser would see: elements with attributes, text, and whether every element was closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def page_text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def list_attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module", params=["sample", "hostile"])
def page(request) -> HtmlReader:
    return HtmlReader(request.getfixturevalue(request.param).html)


def test_every_element_is_closed(page):
    assert page.open == []


def test_nothing_is_run_and_nothing_is_fetched(page):
    assert not {"script", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert "style" not in attributes, tag
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            target = attributes.get(name) or ""
            assert target == "" or target.startswith(("data:", "#")), target


def test_no_address_hides_in_the_style_sheet(sample):
    style = re.search(r"<style>(.*?)</style>", sample.html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "http" not in style[1]


def test_the_security_policy_allows_just_this_style_sheet(sample):
    style = re.search(r"<style>(.*?)</style>", sample.html, re.DOTALL)
    policy = next(meta for meta in HtmlReader(sample.html).list_attributes("meta") if "http-equiv" in meta)
    assert style is not None
    assert policy["http-equiv"] == "Content-Security-Policy"
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy["content"]).split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["style-src"] == f"'{hash_source(style[1])}'"
    assert "script-src" not in rules
    assert rules["img-src"] == "data:"


def test_hostile_names_are_text(hostile):
    page = HtmlReader(hostile.html)
    assert "<script>" not in hostile.html
    assert "<img src=x" not in hostile.html
    for name in HOSTILE_CLASS_NAMES:
        assert " ".join(name.split()) in page.page_text
    assert "<script>alert(1)</script>" in page.page_text
    assert "<b>really?</b>" in page.page_text


def test_right_to_left_names_are_isolated(hostile):
    assert "<bdi>نموذج\ufffd</bdi>" in hostile.html
    assert "\u202e" not in hostile.html
    assert "\u2068نموذج\ufffd\u2069: " in hostile.html


def test_escaping_does_not_depend_on_the_templates_name():
    made = create_environment()
    assert made.autoescape is True
    assert made.from_string("{{ name }}").render(name="<b>") == "&lt;b&gt;"
    with pytest.raises(jinja2.UndefinedError):
        made.from_string("{{ nothing }}").render()


def test_a_failed_cell_says_error_and_every_square_says_something(sample, content):
    rows = re.search(r'<table class="heat".*?</table>', sample.html, re.DOTALL)
    assert rows is not None
    squares = re.findall(r'<td class="(?:p\d+|bare)[^"]*"[^>]*>(.*?)</td>', rows[0], re.DOTALL)
    assert len(squares) == len(content.get_content(HEATMAP).columns) * len(content.get_content(HEATMAP).rows)
    words = [re.search(r'class="value">([^<]*)<', square) for square in squares]
    assert all(word is not None and word[1].strip() for word in words)
    assert [word[1] for word in words if word is not None and "%" not in word[1]] == ["error"]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("pending", "not run"),
        ("partial", "partial, 48 of 96"),
        ("timeout", "timeout"),
        ("skipped", "skipped"),
    ],
)
def test_a_square_says_why_there_is_no_number(tmp_path, status, word):
    made = SampleRun(statuses={("signs-pgd-at", "fgsm-linf-8"): status}, failing_cell=None, has_images=False)
    with RunStore.open_readonly(build_run(tmp_path / "run", made)) as store:
        html = render(read_report_data(store))
    assert f'<span class="value">{word}</span>' in html
    assert "Incomplete" in html
    assert "incomplete</span>" in html  # the worst case that lacks this attack


def test_the_answer_comes_first_with_interval_and_number(sample):
    text = HtmlReader(sample.html).page_text
    assert (
        "What is the robust accuracy of each model when an attacker may change every pixel by at most 8/255?"
        in text
    )
    assert "signs-pgd-at: 42.7% (32.7\u2060\u2013\u206053.2%, n\xa0=\xa096)" in sample.html
    assert "Worst case over 3 attacks; stronger attacks can only lower this." in text


def test_a_model_that_guesses_gets_no_headline(tmp_path, content):
    made = SampleRun(images=48, failing_cell=None, has_images=False, class_names=tuple("ab"))
    with RunStore.open_readonly(build_run(tmp_path / "run", made)) as store:
        read = read_report_data(store)
    guessing = [
        replace(cell, tally=replace(cell.tally, clean_correct=cell.tally.n // 2, broken=0, broken_8bit=0))
        for cell in read.evidence.cells
    ]
    evidence = replace(read.evidence, cells=tuple(guessing))
    html = render(replace(read, evidence=evidence))
    assert "No answer: " in html
    assert "the clean accuracy is that of guessing, or not as declared" in html
    assert ">D22</a>" in html


def test_pictures_are_inside_the_page_and_told(sample, content):
    pictures = HtmlReader(sample.html).list_attributes("img")
    rows = content.get_content(EXAMPLES).rows
    examples = sum(tile.example is not None for row in rows for tile in row.tiles)
    cards = sum(card.example is not None for card in content.get_content(THREATS))
    assert len(pictures) == len(rows) + 2 * examples + 3 * cards > 0
    assert all(str(picture["src"]).startswith("data:image/png;base64,") for picture in pictures)
    assert all(picture["alt"] for picture in pictures)
    assert len(sample.html) < 10_000_000


def test_tables_have_headings_and_drawings_have_words(page):
    tables, heads = len(page.list_attributes("table")), len(page.list_attributes("thead"))
    assert tables == heads > 0
    assert all("scope" in cell for cell in page.list_attributes("th"))
    for drawing in page.list_attributes("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("aria-label")


def test_secrets_stay_behind(sample):
    for name in ("report.html", "report.md", "results.json", "results.csv", "outcomes.csv"):
        text = sample.read_text(name)
        assert "AWS_SECRET" not in text
        assert "hunter2" not in text
        assert "/home/somebody" not in text


def test_only_targeted_goals_make_a_page_too(tmp_path, content):
    targeted = tuple(cell for cell in content.evidence.cells if cell.targeted)
    evidence = replace(content.evidence, cells=targeted, worst_cases=())
    no_heatmap = {HEATMAP.anchor: replace(content.get_content(HEATMAP), columns=(), rows=())}
    html = render(replace(content, evidence=evidence, contents={**content.contents, **no_heatmap}))
    text = HtmlReader(html).page_text
    assert "How often does each model misclassify Stop as one of 8 target classes" in text
    assert "stronger attacks can only raise this" in text


def test_an_empty_run_makes_a_page(tmp_path):
    with RunStore.create_or_open(tmp_path / "run", resolved_yaml="{}", identity={}):
        pass
    page = write_report(tmp_path / "run")
    assert "Not known yet" in page.read_text(encoding="utf-8")
