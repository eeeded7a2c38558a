"""Models that end, crash or hang: their images or cells are errors, and everything else goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ModelError
from robustbench_local.evaluation.execution import model_speed
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.harness import worker_pool as crew
from robustbench_local.evaluation.isolation import isolated_call
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.probes import model_probe
from robustbench_local.run import Run, run_grid
from robustbench_local.store.run_store import RunStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="models run in copies of a process, on Linux"),
]

MODELS = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from torch import nn

HERE = Path(__file__).parent
MARK = 0.85  # the brightest pixel of the image that some models cannot bear

class Good(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.weight = nn.Parameter(torch.randn(3, 48, generator=generator))

    def before(self, images):
        pass

    def forward(self, images):
        self.before(images)
        return (images - 0.5).flatten(1) @ self.weight.T

def good():
    return Good()

def acting(act, when=lambda images: True):
    class Acting(Good):
        def before(self, images):
            if when(images) and not (HERE / "calm").exists():
                act()
    return Acting()

def marked(images):
    return bool((images.flatten(1).amax(1) > MARK).any())

def stop():
    os.kill(os.getpid(), signal.SIGSTOP)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

def escape(error):
    def act():
        raise error
    return act

def exits(): return acting(lambda: sys.exit(0))
def leaves(): return acting(lambda: os._exit(0))
def crashes(): return acting(crash)
def generator_exits(): return acting(escape(GeneratorExit()))
def interrupts(): return acting(escape(KeyboardInterrupt()))
def hangs(): return acting(lambda: time.sleep(1000))

def working(act, when=marked):
    \"\"\"Bears its first questions and fails at work.\"\"\"
    return acting(act, lambda images: when(images) and (HERE / "planned").exists())

def crashes_on_one(): return working(crash)
def leaves_on_one(): return working(lambda: os._exit(0))
def exits_on_one(): return working(lambda: sys.exit(0))
def hangs_on_one(): return working(lambda: time.sleep(1000))
def stops_on_one(): return working(stop)
def crashes_always(): return working(crash, lambda images: True)
def hangs_always(): return working(lambda: time.sleep(1000), lambda images: True)
"""
BROKEN = {
    "exits_on_import": "import sys\nsys.exit(0)\n",
    "leaves_on_import": "import os\nos._exit(0)\n",
    "crashes_on_import": "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n",
    "hangs_on_import": "import time\ntime.sleep(1000)\n",
    "eval_exits": """
        import sys
        from torch import nn
        class Net(nn.Linear):
            def eval(self):
                sys.exit(0)
        def net():
            return Net(48, 3)
        """,
    "parameters_leave": """
        import os
        from torch import nn
        class Net(nn.Linear):
            def named_parameters(self, *more, **options):
                os._exit(0)
        def net():
            return Net(48, 3)
        """,
    "eval_raises": """
        from torch import nn
        class Net(nn.Linear):
            def eval(self):
                raise NotImplementedError("no mode of evaluation")
        def net():
            return Net(48, 3)
        """,
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and twelve images, the eighth of which is marked."""
    (tmp_path / "models.py").write_text(MODELS)
    for name, code in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(60, 196, (12, 4, 4, 3), generator=generator, dtype=torch.uint8)
    images[7, 0, 0, 0] = 230
    weight = torch.randn(3, 48, generator=torch.Generator().manual_seed(7))
    flat = images.permute(0, 3, 1, 2).float().flatten(1) / 255 - 0.5
    np.savez(tmp_path / "images.npz", x=images.numpy(), y=(flat @ weight.T).argmax(1).numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def grid(*names: str, attacks=("fgsm-linf-8",)) -> dict:
    models = [
        {"id": name, "source": f"python:{name}.py:net" if name in BROKEN else f"python:models.py:{name}"}
        for name in names
    ]
    eps = [{"card": card, "eps": "1/255"} for card in attacks]
    return {
        "schema": 1,
        "name": "faults",
        "data": {"source": "npz:images.npz"},
        "models": models,
        "attacks": eps,
    }


def run(place: Path, *names: str, timeout=60, workers=None, listener=None) -> dict[str, dict]:
    """Run the grid with a good model beside; the cells by the model's name."""
    options = Options(timeout=timeout, workers=workers, allow_code=True, batch_size=12)
    found = run_grid(grid("good", *names), place / "run", options=options, listener=listener)
    assert not found.is_complete
    cells = {cell["model"]: cell for cell in found.results["cells"]}
    assert cells["good"]["status"] == "done"
    return cells


def told(place: Path, name: str) -> list[dict]:
    rows = Run(place / "run").outcomes
    return rows[rows["model"] == name].sort_values("position").to_dict("records")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exits", "called sys.exit(0)"),
        ("leaves", "ended its process with code 0"),
        ("crashes", "ended by signal 11 (SIGSEGV)"),
        ("generator_exits", "raised GeneratorExit"),
        ("interrupts", "raised KeyboardInterrupt"),
        ("exits_on_import", "SystemExit"),
        ("leaves_on_import", "ended its process with code 0"),
        ("crashes_on_import", "ended by signal 11 (SIGSEGV)"),
        ("eval_exits", "sys.exit"),
        ("eval_raises", "no mode of evaluation"),
        ("parameters_leave", "ended its process with code 0"),
    ],
)
def test_a_model_that_fails_before_work_is_an_error_and_the_others_go_on(place, name, words):
    cells = run(place, name)
    assert cells[name]["status"] == "error"
    assert words in cells[name]["error"]
    assert "\n" not in cells[name]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hangs", "hangs_on_import"])
