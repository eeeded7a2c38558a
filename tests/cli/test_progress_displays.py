"""What the three displays show, at fixed sizes and with a clock that only a test moves."""

from __future__ import annotations

import contextlib
import io
import json
import re
from types import SimpleNamespace

import pytest
from rich.cells import cell_len
from rich.console import Console
from sample_progress import Clock, make_cell, make_counts, make_plan

from robustbench_local.cli import live_table
from robustbench_local.cli.heartbeat import (
    MAX_HEARTBEAT_SECONDS,
    MIN_HEARTBEAT_SECONDS,
    Heartbeat,
    choose_heartbeat_seconds,
)
from robustbench_local.cli.json_display import JsonDisplay
from robustbench_local.cli.json_events import EVENTS, list_gate_objects, print_early_end
from robustbench_local.cli.live_display import LiveDisplay
from robustbench_local.cli.live_table import MAX_WAITING_ROWS, build_live_table, pack_facts, shorten_title
from robustbench_local.cli.plain_display import PlainDisplay
from robustbench_local.cli.progress import choose_display
from robustbench_local.cli.progress_display import MAX_NOTES_PER_CELL
from robustbench_local.cli.progress_text import format_rough_range
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.cost_range import CostRange
from robustbench_local.reports.analysis.gate_report import GateReport
from robustbench_local.store.records import EventRecord
from robustbench_local.store.run_labels import RunLabels

HOSTILE = "m\x1b[2J\x9b\u202e[bold]evil" + "x" * 80
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def make_console(width=100, height=24, *, is_terminal=False):
    return Console(
        file=io.StringIO(), width=width, height=height, force_terminal=is_terminal, color_system=None
    )


def begin(display_class, console=None, plan=None, **options):
    """A display of a plan with known speeds: 1,000 s for each cell."""
    plan, clock = plan or make_plan(**options), Clock()
    seconds = {cell.record.key: 1000.0 for cell in plan.cells}
    display = display_class(console or make_console(), seconds, clock)
    display.on_plan_ready(plan)
    return display, plan.cells, clock


def work(display, cells, clock):
    """The first cell ends, the second is half done, the third has a batch at work."""
    display.on_cell_start(cells[0], make_counts(0, 0))
    clock.now += 100
    display.on_batch_end(cells[0], make_counts(100, 40, passes=40_000, seconds=100.0))
    display.on_cell_end(cells[0], "done", make_counts(100, 40, passes=40_000, seconds=100.0), None)
    display.on_cell_start(cells[1], make_counts(0, 0))
    clock.now += 100
    display.on_batch_end(cells[1], make_counts(50, 30, passes=30_000, seconds=95.0))
    display.on_cell_pause(cells[1], make_counts(50, 30, passes=30_000, seconds=95.0))
    display.on_cell_start(cells[2], make_counts(0, 0))
    cells[2].queried_subject.classifier.passes = 1234
    clock.now += 20


def render(display, width, height=24):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(build_live_table(display.state, display.labels, width, height))
    return console.file.getvalue().rstrip("\n").split("\n")


def test_the_table_at_a_hundred_columns():
    display, cells, clock = begin(LiveDisplay)
    work(display, cells, clock)
    lines = [line.rstrip() for line in render(display, 100)]
    assert lines[0].startswith("cell 3 of 6 | 25% of 600 image-attacks done | 3 min 40 s so far")
    assert re.fullmatch(
        r"about [\d.]+ \w+\N{EN DASH}[\d.]+ h left, from 150 images|about .* left, .*", lines[1]
    )
    assert lines[2].split() == [
        "status",
        "attack",
        "on",
        "model",
        "images",
        "robust",
        "so",
        "far",
        "passes",
        "time",
    ]
    assert lines[3].split() == [
        *("begun", "pgd", "on", "plain", "50/100"), "60.0%", "30,000", "1", "min",
        "40", "s",
    ]  # fmt: skip
    assert lines[4].split() == ["running", "autoattack", "on", "plain", "0/100", "-", "1,234", "20", "s"]
    assert lines[5].split() == ["waiting", "fgsm", "on", "robust", "0/100", "-"]
    assert lines[-1] == "6 cells: 1 done, 1 running, 1 begun, 3 waiting"


def test_a_run_that_may_stop_early_says_so_where_it_expects():
    display, cells, clock = begin(LiveDisplay, plan=make_plan(stop="decided"))
    work(display, cells, clock)
    assert " left unless it stops sooner, from 150 images" in render(display, 100)[1]
    assert "images without an early stop: " in display.format_timing_line()


