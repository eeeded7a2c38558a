"""Models that end, kill, stop or hang their process, or raise where nobody expects it, fail alone."""

from __future__ import annotations

import random

from fault import FaultTrial, add_variants, register_fault
from workplace import MAKE_ODD, DeviationError, FaultWorkspace

FAMILY = "hostile models"
TIMEOUT_FLAGS = ("--timeout", "3")
"""Seconds of a call: enough for these networks, however busy the machine."""

ODD_MODEL = """\
import ctypes, os, signal, sys, time

class Odd(Net):
    calls = 0

    def forward(self, x):
        type(self).calls += 1
        {forward}
        return super().forward(x)

def make_odd():
    {make}
    net = Odd()
    net.load_state_dict(load_file(Path(__file__).parent / "net.safetensors"))
    return net
"""
ODD_STATEMENTS = {
    "calls sys exit": "sys.exit()",
    "calls sys exit 0": "sys.exit(0)",
    "calls os exit 0": "os._exit(0)",
    "calls os exit 4": "os._exit(4)",
    "raises SystemExit with a text": "raise SystemExit('done')",
    "raises GeneratorExit": "raise GeneratorExit",
    "raises KeyboardInterrupt": "raise KeyboardInterrupt",
    "raises its own BaseException": "raise type('Odd', (BaseException,), {})('odd')",
    "raises an exception that cannot be pickled": "raise type('Odd', (Exception,), {})(lambda: 0)",
    "raises an exception without a text": "raise Exception",
    "raises StopIteration": "raise StopIteration",
    "recurses for ever": "return self.forward(x)",
    "reads memory that is not its own": "ctypes.string_at(0)",
    "aborts": "os.abort()",
    "kills its process": "os.kill(os.getpid(), signal.SIGKILL)",
    "stops its process": "os.kill(os.getpid(), signal.SIGSTOP)",
    "hangs": "time.sleep(3600)",
    "spins": "[0 for _ in iter(int, 1)]",
    "runs out of memory": "raise MemoryError('Unable to allocate 2 TiB')",
    "closes files that are not its own": "os.closerange(3, 1024)",
}
"""What a forward or a constructor may do besides its work."""


def expect_only_odd_cells_to_fail(place: FaultWorkspace, *arguments: str) -> None:
    """Run: the plain network's cell is done, the odd one's is not a number, and the exit code says so."""
    place.run(*TIMEOUT_FLAGS, *arguments).expect_code(4)
    cells = place.read_results()["cells"]
    status = {cell["model"]: cell["status"] for cell in cells}
    if status.get("plain") != "done":
        raise DeviationError(f"the cell of the sound model is {status.get('plain')!r}")
    if status.get("odd") not in {"error", "timeout", "partial"}:
        raise DeviationError(f"the cell of the hostile model is {status.get('odd')!r}")
    odd = next(cell for cell in cells if cell["model"] == "odd")
    if not odd.get("error"):
        raise DeviationError("the cell of the hostile model does not say why")


def _make_forward_trial(statement: str, after: int) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        guarded = f"if type(self).calls > {after}: {statement}"
        place.write_model(ODD_MODEL.format(forward=guarded, make="pass"))
        if after and place.run(*TIMEOUT_FLAGS).code == 0:  # copies that remember nothing never come that far
            if place.read_robust_accuracy("odd") != place.read_robust_accuracy("plain"):
                raise DeviationError("a model that ends after a hundred calls gets another number")
            return
        expect_only_odd_cells_to_fail(place)

    return trial


