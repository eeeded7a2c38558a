"""``rbl load-test``: its arguments, and a model that is served, loaded, reported and gated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gate_runs import GateCell, GateRun
from load_records import make_load, make_load_test, make_soaked_test

from robustbench_local.cli.load_test_run import parse_duration
from robustbench_local.cli.load_test_tables import print_load_test
from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1.5m", 90), ("250ms", 0.25), ("60", 60), (" 2 h ", 7200), ("1min", 60)]
)
def test_times_have_units(text, seconds):
    assert parse_duration(text, "--soak") == seconds


@pytest.mark.parametrize(
    "text", ["", "5 parsecs", "-1s", "0", "1e3s", "999999h", "\N{FULLWIDTH DIGIT FIVE}s"]
)
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ConfigError, match="--duration"):
        parse_duration(text, "--duration")
    assert parse_duration("0", "--soak", is_optional=True) == 0


@pytest.mark.extra
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "0,8"], "--batch-sizes: cannot read '0,8'"),
        (["--batch-sizes", "8,,"], "--batch-sizes: cannot read"),
        (["--concurrency", "9999"], "--concurrency: cannot read '9999'. Write numbers from 1 to 512"),
        (["--rate", "nan"], "--rate: cannot read 'nan'"),
        (["--rate", "-5"], "--rate: cannot read"),
        (["--duration", "soon"], "--duration: cannot read the time 'soon'"),
        (["--protocol", "jsn"], "--protocol: there is no 'jsn'. Did you mean json?"),
        (
            ["--data", "signs", "--corruptions", "fogg-3"],
            "no corruption 'fogg'. Did you mean fog?",
        ),
        (["--data", "signs", "--corruptions", "fog-9"], "the severity of 'fog-9' is not 1 to 5"),
        (["--corruptions", "fog-3"], "corruptions need images. Name them with --data"),
        (["--", "--size", "3"], "a service that runs takes no options"),
        ([], "the service does not answer: connection refused. Start it first"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    pytest.importorskip("h11", reason="needs the extra web")
    assert run_command(["load-test", "http://127.0.0.1:9", *arguments]) in (2, 3)
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.extra
def test_options_of_the_load_test_itself_are_not_given_to_the_server(capsys):
    pytest.importorskip("h11", reason="needs the extra web")
    assert run_command(["load-test", "zoo:signs-plain", "--", "--port=80"]) == 2
    assert "the load test sets --port itself" in capsys.readouterr().err


@pytest.mark.extra
def test_errors_of_the_server_are_those_of_the_load_test():
    pytest.importorskip("h11", reason="needs the extra web")
    from robustbench_local.load_test.local_service import read_server_error

    refused = read_server_error('{"event": "x"}\nrbl: error: zoo:sings: no such model. Did you mean?\n', 2)
    assert (str(refused), refused.exit_code) == ("zoo:sings: no such model. Did you mean?", 2)
    assert read_server_error("rbl: error: it needs --allow-code\n", 5).exit_code == 5
    assert "the server ended with code -9: last words" in str(read_server_error("first\nlast words\n", -9))
    assert "without a message" in str(read_server_error("", 1))


DIGESTS = ("1" * 64, "2" * 64)


@pytest.mark.extra
def test_the_model_of_a_run_is_named_or_found_by_its_digest(tmp_path):
    pytest.importorskip("h11", reason="needs the extra web")
    from robustbench_local.cli.load_test_subject import choose_subject, list_run_models

    def choose(known, service="whatever", digest=None, name=None):
        described = SimpleNamespace(name=service, digest=digest)
        return choose_subject(described, known, target="http://u:p@h/p?key=1", name=name, folder=tmp_path)

    known = {("a", "none"): DIGESTS[0], ("a", "jpeg"): None, ("b", "none"): DIGESTS[1]}
    assert choose(None) == ("whatever", "none", "http://h/p")
    assert choose(known, "a + jpeg")[:2] == ("a", "jpeg")
    assert choose(known, digest=DIGESTS[1])[:2] == ("b", "none")
    assert choose(known, "a", digest=DIGESTS[1])[:2] == ("b", "none")  # the digest says more than the name
    assert choose({("a", "none"): None})[:2] == ("a", "none")  # there is no other
    assert choose(known, digest=DIGESTS[0], name="a + jpeg")[:2] == ("a", "jpeg")
    assert choose(known, digest="their own", name="a")[:2] == ("a", "none")  # a service of somebody else
    with pytest.raises(ConfigError, match=r"no model 'c'\. Name it with --as: a, a [+] jpeg, b"):
        choose(known, "c")
    with pytest.raises(ConfigError, match=r"no model 'a . jpg'\. Did you mean a . jpeg"):
        choose(known, "c", name="a + jpg")
    with pytest.raises(ConfigError, match=r"another model than a of the run .*2222 instead of 1111"):
        choose(known, digest=DIGESTS[1], name="a")
    with pytest.raises(ConfigError, match="another model than a of the run"):
        choose({("a", "none"): DIGESTS[0]}, digest=DIGESTS[1])
    cells = (GateCell(images="rr", model="a"), GateCell(images="rr", model="b"))
    run = GateRun(cells=cells).write_store(tmp_path / "run")
    assert list(list_run_models(run)) == [("a", "none"), ("b", "none")]
    assert list_run_models(tmp_path) is None


def _make_arguments(**changes):
    from robustbench_local.cli.load_test_run import LoadTestArguments

    settings = dict.fromkeys(LoadTestArguments.__dataclass_fields__) | {"target": "http://u:p@h/p?key=1"}
    return LoadTestArguments(**settings | changes)


def test_tables_are_readable_at_any_width(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    failed = make_load(errors={"timeout": 2, "status 503": 1})
    print_load_test(make_soaked_test(), Path("run/load_test.json"), as_json=False)
    print_load_test(make_load_test(loads=(failed,)), None, as_json=False)
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "soak", "a trend that matters", "CPU 4.0 s, 10 ms for an image",
        "problem: memory grows <b>fast</b>",
        "run/load_test.json", "no retries", "the generator alone sends up to 1,000 images/s", "│ 3 │",
    ):  # fmt: skip
        assert part in text
    print_load_test(make_load_test(), None, as_json=True)
    assert json.loads(capsys.readouterr().out)["loads"][1]["rate"] == 50.0


QUICK = [
    "--batch-sizes", "1,2", "--concurrency", "2", "--duration", "0.5s", "--warmup", "0", "--data", "signs",
    "--limit", "10", "--corruptions", "fog",
]  # fmt: skip


@pytest.mark.extra
@pytest.mark.slow
def test_a_model_is_served_loaded_and_stopped(tmp_path, capsys, monkeypatch):
    for library in ("h11", "fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(library, reason="needs the extra web")
    monkeypatch.chdir(tmp_path)
    gates = ({"metric": "p95_ms", "max": 1e-6}, {"metric": "throughput", "min": 1e9})
    GateRun(cells=(GateCell(images="rrrb"),), gates=gates).write_store(tmp_path / "run")
    assert (
        run_command(
            ["load-test", "zoo:signs-plain", *QUICK, "--out", "run", "--json", "--", "--threads", "1"]
        )
        == 0
    )
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert [load["name"] for load in record["loads"]][:2] == ["b1-c2", "b2-c2"]
    assert all(not load["errors"] and not load["changed_images"] for load in record["loads"])
    assert all(load["ceiling"] > 0 for load in record["loads"])
    assert record["accuracies"][0]["before"] == record["accuracies"][0]["after"]
    assert record["accuracies"][0]["before"]["value"] >= 0.9
    assert record["process"]["memory_at_start"] > 100 << 20
    pid = int(record["process"]["source"].split()[1])
    assert not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    assert run_command(["gate", "run"]) == 1
    assert "FAIL  m  p95_ms[b1-c2]" in capsys.readouterr().out


@pytest.mark.extra
@pytest.mark.slow
def test_an_interrupt_leaves_no_server_behind(tmp_path):
    for library in ("h11", "fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        pytest.importorskip(library, reason="needs the extra web")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "robustbench_local.cli",
        "load-test",
        "zoo:signs-plain",
        "--duration",
        "10m",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, text=True
    )
    while "measuring" not in process.stderr.readline():
        assert process.poll() is None
    children = [
        int(one) for one in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    assert children
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in error
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