@pytest.mark.parametrize("width", [20, 40, 56, 60, 72, 80, 88, 120])
@pytest.mark.parametrize("name", ["plain", HOSTILE, "数字" * 40])
def test_no_line_is_wider_than_the_terminal_and_no_name_steers_it(width, name):
    cells = [make_cell(name, attack) for attack in ("a", f"pgd-{name}", "b")]
    display, cells, clock = begin(LiveDisplay, plan=make_plan(cells))
    work(display, cells, clock)
    lines = render(display, width)
    assert max(map(cell_len, lines)) <= width
    assert not CONTROL.search("".join(lines))
    if width >= 40:
        heads = [head for head, least in live_table.WIDTHS.items() if width >= least]
        shown = "\n".join(lines)
        assert ("status" in shown) == ("status" in heads)
        assert ("passes" in shown) == ("passes" in heads)
        assert ("robust so far" in shown) == ("so far" in heads)
        assert "45.2" not in shown  # the first images are no sample of all: no interval yet
        assert "50/100" in shown


def test_many_cells_are_a_few_rows_and_a_count():
    cells = [make_cell(f"m{number}", "a") for number in range(40)]
    display, cells, _ = begin(LiveDisplay, plan=make_plan(cells))
    for cell in cells[:30]:  # a pilot
        display.on_cell_start(cell, make_counts(0, 0))
        display.on_batch_end(cell, make_counts(8, 4, passes=4000, seconds=8.0))
        display.on_cell_pause(cell, make_counts(8, 4, passes=4000, seconds=8.0))
    display.on_cell_start(cells[20], make_counts(8, 4, passes=4000, seconds=8.0))
    tall, low = render(display, 100, 50), render(display, 100, 12)
    assert len(tall) <= live_table.MAX_ROWS + 4
    assert len(low) <= 12
    assert any("running" in line and "m20 " in line for line in low)
    assert "40 cells: 1 running, 29 begun, 10 waiting" in tall[-1]
    display.on_cell_end(cells[20], "timeout", make_counts(8, 4), "too long")
    assert sum("waiting  a" in line for line in render(display, 100)) <= MAX_WAITING_ROWS
    assert "1 timeout" in render(display, 100)[-1]


def test_signs_certificates_and_groups_have_results_of_their_own():
    cells = [make_cell("m", "sticker", measure="views"), make_cell("m", "ibp", measure="certificate")]
    display, cells, _ = begin(LiveDisplay, plan=make_plan(cells, groups={"a": "b"}))
    display.on_batch_end(cells[0], make_counts(10, 6, clean_correct=9))
    assert any("6/9" in line for line in render(display, 100))
    display.on_batch_end(cells[1], make_counts(10, 6))
    row = next(line for line in render(display, 100) if "ibp" in line)
    assert "60.0%" in row
    assert "60.0% (" not in row  # the interval is over groups, and not known yet


def test_facts_are_packed_into_lines():
    assert pack_facts(["aa", "bb", "cc"], 7) == ["aa | bb", "cc"]
    assert pack_facts(["long one", "b"], 4) == ["long one", "b"]
    assert shorten_title("pgd", "model", 20) == "pgd on model"
    assert shorten_title("a" * 30, "m", 20) == "a" * 14 + "… on m"
    assert shorten_title("a", "m" * 30, 20) == "a on " + "m" * 14 + "…"
    assert shorten_title("a" * 30, "m" * 30, 20) == "aaaaaaa… on mmmmmmm…"


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 9.9, "under 10 s"),
        (0, 10, "under 10 s"),
        (1, 44, "under 40 s"),
        (20, 44, "about 20-40 s"),
        (20, 90, "about 20 s-2 min"),
        (240, 540, "about 4-9 min"),
        (300, 310, "about 5 min"),
        (590, 3500, "about 10 min-1 h"),
        (5000, 9500, "about 1.5-2.5 h"),
        (40_000, 400_000, "about 11-111 h"),
    ],
)  # fmt: skip
def test_ranges_are_rough(low, high, text):
    shown = format_rough_range(CostRange(low=low, value=(low + high) / 2, high=high))
    assert shown == text.replace("-", "\N{EN DASH}")