def _make_constructor_trial(statement: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        statement_alone = "return make_odd()" if "self" in statement else statement
        place.write_model(ODD_MODEL.format(forward="pass", make=statement_alone))
        expect_only_odd_cells_to_fail(place)

    return trial


def _make_import_trial(statement: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(ODD_MODEL.format(forward="pass", make="pass") + f"\n{statement}\n")
        expect_only_odd_cells_to_fail(place)

    return trial


add_variants(
    FAMILY, "a forward that", {name: _make_forward_trial(code, 0) for name, code in ODD_STATEMENTS.items()}
)
add_variants(
    FAMILY,
    "a forward that, after a hundred calls,",
    {
        name: _make_forward_trial(ODD_STATEMENTS[name], 100)
        for name in ("calls os exit 0", "reads memory that is not its own", "hangs")
    },
)
add_variants(
    FAMILY,
    "a constructor that",
    {
        name: _make_constructor_trial(ODD_STATEMENTS[name])
        for name in ("calls sys exit 0", "calls os exit 0", "kills its process", "hangs")
    },
)
add_variants(
    FAMILY,
    "a file that, when it is imported,",
    {
        name: _make_import_trial(ODD_STATEMENTS[name])
        for name in ("calls sys exit", "calls os exit 0", "aborts", "hangs")
    },
)


@register_fault(FAMILY)
def a_file_that_hangs_when_it_is_imported_once_more(place: FaultWorkspace, _draw: random.Random) -> None:
    twice = "SEEN = Path(__file__).with_name('seen')\nSEEN.exists() and time.sleep(3600)\nSEEN.touch()\n"
    place.write_model(ODD_MODEL.format(forward="pass", make="pass") + twice)
    expect_only_odd_cells_to_fail(place)


@register_fault(FAMILY, has_variants=True)
def an_image_that_crashes_the_model(place: FaultWorkspace, draw: random.Random) -> None:
    import numpy as np

    victim = draw.randrange(24)
    with np.load(place.folder / "images.npz") as data:
        pixels, labels = data["x"].copy(), data["y"]
    pixels[victim, 15, 15] = (1, 2, 3)
    np.savez(place.folder / "images.npz", x=pixels, y=labels)
    ending = draw.choice(["os._exit(0)", "ctypes.string_at(0)", "sys.exit()", "raise ValueError('no')"])
    mark = "((x[:, :, 15, 15] - torch.tensor([1., 2., 3.]) / 255).abs().amax(1) < 1e-6)"
    place.write_model(ODD_MODEL.format(forward=f"if bool({mark}.any()): {ending}", make="pass"))
    place.run(*TIMEOUT_FLAGS).expect_code(4)
    cell = place.find_cell("odd")
    if cell["status"] != "partial" or cell["n"] != 24:
        raise DeviationError(
            f"one image that crashes the model: the cell is {cell['status']!r} with n = {cell['n']}"
        )
    plain = {row["image"]: row["broken"] for row in place.read_rows("plain")}
    odd = {row["image"]: row["broken"] for row in place.read_rows("odd") if row["status"] != "error"}
    if len(odd) != 23 or any(plain[image] != broken for image, broken in odd.items()):
        raise DeviationError(f"one image that crashes the model: {len(odd)} of 23 others have an outcome")


@register_fault(FAMILY)
def a_resumed_run_with_a_crashing_model(place: FaultWorkspace, _draw: random.Random) -> None:
    place.write_model(ODD_MODEL.format(forward="ctypes.string_at(0)", make="pass"))
    expect_only_odd_cells_to_fail(place)
    expect_only_odd_cells_to_fail(place)


@register_fault(FAMILY)
def all_models_crash(place: FaultWorkspace, _draw: random.Random) -> None:
    place.write_file("net.py", ODD_ONLY_MODEL.replace("FORWARD", "os._exit(0)"))
    place.run(*TIMEOUT_FLAGS).expect_code(3, 4)


ODD_ONLY_MODEL = """\
import os, torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        FORWARD
        return x.flatten(1)[:, :4]

def make():
    return Net()
"""


def _make_module_trial(code: str, *, codes: tuple[int, ...]) -> FaultTrial:
    """A module that is odd outside its forward: it works, or one line says why it cannot."""

    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model("import os, sys\n" + code)
        result = place.run(*TIMEOUT_FLAGS).expect_code(*codes)
        if result.code in {0, 1} and place.find_cell("odd")["status"] != "done":
            raise DeviationError("the exit code hides a cell that is not done")

    return trial


add_variants(
    FAMILY,
    "a module",
    {
        "that TorchScript made": _make_module_trial(
            "def make_odd():\n    return torch.jit.trace(make().eval(), torch.rand(2, 3, 16, 16))\n",
            codes=(0,),
        ),
        "that TorchScript compiled": _make_module_trial(
            "def make_odd():\n    return torch.jit.script(make().eval())\n", codes=(0,)
        ),
        "whose words raise": _make_module_trial(
            "class Odd(Net):\n    def extra_repr(self):\n        raise ValueError('no words')\n" + MAKE_ODD,
            codes=(0,),
        ),
        "with threads of its own": _make_module_trial(
            "from concurrent.futures import ThreadPoolExecutor\nPOOL = ThreadPoolExecutor(2)\n"
            "list(POOL.map(abs, [1, 2]))\nclass Odd(Net):\n    def forward(self, x):\n"
            "        return POOL.submit(super().forward, x).result()\n" + MAKE_ODD,
            codes=(0,),
        ),
        "that goes on twice after a fork": _make_module_trial(
            "CALLS = []\nclass Odd(Net):\n    def forward(self, x):\n        CALLS.append(len(x))\n"
            "        os.fork() if len(CALLS) == 5 else None\n        return super().forward(x)\n" + MAKE_ODD,
            codes=(0,),
        ),
        "that is slow": _make_module_trial(
            "import time\nclass Odd(Net):\n    def forward(self, x):\n        time.sleep(0.15)\n"
            "        return super().forward(x)\n" + MAKE_ODD,
            codes=(0,),
        ),
        "that checkpoints with reentry": _make_module_trial(
            "from torch.utils.checkpoint import checkpoint\nclass Odd(Net):\n    def forward(self, x):\n"
            "        return checkpoint(super().forward, x, use_reentrant=True)\n" + MAKE_ODD,
            codes=(0, 4),
        ),
        "that torch export made": _make_module_trial(
            "def make_odd():\n    n = torch.export.Dim('n', min=1, max=4096)\n"
            "    images = (torch.rand(4, 3, 16, 16),)\n"
            "    return torch.export.export(make().eval(), images, dynamic_shapes=({0: n},)).module()\n",
            codes=(0, 4),
        ),
        "whose eval raises": _make_module_trial(
            "class Odd(Net):\n    def eval(self):\n        raise NotImplementedError('no eval')\n" + MAKE_ODD,
            codes=(0, 4),
        ),
        "whose train raises": _make_module_trial(
            "class Odd(Net):\n    def train(self, mode=True):\n        raise RuntimeError('no train')\n"
            + MAKE_ODD,
            codes=(0, 4),
        ),
        "that cannot be copied": _make_module_trial(
            "class Odd(Net):\n    def __deepcopy__(self, memo):\n        raise TypeError('no copy')\n"
            + MAKE_ODD,
            codes=(0, 4),
        ),
        "that squeezes its output": _make_module_trial(
            "class Odd(Net):\n    def forward(self, x):\n        return super().forward(x).squeeze()\n"
            + MAKE_ODD,
            codes=(0, 4),
        ),
        "that prints": _make_module_trial(
            "class Odd(Net):\n    def forward(self, x):\n        print('hello'); return super().forward(x)\n"
            + MAKE_ODD,
            codes=(0,),
        ),
        "that closes the standard output": _make_module_trial(
            "class Odd(Net):\n    def forward(self, x):\n"
            "        os.close(1) if not getattr(sys, 'shut', 0) else None\n        sys.shut = 1\n"
            "        return super().forward(x)\n" + MAKE_ODD,
            codes=(0, 4),
        ),
    },
)


BACKWARD_MODEL = """\
import os, sys, time

class Astray(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        {backward}

class Odd(Net):
    def forward(self, x):
        return super().forward(Astray.apply(x))
"""


def _make_backward_trial(statement: str) -> FaultTrial:
    """Only what needs gradients fails."""

    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(BACKWARD_MODEL.format(backward=statement) + MAKE_ODD)
        place.edit_grid("attacks:\n", "attacks:\n  - {card: square-linf-8, queries: 20}\n")
        place.run(*TIMEOUT_FLAGS).expect_code(4)
        if place.find_cell("odd")["status"] not in {"error", "timeout"}:
            raise DeviationError("gradients are nobody's, and the cell is not an error")
        if place.read_robust_accuracy("odd", "square-linf-8") != place.read_robust_accuracy(
            "plain", "square-linf-8"
        ):
            raise DeviationError("a black box breaks other images of the same network")

    return trial


add_variants(
    FAMILY,
    "a backward pass that",
    {
        name: _make_backward_trial(ODD_STATEMENTS[name])
        for name in ("calls sys exit 0", "calls os exit 0", "hangs")
    },
)


@register_fault(FAMILY)
def a_file_that_leaves_when_it_is_read_a_second_time(place: FaultWorkspace, _draw: random.Random) -> None:
    once = "MARK = Path(__file__).parent / 'read'\nif MARK.exists():\n    os._exit(0)\nMARK.touch()\n"
    place.write_model(ODD_MODEL.format(forward="pass", make="pass") + once)
    expect_only_odd_cells_to_fail(place)