def test_a_model_that_hangs_before_work_runs_out_of_time(place, name):
    cells = run(place, name, timeout=5)
    assert cells[name]["status"] == "timeout"
    assert "no pass finished for 5 s" in cells[name]["error"]


def test_where_no_model_can_be_used_nothing_is_run(place):
    with pytest.raises(ModelError, match="ended its process with code 0"):
        run_grid(grid("leaves", "crashes"), options=Options(allow_code=True), out=place / "run")
    assert not (place / "run").exists()


@pytest.mark.parametrize("name", ["crashes_on_one", "leaves_on_one", "exits_on_one"])
def test_an_image_that_ends_the_process_of_the_first_questions_condemns_no_model(place, name):
    (place / "planned").touch()  # the eighth image is among the first that it is asked about
    assert run(place, name)[name]["status"] == "partial"
    assert [row["position"] for row in told(place, name) if row["status"] == "error"] == [7]


def test_an_image_that_raises_at_the_first_questions_condemns_no_model(place):
    raising = (
        "\ndef refuse():\n    raise ValueError('no')\n\ndef raises_on_one(): return acting(refuse, marked)\n"
    )
    (place / "models.py").write_text(MODELS + raising)
    assert run(place, "raises_on_one")["raises_on_one"]["status"] == "partial"
    assert [row["position"] for row in told(place, "raises_on_one") if row["status"] == "error"] == [7]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crashes_on_one", "ended by signal 11 (SIGSEGV)"),
        ("leaves_on_one", "ended its process with code 0"),
        ("exits_on_one", "called sys.exit(0)"),
    ],
)
def test_an_image_that_ends_the_process_is_an_error_and_the_others_go_on(place, name, words, workers):
    (place / "planned").touch()
    (place / "calm").touch()  # for the questions before the work
    cells = run_while_working(place, name, workers=workers)
    assert cells[name]["status"] == "partial"
    rows = told(place, name)
    assert [row["position"] for row in rows] == list(range(12))
    assert [row["position"] for row in rows if row["status"] == "error"] == [7]
    assert words in rows[7]["error"]


def run_while_working(place: Path, *names: str, timeout=60, workers=None) -> dict[str, dict]:
    """As `run`; models are calm until the plan stands."""
    return run(place, *names, timeout=timeout, workers=workers, listener=Wake(place))


