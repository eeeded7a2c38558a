"""Words of YAML that mean something else than they look like, and files made to keep the parser busy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from robustbench_local.config import strict_yaml as strict
from robustbench_local.config.strict_yaml import MAX_OPEN_BRACKETS, MAX_YAML_DEPTH, parse_yaml, read_yaml
from robustbench_local.errors import ConfigError


def parse(text: str):
    return parse_yaml(text, where="grid.yaml", error=ConfigError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-31", "2024-01-31"),
        ("2001-99-99", "2001-99-99"),
        ("2024-99-99T99:99:99Z", "2024-99-99T99:99:99Z"),
        ("010", "010"),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("190:20:30.15", "190:20:30.15"),
        ("on", "on"),
        ("<<", "<<"),
        ("1_000", 1000),
        ("0x1F", 31),
        ("-7", -7),
        ("0", 0),
        ("8.5e-3", 0.0085),
        ("1e-2", "1e-2"),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("true", True),
        ("~", None),
    ],
)
def test_a_plain_word_is_what_it_looks_like(text: str, value: object) -> None:
    found = parse(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "9" * 5000,
        "a: !!int x",
        "a: !!float x",
        "a: !!bool perhaps",
        "a: !!timestamp 2001-99-99",
        "a: !!binary '***'",
        "a: !!binary aGVsbG8=",
        "a: !!set {b}",
        "a: !!omap [b]",
        "a: !!pairs [b]",
        "a: !mine x",
        "a: !!python/object/apply:os.system ['true']",
        "? [a, b]\n: 1",
        "? {a: b}\n: 1",
        'a: "\\ud800"',
        '"\\udfff": 1',
        'a: "\\UFFFFFFFF"',
        "a: \x07",
        "a: &x 1\nb: *x",
        "a: &x [*x]",
        "a: 1\na: 2",
        "a: 1\n---\nb: 2",
        "%YAML 9.9\n---\na: 1",
        "- 1",
        "42",
        "",
    ],
)
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^grid\.yaml: ") as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    "text", ["[" * 20_000, "{" * 20_000, "{a: " * 20_000, "- " * 20_000, "? " * 20_000, "'\n" + "[" * 20_000]
)
def test_what_is_nested_without_end_is_refused_at_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = 0
    fetch = strict._StrictLoader.fetch_more_tokens

    def count(loader):
        nonlocal scanned
        scanned += 1
        return fetch(loader)

    monkeypatch.setattr(strict._StrictLoader, "fetch_more_tokens", count)
    with pytest.raises(ConfigError):
        parse(text)
    assert scanned < 1000


def nested(depth: int) -> str:
    return "a: " + "[" * depth + "]" * depth


def test_depth_on_either_side_of_the_limit() -> None:
    parse(nested(MAX_YAML_DEPTH - 2))
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse(nested(MAX_YAML_DEPTH))


def test_open_brackets_in_text_are_few() -> None:
    assert parse("a: '" + "[" * MAX_OPEN_BRACKETS + "'")["a"] == "[" * MAX_OPEN_BRACKETS
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse("a: '" + "[" * (MAX_OPEN_BRACKETS + 1) + "'")


def test_a_mark_at_the_beginning_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path, ConfigError) == {"a": 1}


class Sample(strict.StrictModel):
    count: int | None = None
    share: Annotated[float, Field(gt=0)] | Literal["all"] = 1.0
    flag: bool | int = False
    names: list[str] = Field(default_factory=list)


@pytest.mark.parametrize("field", ["count", "share"])
def test_truth_values_are_not_numbers(field: str) -> None:
    with pytest.raises(ValidationError, match="a boolean is not a number"):
        Sample.model_validate({field: True})
    assert getattr(Sample.model_validate({field: 1}), field) == 1
    assert Sample.model_validate({"flag": True}).flag is True