def test_plain_lines_have_the_same_facts_and_come_at_intervals():
    console = make_console(120)
    display, cells, clock = begin(PlainDisplay, console)
    display.on_pilot_start(cells[:1])
    display.on_cell_start(cells[0], make_counts(0, 0))
    clock.now += 1
    display.on_batch_end(cells[0], make_counts(8, 4, passes=4000, seconds=1.0))
    display.on_pilot_end()
    clock.now += 1
    display.on_cell_start(cells[0], make_counts(8, 4, passes=4000, seconds=1.0))  # no line so soon
    cells[0].queried_subject.classifier.passes = 50
    clock.now += MIN_HEARTBEAT_SECONDS - 2
    display.print_heartbeat()
    clock.now += 1.1
    display.print_heartbeat()
    display.print_heartbeat()
    display.on_cell_end(cells[0], "done", make_counts(100, 40, passes=9000, seconds=9.0), None)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "started 1/6 fgsm on plain (first images): 100 images"
    assert re.match(
        r"first images of 1 cell done: 1% of 600 .* done, 1.0 s so far, .* from 8 images", lines[1]
    )
    assert re.match(
        r" +cell 1 of 6, fgsm on plain: 8 of 100 images, robust so far 50.0%, 500 passes per "
        r"image, 50 passes into this batch; 1% of 600 image-attacks done, 16 s so far, about ".replace(
            "~", "\N{EN DASH}"
        ),
        lines[2],
    )
    assert lines[3].startswith("   done 1/6 fgsm on plain: robust 40.0% (30.3")
    assert lines[3].endswith("n = 100, 90 passes per image, 9.0 s")
    assert len(lines) == 4
    assert not CONTROL.search("".join(lines))


def test_a_long_run_has_fewer_lines():
    assert choose_heartbeat_seconds(10) == MIN_HEARTBEAT_SECONDS
    assert choose_heartbeat_seconds(1200) == 60
    assert choose_heartbeat_seconds(1e6) == MAX_HEARTBEAT_SECONDS


def test_a_heartbeat_beats_until_it_is_stopped(monkeypatch):
    monkeypatch.setattr("robustbench_local.cli.heartbeat._CHECK_SECONDS", 0.001)
    beats = []
    heartbeat = Heartbeat(lambda: (beats.append(1), len(beats) == 3 and heartbeat.stop()))
    heartbeat.start()
    heartbeat._thread.join(10)
    assert len(beats) == 3
    heartbeat.stop()


@pytest.mark.parametrize("display_class", [LiveDisplay, PlainDisplay])
def test_resumed_and_stopped_runs_say_what_is_done(display_class):
    console = make_console(120)
    display, cells, clock = begin(display_class, console)
    with contextlib.suppress(KeyboardInterrupt), display:
        display.on_cell_known(cells[0], "done", make_counts(100, 40, passes=9000, seconds=9.0))
        display.on_cell_known(cells[1], "running", make_counts(20, 4, passes=9000, seconds=9.0))
        display.on_cell_start(cells[1], make_counts(20, 4, passes=9000, seconds=9.0))
        clock.now += 5
        display.on_batch_end(cells[1], make_counts(80, 4, passes=9000, seconds=9.0))
        raise KeyboardInterrupt
    shown = console.file.getvalue()
    assert shown.count("resumed: 1 of 6 cells and 120 of 600 image-attacks were done before") == 1
    assert shown.rstrip().endswith("stopped in cell 2 of 6: 30% of 600 image-attacks done and kept")
    assert "?25l" not in shown.split("stopped")[1]  # the cursor is not hidden


@pytest.mark.parametrize("display_class", [LiveDisplay, PlainDisplay])
def test_notes_stay_above_and_a_flood_of_them_ends(display_class):
    console = make_console(200)
    display, _, _ = begin(display_class, console)
    for number in range(MAX_NOTES_PER_CELL + 9):
        display.on_event(EventRecord(time="", level="warning", message=f"image {number}.", cell="a"))
    display.on_event(EventRecord(time="", level="error", message="all of it", cell="a"))
    display.on_event(EventRecord(time="", level="info", message="another cell", cell="b"))
    lines = console.file.getvalue().splitlines()
    assert sum("image " in line for line in lines) == MAX_NOTES_PER_CELL
    assert sum("not shown here" in line for line in lines) == 1
    assert "all of it" in lines[-2]
    assert "another cell" in lines[-1]