class Wake(ProgressListener):
    """Ends the calm with the first cell, after the questions to the models."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def on_plan_ready(self, plan):
        (self.place / "planned").touch()

    def on_cell_start(self, cell, counts):
        (self.place / "calm").unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hangs_on_one", "stops_on_one"])
def test_an_image_that_hangs_is_an_error_and_the_others_go_on(place, name):
    cells = run_while_working(place, name, timeout=5)
    assert cells[name]["status"] == "partial"
    rows = told(place, name)
    assert [row["position"] for row in rows if row["status"] == "error"] == [7]
    assert "no pass finished for 5 s" in rows[7]["error"]


@pytest.mark.slow
def test_a_model_that_hangs_always_is_given_up(place):
    cells = run_while_working(place, "hangs_always", timeout=5)
    assert cells["hangs_always"]["status"] == "timeout"
    assert "no pass finished for 5 s, 3 times" in cells["hangs_always"]["error"]


def test_a_model_that_crashes_always_is_given_up_and_resumed(place):
    cells = run_while_working(place, "crashes_always")
    assert cells["crashes_always"]["status"] == "error"
    assert "SIGSEGV" in cells["crashes_always"]["error"]
    (place / "calm").touch()  # whatever made it crash is over
    found = run_grid(
        grid("good", "crashes_always"), out=place / "run", options=Options(allow_code=True, batch_size=12)
    )
    assert found.is_complete


def test_a_cell_that_takes_too_long_goes_on_in_the_next_run(place):
    code = MODELS + "\ndef slow(): return acting(lambda: time.sleep(0.1))\n"
    (place / "models.py").write_text(code)
    options = Options(allow_code=True, batch_size=2)
    slow = grid("good", "slow", attacks=["pgd50-linf-8"])
    found = run_grid(slow, place / "run", options=replace(options, cell_timeout=1.5))
    cells = {cell["model"]: cell for cell in found.results["cells"]}
    assert cells["slow"]["status"] == "timeout"
    assert "of 12 images done: slow: the cell's time is over" in cells["slow"]["error"]
    (place / "calm").touch()
    before = len(told(place, "slow"))
    assert run_grid(slow, place / "run", options=options).is_complete
    assert len(told(place, "slow")) == 12 > before


def test_a_repaired_model_takes_the_place_of_its_errors(place):
    cells = run(place, "leaves")
    assert cells["leaves"]["status"] == "error"
    (place / "calm").touch()
    found = run_grid(
        grid("good", "leaves"), out=place / "run", options=Options(allow_code=True, batch_size=12)
    )
    assert found.is_complete
    assert [cell["model"] for cell in found.results["cells"]] == ["good", "leaves"]
    models = {model["id"]: model for model in found.results["models"]}
    assert models["leaves"]["digest"]
    assert models["leaves"]["access"] == "gradients"


def test_a_model_that_fails_later_keeps_what_was_measured(place):
    (place / "calm").touch()
    options = Options(allow_code=True, batch_size=12)
    assert run_grid(grid("good", "leaves"), place / "run", options=options).is_complete
    (place / "calm").unlink()
    again = run_grid(grid("good", "leaves"), place / "run", options=options)
    assert again.is_complete
    assert len(told(place, "leaves")) == 12


def test_the_command_says_so_and_ends_with_4(place, capsys):
    (place / "grid.json").write_text(json.dumps(grid("good", "leaves")))
    code = run_command(["run", "grid.json", "--allow-code", "--out", "run", "--timeout", "60"])
    assert code == 4
    assert "ended its process with code 0" in capsys.readouterr().out
    assert run_command(["run", "grid.json", "--allow-code", "--out", "other", "--dry-run"]) == 4
    assert "error" in capsys.readouterr().out
    assert not (place / "other").exists()
    (place / "grid.json").write_text(json.dumps(grid("leaves")))
    assert run_command(["run", "grid.json", "--allow-code", "--out", "none"]) == 3
    assert "ended its process with code 0" in capsys.readouterr().err


BACKWARD = (
    MODELS
    + """
class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()
    @staticmethod
    def backward(ctx, gradient):
        os._exit(0)

def net():
    model = Good()
    plain = model.forward
    model.forward = lambda images: plain(Backwards.apply(images))
    return model
