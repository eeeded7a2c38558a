"""Calls in a child process: what comes back, and what a model that ends its process becomes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robustbench_local.classifier.pass_counter import record_finished_pass
from robustbench_local.errors import DataError, ModelError, ModelTimeoutError
from robustbench_local.evaluation.isolation import isolated_call
from robustbench_local.evaluation.isolation.child_process import describe_exit_code
from robustbench_local.evaluation.isolation.isolated_call import call_isolated, catch_process_exit

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="copies of a process need Linux")


def leave(code):
    def call():
        os._exit(code)

    return call


def kill(number):
    return lambda: os.kill(os.getpid(), number)


def throw(error):
    def call():
        raise error

    return call


@needs_fork
def test_the_result_comes_from_another_process():
    pid, tensor = call_isolated(lambda: (os.getpid(), torch.arange(400_000)), timeout=60)
    assert pid != os.getpid()
    assert torch.equal(tensor, torch.arange(400_000))  # larger than any pipe


@needs_fork
def test_a_child_changes_nothing_here():
    seen = []
    call_isolated(lambda: seen.append(1), timeout=60)
    assert seen == []


@needs_fork
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (leave(0), "ended its process with code 0"),
        (leave(7), "ended its process with code 7"),
        (kill(signal.SIGSEGV), "ended by signal 11 (SIGSEGV)"),
        (kill(signal.SIGABRT), "ended by signal 6 (SIGABRT)"),
        (kill(signal.SIGKILL), "ended by signal 9 (SIGKILL), perhaps for lack of memory"),
        (throw(SystemExit(0)), "called sys.exit(0)"),
        (throw(SystemExit()), "called sys.exit()"),
        (throw(GeneratorExit()), "raised GeneratorExit"),
        (throw(KeyboardInterrupt()), "raised KeyboardInterrupt"),
    ],
)
def test_whatever_ends_the_child_is_an_error_of_the_model(function, words):
    with pytest.raises(ModelError) as caught:
        call_isolated(function, timeout=60, name="mine")
    assert str(caught.value).startswith("mine: the model")
    assert words in str(caught.value)
    assert not isinstance(caught.value, ModelTimeoutError)


@needs_fork
def test_an_ordinary_exception_is_raised_again():
    with pytest.raises(DataError, match="too dark"):
        call_isolated(throw(DataError("too dark")), timeout=60)

    class LocalError(Exception):
        pass

    with pytest.raises(RuntimeError, match="LocalError: cannot be pickled"):
        call_isolated(throw(LocalError("cannot be pickled")), timeout=60)


@needs_fork
@pytest.mark.parametrize("hang", [lambda: time.sleep(1000), kill(signal.SIGSTOP)])
def test_a_call_that_hangs_or_is_stopped_is_ended(hang):
    with pytest.raises(ModelTimeoutError, match=r"no pass finished for 0\.3 s.*--timeout"):
        call_isolated(hang, timeout=0.3)


@needs_fork
@pytest.mark.slow
def test_a_call_whose_passes_finish_may_take_any_time():
    def work():
        for _ in range(8):
            time.sleep(0.5)
            record_finished_pass()
        return "done"

    assert call_isolated(work, timeout=3) == "done"  # which is less than it takes together


@needs_fork
def test_a_copy_that_a_model_makes_of_its_process_answers_nothing():
    def fork():
        return "child" if os.fork() else "grandchild"

    assert {call_isolated(fork, timeout=60) for _ in range(5)} == {"child"}


@needs_fork
def test_a_model_that_closes_what_is_not_its_own_leaves_no_traceback(capfd):
    with pytest.raises(ModelError, match="ended its process"):
        call_isolated(lambda: os.closerange(3, 1024), timeout=60)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("code", [0, 7])
def test_a_model_cannot_leave_this_process_where_there_is_no_other(code):
    before = os._exit
    with (
        pytest.raises(ModelError, match=rf"mine: the model called os\._exit\({code}\)"),
        catch_process_exit("mine"),
    ):
        os._exit(code)
    assert os._exit is before


@needs_fork
def test_copies_of_a_confined_process_may_leave():
    with catch_process_exit("mine"):
        child = os.fork()
        if child == 0:
            os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@needs_fork
def test_what_a_child_started_ends_with_it(tmp_path):
    def start():
        process = subprocess.Popen(["sleep", "1000"])
        (tmp_path / "pid").write_text(str(process.pid))
        os._exit(3)

    with pytest.raises(ModelError, match="code 3"):
        call_isolated(start, timeout=60)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 30
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pid)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


THREADS = """
import torch
from robustbench_local.evaluation.isolation.isolated_call import call_isolated
torch.set_num_threads(2)
images, layer = torch.rand(8, 16, 32, 32), torch.nn.Conv2d(16, 16, 3)
def work():
    leaf = images.clone().requires_grad_()
    layer(leaf).sum().backward()
    return torch.get_num_threads(), (torch.rand(600, 600) @ torch.rand(600, 600)).sum().item() > 0
work()
print(call_isolated(work, timeout=60), call_isolated(work, timeout=60, threads=1)[0])
"""


@pytest.mark.slow
@needs_fork
def test_threads_work_in_a_child_after_they_worked_here():
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout.split("\n")[0] == "(2, True) 1", done.stderr


@needs_fork
def test_what_a_child_prints_stays_out_of_the_results(capfd):
    call_isolated(lambda: sys.stdout.write("chatty model\n"), timeout=60)
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "chatty model\n"


def test_where_nothing_can_be_copied_exits_are_confined_here(monkeypatch):
    monkeypatch.setattr(isolated_call, "can_fork", lambda: False)
    assert call_isolated(os.getpid, timeout=60) == os.getpid()
    for error, words in [(SystemExit(0), "sys.exit"), (GeneratorExit(), "GeneratorExit")]:
        with pytest.raises(ModelError, match=words):
            call_isolated(throw(error), timeout=60)
    with pytest.raises(KeyboardInterrupt):  # which is the user's, here
        call_isolated(throw(KeyboardInterrupt()), timeout=60)
    with pytest.raises(ZeroDivisionError), catch_process_exit("mine"):
        throw(ZeroDivisionError())()


def test_endings_in_words():
    assert describe_exit_code(None) == "the model's process stopped answering"
    assert describe_exit_code(-250) == "the model's process ended by signal 250 (unknown)"