def test_the_end_shows_the_expected_beside_the_actual_time():
    display, cells, clock = begin(PlainDisplay)
    assert display.timing == {}
    assert display.format_timing_line() is None
    display.on_cell_start(cells[0], make_counts(0, 0))
    clock.now += 10
    display.on_cell_end(cells[0], "done", make_counts(100, 40, passes=1000, seconds=10.0), None)
    for cell in cells[1:]:
        display.on_cell_start(cell, make_counts(0, 0))
        clock.now += 10
        display.on_cell_end(cell, "done", make_counts(100, 40, passes=1000, seconds=10.0), None)
    line = display.format_timing_line()
    assert line.startswith("the attacks took 1 min 00 s; expected after 100 images: ")
    assert line.endswith(", passes of 1 h 40 min at most")
    timing = display.timing
    assert timing["seconds"] == 60
    assert timing["max_seconds"] == 6000
    assert timing["expected_seconds"][0] < 60 < timing["expected_seconds"][1]
    display.max_seconds = dict.fromkeys(display.max_seconds, 5.0)
    assert display.format_timing_line().endswith(", passes of 30 s at most")
    assert timing["passes"] == 6000
    assert timing["expected_passes"][0] < 6000 < timing["expected_passes"][1] < timing["max_passes"]
    line = display.format_cost_line()
    assert line.startswith("6,000 passes; expected after 100 images: ")
    assert " of CPU time; " in line
    assert line.endswith(" MiB after 100 images")


def read_objects(console):
    objects = [json.loads(line) for line in console.file.getvalue().splitlines()]
    for found in objects:
        assert set(found) - {"event"} == set(EVENTS[found["event"]]), found
    return objects


def test_json_lines_have_the_documented_keys():
    console = make_console()
    display, cells, clock = begin(JsonDisplay, console)
    display.on_cell_known(cells[3], "done", make_counts(100, 1))
    display.on_pilot_start(cells[:1])
    work(display, cells, clock)
    display.on_event(EventRecord(time="", level="warning", message=HOSTILE, cell="a"))
    display.print_heartbeat()
    clock.now += MIN_HEARTBEAT_SECONDS
    display.print_heartbeat()
    kinds = [found["event"] for found in read_objects(console)]
    assert kinds == [
        "run_started", "cell_known", "cell_started", "progress", "cell_ended", "cell_started", "progress",
        "cell_started", "warning", "progress",
    ]  # fmt: skip
    last = read_objects(console)[-1]
    assert last["batch_passes"] == 1234
    assert last["seconds_left"]["low"] <= last["seconds_left"]["value"] <= last["seconds_left"]["high"]
    assert read_objects(console)[2]["is_pilot"] is True
    assert read_objects(console)[4]["robust_accuracy"]["value"] == 0.4
    assert read_objects(console)[6]["robust"] == 30
    assert read_objects(console)[6]["robust_accuracy"] is None  # of half of the images, in the data's order
    assert not CONTROL.search(console.file.getvalue().replace("\n", ""))


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (ConfigError("no"), 2), (ValueError(), 70)]
)
def test_json_ends_with_the_exit_code_however_the_run_ends(error, code):
    console = make_console()
    with pytest.raises(type(error)), print_early_end(console):
        raise error
    nothing = dict.fromkeys(EVENTS["run_ended"])
    assert read_objects(console)[-1] == {**nothing, "event": "run_ended", "exit_code": code}


def test_a_violated_certificate_is_a_gate_object_that_says_so(tmp_path):
    report = GateReport(verdicts=(), violations=("certificate of a",))
    assert list_gate_objects(report, tmp_path) == [{"status": "blocked", "line": "certificate of a"}]


@pytest.mark.parametrize(
    ("is_terminal", "term", "is_tty", "as_json", "kind"),
    [
        (True, "xterm", True, False, LiveDisplay),
        (True, "dumb", True, False, PlainDisplay),
        (True, "xterm", False, False, PlainDisplay),  # FORCE_COLOR in a log
        (False, "xterm", False, False, PlainDisplay),
        (True, "xterm", True, True, JsonDisplay),
    ],
)
def test_a_table_needs_a_terminal_that_can_redraw(monkeypatch, is_terminal, term, is_tty, as_json, kind):
    monkeypatch.setenv("TERM", term)
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: is_tty, raising=False)
    console = Console(file=file, force_terminal=is_terminal)
    assert type(choose_display(console, {}, as_json=as_json)) is kind


def test_labels_are_those_of_the_run():
    labels = RunLabels(attacks={"a": "PGD"}, models={("m", "none"): "my model"})
    display, cells, _ = begin(PlainDisplay, plan=make_plan([make_cell("m", "a")], labels=labels))
    assert display.format_numbered_title(cells[0]) == "1/1 PGD on my model"
    assert display.format_subject(SimpleNamespace(model="m", defense="none")) == "my model"