"""
)
ODD = {
    "its_words_raise": """
        class Odd(Good):
            def extra_repr(self):
                raise ValueError("no words")
        """,
    "threads_of_its_own": """
        from concurrent.futures import ThreadPoolExecutor
        POOL = ThreadPoolExecutor(2)
        list(POOL.map(abs, [1, 2]))
        class Odd(Good):
            def forward(self, images):
                return POOL.submit(super().forward, images).result()
        """,
    "scripted": """
        class Odd(nn.Module):
            def __new__(cls):
                return torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)))
        """,
}


def test_a_backward_pass_that_ends_the_process_costs_black_boxes_nothing(place, monkeypatch):
    (place / "backward.py").write_text(BACKWARD)
    content = grid("good")
    content["models"].append({"id": "backward", "source": "python:backward.py:net"})
    content["attacks"].append({"card": "square-linf-8", "queries": 4})
    found = run_grid(content, options=Options(timeout=60, allow_code=True, batch_size=12), out=place / "run")
    status = {(cell["model"], cell["card"]): cell["status"] for cell in found.results["cells"]}
    assert status["backward", "fgsm-linf-8"] == "error"
    assert status["backward", "square-linf-8"] == "done"
    notes = " ".join(found.results["models"][1]["notes"])
    assert "asked its first questions without a backward pass, for with one the model ended" in notes


def test_of_two_models_in_one_process_neither_is_blamed_alone(place):
    (place / "planned").touch()
    (place / "calm").touch()
    content = grid("good", "crashes_always")
    content["models"][0]["id"] = "sound"
    content["attacks"] = [{"card": "fgsm-linf-8", "transfer_from": "crashes_always"}]
    found = run_grid(
        content,
        options=Options(timeout=60, allow_code=True, batch_size=12),
        out=place / "run",
        listener=Wake(place),
    )
    transferred = next(cell for cell in found.results["cells"] if cell["status"] == "error")
    assert transferred["model"] == "sound"
    assert transferred["error"].startswith("sound or crashes_always: the model's process ended by signal 11")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "threads_of_its_own" else ()) for name in ODD],
)
def test_a_sound_model_with_odd_manners_is_measured(place, name):
    (place / "odd.py").write_text(MODELS + textwrap.dedent(ODD[name]) + "\ndef net():\n    return Odd()\n")
    content = grid("good")
    content["models"].append({"id": "odd", "source": "python:odd.py:net", "num_classes": 3})
    found = run_grid(content, options=Options(timeout=10, allow_code=True, batch_size=12), out=place / "run")
    assert found.is_complete, [cell["error"] for cell in found.results["cells"]]
    if name != "scripted":
        first, second = (cell["robust_accuracy"]["value"] for cell in found.results["cells"])
        assert first == second


def test_a_model_that_runs_out_of_memory_at_once_is_an_error_and_the_others_go_on(place):
    greedy = MODELS + "\ndef net(): return acting(escape(MemoryError('Unable to allocate 2 TiB')))\n"
    (place / "greedy.py").write_text(greedy)
    content = grid("good")
    content["models"].append({"id": "greedy", "source": "python:greedy.py:net"})
    found = run_grid(content, options=Options(timeout=60, allow_code=True, batch_size=12), out=place / "run")
    good, bad = found.results["cells"]
    assert (good["status"], bad["status"]) == ("done", "error")
    assert "runs out of memory on its first images: Unable to allocate 2 TiB" in bad["error"]


def test_a_file_that_leaves_only_where_it_is_read_again_does_not_end_the_run(place):
    again = (
        MODELS
        + """
if (HERE / "read").exists():
    os._exit(0)
