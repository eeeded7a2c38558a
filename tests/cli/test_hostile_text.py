"""Every text of a user's, through every command: no escape byte, no markup, no crash, the right exit code."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from robustbench_local.cli import terminal_output as output
from robustbench_local.cli.live_display import LiveDisplay
from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError, escape_unprintable
from robustbench_local.store.records import EventRecord

HOSTILE = (
    "a[/a][bold red]b[/] [link=x]:boom: \x1b[31m\x1b]8;;http://evil\x07c\x1b]8;;\x07"
    " \x9b2Jd\x08\x7f\r\x00\u202ee\u2066f {0} %s $x_{$"
)
IN_NAMES = "n[/1][link=x]\x1b[2J\x9b\u202e:boom:$\\frac{$"
"""The same in short, for names that become names of files."""
IN_PATHS = IN_NAMES.replace("/", "")
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]")

CODE = f"""
import torch
HOSTILE = {HOSTILE!r}

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10))
    def forward(self, images):
        return self.net(images)

class Raising(Net):
    def forward(self, images):
        raise ValueError(HOSTILE)

def net():
    torch.manual_seed(0)
    return Net()

def raising():
    return Raising()

def failing():
    raise RuntimeError(HOSTILE + chr(0))
"""


@pytest.fixture
def rbl(capfd, monkeypatch):
    """Runs a command; its output was looked at for anything that could steer a terminal."""
    monkeypatch.setenv("RBL_BATCH_SIZE", "16")

    def run(*arguments):
        code = run_command([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        for shown in (out, err):
            assert FORBIDDEN.search(shown) is None, ascii(shown)
            assert "\N{COLLISION SYMBOL}" not in shown
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture
def hostile(workplace):
    """A grid in which every text is hostile, with code, cards and images to match."""
    (workplace / "net.py").write_text(CODE)
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    names = [f"{index}{HOSTILE}" for index in range(10)]
    arrays = {"x": images, "y": np.arange(12) % 10, "class_names": np.array(names)}
    np.savez(
        workplace / f"{IN_PATHS}.npz", **arrays, ids=np.array([f"{index}{HOSTILE}" for index in range(12)])
    )
    cards = workplace / "mine"
    cards.mkdir()
    for kind, method, name in (("attack", "fgsm", "own-fgsm"), ("defense", "jpeg", "own-jpeg")):
        card = {
            "schema": 1, "kind": kind, "name": name, "version": 1, "description": HOSTILE, "source": HOSTILE,
            "method": method,
        }  # fmt: skip
        if kind == "attack":
            card["threat"] = {"norm": "Linf", "eps": "8/255", "targets": [], "sources": []}
        (cards / f"{name}.yaml").write_text(yaml.safe_dump(card))
    content = {
        "name": IN_NAMES,
        "question": HOSTILE,
        "data": {"source": f"npz:{IN_PATHS}.npz"},
        "models": [
            {"id": f"m{IN_NAMES}", "source": "python:net.py:net", "class_names": names},
            {"id": "second", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"},
        ],
        "defenses": ["none", "own-jpeg"],
        "attacks": ["own-fgsm", {"card": "own-fgsm", "targets": [names[1], names[2]], "eps": "16/255"}],
        "gates": [
            {"metric": "clean_accuracy", "model": f"m{IN_NAMES}", "max": 1.0, "on": "estimate"},
            {"metric": "robust_accuracy", "attack": IN_NAMES, "min": 0.5},
        ],
    }

    def write(**changes):
        path = workplace / "g.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


@pytest.mark.slow
def test_a_whole_run_and_everything_that_reads_it(hostile, rbl):
    options = ("--cards", "mine", "--allow-code", "--device", "cpu", "--workers", 1)
    code, out, err = rbl("run", hostile(), "--dry-run", *options, "--out", "x")
    assert (code, err) == (0, "")
    code, out, err = rbl("run", hostile(), *options, "--out", f"out{IN_PATHS}")
    assert (code, err) == (4, "")
    assert r"\x1b" in out
    assert rbl("gate", f"out{IN_PATHS}")[0] == 4
    assert rbl("report", f"out{IN_PATHS}")[0] == 0
    code, out, err = rbl("run", hostile(), *options, "--out", f"out{IN_PATHS}", "--json")
    events = [json.loads(line) for line in out.splitlines()]
    assert code == 4
    assert any(
        IN_NAMES in json.dumps(event, ensure_ascii=False).encode().decode("unicode_escape", "replace")
        or event
        for event in events
    )
    markdown = Path(f"out{IN_PATHS}", "report.md").read_text()
    assert FORBIDDEN.search(markdown) is None


def test_lists_show_hostile_cards(hostile, rbl):
    hostile()
    for kind in ("attacks", "certificates", "defenses", "models", "data", "examples"):
        code, out, _ = rbl("list", kind, "--cards", "mine")
        assert code == 0
        code, out, _ = rbl("list", kind, "--cards", "mine", "--json")
        assert json.loads(out)
    for name in ("own-fgsm", "own-jpeg"):
        code, out, _ = rbl("show", name, "--cards", "mine")
        assert code == 0
        assert "[/a][bold red]b[/]" in re.sub(r"\s+", "", out).replace("bold", "bold ")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"name": "rc[/1]"}, 2),
        ({"nonsense" + HOSTILE: 1}, 2),
        ({"data": {"source": HOSTILE}}, 2),
        ({"data": {"source": f"folder:{HOSTILE}"}}, 2),
        ({"data": {"source": f"npz:{HOSTILE}"}}, 2),
        ({"data": {"source": "npz:digits.npz", "alpha": HOSTILE}}, 2),
        ({"data": {"source": "npz:digits.npz", "classes": [HOSTILE]}}, 2),
        ({"data": {"source": "npz:digits.npz", "images_key": HOSTILE}}, 3),
        ({"models": [{"id": HOSTILE, "source": HOSTILE}]}, 2),
        ({"models": [{"id": "m" + HOSTILE, "source": "python:net.py:failing"}]}, 3),
        ({"models": [{"id": "m" + HOSTILE, "source": "python:net.py:raising"}]}, (0, 3, 4)),
        ({"models": [{"id": "m", "source": f"python:net.py:{HOSTILE}"}]}, 3),
        ({"models": [{"id": "m", "source": f"checkpoint:{HOSTILE}"}]}, (2, 3)),
        ({"models": [{"id": "m", "source": f"http://localhost:9/{HOSTILE}"}]}, (2, 3, 4)),
        ({"attacks": [HOSTILE]}, 2),
        ({"attacks": [{"card": "fgsm-linf-8", "eps": HOSTILE}]}, 2),
        ({"attacks": [{"card": "fgsm-linf-8", HOSTILE: 1}]}, 2),
        ({"attacks": [{"card": "fgsm-linf-8", "targets": [HOSTILE]}]}, 2),
        ({"defenses": [HOSTILE]}, 2),
        ({"gates": [{"metric": "robust_accuracy", "threat": HOSTILE, "min": 0}]}, 2),
        ({"gates": [{"metric": "clean_accuracy", "model": HOSTILE, "min": 0}]}, 2),
        ({"gates": [{"metric": HOSTILE, "min": 0}]}, 2),
        ({"gates": [{"metric": "clean_accuracy", "min": HOSTILE}]}, 2),
        ({"severity": {HOSTILE: 0.5}}, (0, 2, 3)),
        ({"training": {"source": HOSTILE}}, (0, 2)),
    ],
)  # fmt: skip
def test_every_field_of_a_grid_in_messages(hostile, rbl, changes, code):
    base = {"defenses": ["none"], "attacks": ["fgsm-linf-8"], "gates": [], "name": "g"}
    if "data" not in changes:
        base["data"] = {"source": "npz:digits.npz"}
    base["models"] = [{"id": "first", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}]
    path = hostile(**(base | changes))
    got, _, err = rbl("run", path, "--dry-run", "--allow-code", "--cards", "mine", "--device", "cpu")
    assert got in (code if isinstance(code, tuple) else (code,)), err
    assert len(err.splitlines()) == (0 if got in (0, 4) else 1)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "\x1b[31m[/a].yaml"], 2),
        (["run", "g.yaml", "--limit", "\x1b[2J"], 2),
        (["run", "g.yaml", "--batch-size", "\x1b[2J"], 2),
        (["run", "g.yaml", "--device", "\x1b[2J[/a]"], 2),
        (["run", "g.yaml", "--cards", "\x1b[2J[/a]"], 2),
        (["run", "g.yaml", "--source-class", "\x1b[2J[/a]"], 2),
        (["run", "--\x1b[2J"], 2),
        (["\x1b[2J[/a]"], 2),
        (["report", "\x1b[2J[/a]"], 2),
        (["gate", "\x1b[2J[/a]"], 2),
        (["list", "\x1b[2J[/a]"], 2),
        (["list", "attacks", "--threat", "\x1b[2J[/a]"], 2),
        (["list", "attacks", "--kind", "\x1b[2J[/a]"], 2),
        (["list", "attacks", "\x1b[2J[/a]"], 0),
        (["show", "\x1b[2J[/a]"], 2),
        (["init", "--example", "\x1b[2J[/a]"], 2),
        (["init", "-o", "new\x1b[2J[bold].yaml"], 0),
        (["init", "-o", "\x1b[2J[/a]/g.yaml"], 2),
        (["train", "\x1b[2J", "--data", "signs", "--out", "a.safetensors"], 2),
        (["train", "pgd-at-linf-8", "--data", "\x1b[2J[/a]", "--out", "a.safetensors"], 2),
        (["train", "pgd-at-linf-8", "--data", "signs", "--out", "\x1b[2J.txt"], 2),
        (["train", "pgd-at-linf-8", "--data", "signs", "--out", "a.safetensors", "--set", "\x1b[2J=1"], 2),
        (["train", "pgd-at-linf-8", "--data", "x", "--out", "a.safetensors", "--data-option", "\x1b[=1"], 2),
    ],
)  # fmt: skip
def test_every_word_of_a_command_line(workplace, rbl, monkeypatch, arguments, code):
    monkeypatch.delenv("RBL_BATCH_SIZE", raising=False)
    (workplace / "grid.yaml").rename("g.yaml")
    got, _, err = rbl(*arguments)
    assert got == code, err


@pytest.mark.parametrize("key", ["description", "source", "method", "name", "kind", "threat", "nonsense"])
def test_every_field_of_a_broken_card(hostile, rbl, key):
    hostile()
    path = Path("mine", "own-fgsm.yaml")
    card = yaml.safe_load(path.read_text())
    card[key if key != "nonsense" else HOSTILE] = (
        HOSTILE if key != "threat" else {"norm": HOSTILE, "eps": HOSTILE}
    )
    path.write_text(yaml.safe_dump(card))
    code, _, _ = rbl("list", "attacks", "--cards", "mine")
    assert code == (0 if key in ("description", "source", "method") else 2)


def test_file_names_of_images(workplace, rbl):
    for name in ("cat", f"dog{IN_PATHS}"):
        (workplace / "pets" / name).mkdir(parents=True)
        (workplace / "pets" / name / f"a{IN_PATHS}.png").write_bytes(b"no image")
    (workplace / "g.yaml").write_text(
        "data: {source: 'folder:pets'}\nmodels:\n"
        "  - {id: a, source: 'checkpoint:first.safetensors', architecture: mnist_fast}\n"
        "attacks: [fgsm-linf-8]\n"
    )
    code, _, err = rbl("run", "g.yaml", "--dry-run")
    assert code == 3
    assert r"\x1b" in err


def test_doctor_tells_how_to_install_from_the_clone(rbl, monkeypatch):
    monkeypatch.setattr("robustbench_local.cli.installation_checks.find_spec", lambda name: None)
    monkeypatch.setattr("robustbench_local.cli.installation_checks.list_zoo", list)
    code, out, _ = rbl("doctor")
    assert code == 0
    assert "timm not installed (pip install '.[timm]' in the clone)" in out
    assert "'robustbench-local" not in out


def test_no_message_or_page_tells_to_install_from_an_index():
    root = Path(__file__).parents[2]
    files = [
        *root.glob("docs/**/*.md"),
        *root.glob("robustbench_local/**/*.py"),
        root / "README.md",
        root / "CONTRIBUTING.md",
    ]
    assert [
        str(one) for one in files if re.search(r"pip install[^\n]*robustbench-local", one.read_text())
    ] == []


def test_only_one_module_prints():
    folder = Path(output.__file__).parent
    printing = re.compile(
        r"typer\.echo|click\.echo|(?<![\w.])print\(|\.out\(|console\.print\(f?[\"'a-z]|\[/\]|rich\.markup|stdout\.write"
    )
    found = {
        path.name: printing.findall(path.read_text())
        for path in folder.glob("*.py")
        if path.name != "terminal_output.py"
    }
    allowed = {
        "comparison_table.py": ["console.print(t"],
        "load_test_tables.py": ["console.print(b"],
        "plan_display.py": ["console.print(m", "console.print(b"],
        "run_results.py": ["console.print(b"],
    }  # tables of plain cells
    assert {name: calls for name, calls in found.items() if calls and calls != allowed.get(name)} == {}


@pytest.mark.parametrize(
    "character",
    [
        "\x00",
        "\x07",
        "\x08",
        "\r",
        "\x1b",
        "\x7f",
        "\x85",
        "\x9b",
        "\u061c",
        "\u200e",
        "\u2028",
        "\u202e",
        "\u2066",
        "\ufeff",
        "\ud800",
        "\U000e0041",
    ],
    ids=ascii,
)
def test_what_is_hidden_is_shown(character):
    assert FORBIDDEN.search(escape_unprintable(f"a{character}b")) is None
    assert escape_unprintable(f"a{character}b").isprintable()
    assert str(ConfigError(f"a{character}b")).isprintable()


@pytest.mark.parametrize("text", ["", "plain", "größe", "数字", "עברית", "👩\u200d🚒", "a\\x1b"])
def test_what_can_be_read_stays(text):
    assert escape_unprintable(text) == text


def test_lines_above_the_table_show_events_as_they_are():
    console = Console(force_terminal=True, width=200, color_system=None, record=True, file=io.StringIO())
    with LiveDisplay(console) as display:
        display.on_event(EventRecord(time="now", level="warning", message=HOSTILE))
    shown = console.export_text()
    assert "[bold red]b[/]" in shown
    assert ":boom:" in shown
    assert r"\x1b]8;;http://evil" in shown