(HERE / "read").touch()
def net(): return Good()
"""
    )
    (place / "again.py").write_text(again)
    content = grid("good")
    content["models"].append({"id": "again", "source": "python:again.py:net"})
    found = run_grid(content, options=Options(timeout=60, allow_code=True, batch_size=12), out=place / "run")
    good, bad = found.results["cells"]
    assert (good["status"], bad["status"]) == ("done", "error")
    assert "called os._exit(0)" in bad["error"]


GATED = """
import sys
from robustbench_local.cli.main import main
main()
"""


@pytest.mark.slow
def test_what_a_model_leaves_behind_at_exit_does_not_change_the_code(place):
    sneaky = "import atexit, os\natexit.register(os._exit, 0)\nfrom models import *\n"
    (place / "sneaky.py").write_text(sneaky)
    content = grid("good", "leaves")
    content["models"][0]["source"] = "python:sneaky.py:good"
    (place / "grid.json").write_text(json.dumps(content))
    arguments = ["run", "grid.json", "--allow-code", "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", GATED, *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 4, done.stderr
    assert "report:" in done.stdout


def test_a_killed_worker_changes_nothing(place):
    (place / "calm").touch()
    code = MODELS + textwrap.dedent(
        """
        def killed_once():
            def act():
                (HERE / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
            return working(act, lambda images: not (HERE / "killed").exists())
        """
    )
    (place / "models.py").write_text(code)
    options = Options(allow_code=True, batch_size=12)
    killed = grid("good", "killed_once")
    assert run_grid(killed, place / "run", options=options, listener=Wake(place)).is_complete
    good, other = told(place, "good"), told(place, "killed_once")
    assert (place / "killed").exists()
    assert [row["broken"] for row in good] == [row["broken"] for row in other]
    with RunStore.open_readonly(place / "run") as store:
        assert any("SIGKILL" in event.message for event in store.read_events())


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on other systems than Linux, or on a GPU."""
    for module in (crew, isolated_call, model_speed):
        monkeypatch.setattr(module, "can_fork", lambda *_: False)


@pytest.mark.usefixtures("no_copies")
@pytest.mark.parametrize("name", ["exits", "generator_exits", "exits_on_import", "eval_exits"])
def test_without_copies_an_exit_before_work_is_an_error_and_the_others_go_on(place, name):
    assert run(place, name)[name]["status"] == "error"


@pytest.mark.usefixtures("no_copies")
def test_without_copies_an_image_that_exits_is_an_error_and_the_others_go_on(place):
    (place / "calm").touch()
    cells = run_while_working(place, "exits_on_one")
    assert cells["exits_on_one"]["status"] == "partial"
    rows = told(place, "exits_on_one")
    assert [row["position"] for row in rows if row["status"] == "error"] == [7]


@pytest.mark.slow
@pytest.mark.usefixtures("no_copies")
def test_without_copies_a_hang_in_python_is_interrupted(place):
    nap = "\ndef nap():\n    while True:\n        time.sleep(0.01)\n"
    (place / "models.py").write_text(
        MODELS + nap + "\ndef naps(): return working(nap, lambda images: True)\n"
    )
    (place / "calm").touch()
    cells = run_while_working(place, "naps", timeout=5)
    assert cells["naps"]["status"] == "timeout"


@pytest.mark.slow
def test_a_hang_that_keeps_the_interpreter_to_itself_is_ended(place):
    greedy = "\nimport ctypes\ndef greedy(): return working(lambda: ctypes.PyDLL(None).sleep(1000))\n"
    (place / "models.py").write_text(MODELS + greedy)
    (place / "calm").touch()
    cells = run_while_working(place, "greedy", timeout=5)
    assert cells["greedy"]["status"] == "partial"
    assert [row["position"] for row in told(place, "greedy") if row["status"] == "error"] == [7]


def test_a_callable_with_threads_of_its_own_is_used_where_it_was_made(place, monkeypatch):
    monkeypatch.setattr(model_probe, "MAX_COPY_SECONDS", 2.0)
    pooled = """
from concurrent.futures import ThreadPoolExecutor
POOL = ThreadPoolExecutor(1)
POOL.submit(int).result()
NET = Good()
def pooled(images):
    return POOL.submit(lambda: NET(images).detach()).result()
"""
    (place / "models.py").write_text(MODELS + pooled)
    content = grid("good", attacks=("square-linf-8",))
    content["models"].append({"id": "pooled", "source": "python:models.py:pooled", "access": "scores"})
    content["attacks"][0]["queries"] = 20
    found = run_grid(content, out=place / "run", options=Options(allow_code=True, timeout=60))
    assert found.is_complete
    assert [row["broken"] for row in told(place, "pooled")] == [row["broken"] for row in told(place, "good")]
    notes = {model["id"]: model["notes"] for model in found.results["models"]}
    assert any("hangs in a copy of the process" in note for note in notes["pooled"])
