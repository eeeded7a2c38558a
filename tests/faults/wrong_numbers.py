"""Models and images that could give a wrong number in silence: the right one, or a line that says why."""

from __future__ import annotations

import random

import numpy as np
import torch
from fault import FaultTrial, add_variants, register_fault
from workplace import MAKE_ODD, RUN_FLAGS, DeviationError, FaultWorkspace

FAMILY = "wrong numbers"
WRAPPED_MODEL = """\
import torch.nn.functional as F

class Odd(Net):
    def forward(self, x):
        {before}
        y = super().forward(x)
        {after}
        return y
"""
MORE_ATTACKS = "  - fgsm-linf-8\n  - {card: pgd50-l2-0.5, steps: 6}\n"


def expect_plain_robustness_or_warning(place: FaultWorkspace, attacks: tuple[str, ...]) -> None:
    """A model whose logits are the plain one's: as robust as that, or not passed by any gate."""
    result = place.run()
    for attack in attacks:
        odd, plain = place.read_robust_accuracy("odd", attack), place.read_robust_accuracy("plain", attack)
        if odd > plain + 0.5 / 24 and result.code not in {1, 4}:
            raise DeviationError(f"{attack}: {plain:.3f} becomes {odd:.3f}, and the gate passes")
        if (
            odd > plain + 0.5 / 24
            and "gradient" not in result.output + (place.folder / "out/report.md").read_text()
        ):
            raise DeviationError(f"{attack}: {plain:.3f} becomes {odd:.3f}, and nothing is said of gradients")


def _make_gradient_trial(before: str = "", after: str = "") -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(WRAPPED_MODEL.format(before=before or "pass", after=after or "pass") + MAKE_ODD)
        place.edit_grid("gates:\n", MORE_ATTACKS + "gates:\n")
        place.edit_grid("threat: linf-8, min: 0.01", "threat: linf-8, model: odd, min: 0.3")
        expect_plain_robustness_or_warning(place, ("pgd50-linf-8", "fgsm-linf-8", "pgd50-l2-0.5"))

    return trial


add_variants(
    FAMILY,
    "a gradient that is",
    {
        "not a number everywhere": _make_gradient_trial(
            after="y = y + ((x - x) ** 2).flatten(1).sum(1).sqrt()[:, None]"
        ),
        "not a number in one pixel": _make_gradient_trial(
            after="y = y + ((x - x) ** 2)[:, 0, 5, 5].sqrt()[:, None]"
        ),
        "infinite": _make_gradient_trial(
            after="y = y + 0 * (x - x).abs().flatten(1).sum(1).pow(.3)[:, None]"
        ),
        "not a number in some rows": _make_gradient_trial(
            after="y = y + ((x - x) ** 2).flatten(1).sum(1).sqrt()[:, None] * (x[:, 0, 5, 5] > .5)[:, None]"
        ),
        "not a number where a mask hides it": _make_gradient_trial(
            after="y = torch.where(torch.ones_like(y, dtype=torch.bool), y, y * float('nan'))"
        ),
        "not a number on black pixels": _make_gradient_trial(
            before="x = x + 0 * (x ** 2).sum(1, keepdim=True).sqrt()"
        ),
        "not a number after some calls": _make_gradient_trial(
            after="self.n = getattr(self, 'n', 0) + 1; "
            "y = y + ((x - x) ** 2).flatten(1).sum(1).sqrt()[:, None] if self.n > 9 else y"
        ),
        "cut by a clamp at the border": _make_gradient_trial(before="x = x.clamp(0, 1)"),
        "cut by a clamp to 255": _make_gradient_trial(before="x = (x * 255).clamp(0, 255) / 255"),
        "cut by a hardtanh": _make_gradient_trial(before="x = (F.hardtanh(x * 2 - 1) + 1) / 2"),
        "cut by minimum and maximum": _make_gradient_trial(
            before="x = torch.minimum(torch.maximum(x, torch.zeros(())), torch.ones(()))"
        ),
        "zero behind rounding": _make_gradient_trial(before="x = (x * 255).round() / 255"),
        "zero behind detach": _make_gradient_trial(before="x = x.detach() + 0 * x"),
    },
)


WRONG_GRADIENT_MODEL = """\
class Astray(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return {change}

class Odd(Net):
    def forward(self, x):
        return super().forward(Astray.apply(x))
"""


def _make_wrong_gradient_trial(change: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(WRONG_GRADIENT_MODEL.format(change=change) + MAKE_ODD)
        place.edit_grid("gates:\n", MORE_ATTACKS + "gates:\n")
        place.edit_grid("threat: linf-8, min: 0.01", "threat: linf-8, model: odd, min: 0.3")
        expect_plain_robustness_or_warning(place, ("pgd50-linf-8", "fgsm-linf-8", "pgd50-l2-0.5"))

    return trial


add_variants(
    FAMILY,
    "a backward pass that hands back",
    {
        "the opposite": _make_wrong_gradient_trial("-slope"),
        "random numbers": _make_wrong_gradient_trial("torch.randn_like(slope)"),
        "the mirror image": _make_wrong_gradient_trial("slope.flip(-1, -2)"),
    },
)


def _make_batch_dependence_trial(before: str = "", after: str = "", *, words: str = "") -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(WRAPPED_MODEL.format(before=before or "pass", after=after or "pass") + MAKE_ODD)
        result = place.run().expect_code(3, 4)
        if words:
            result.expect_words(words)
        if (place.folder / "out/results.json").exists() and place.find_cell("odd")["status"] == "done":
            raise DeviationError("an answer that depends on other images became a number")

    return trial


add_variants(
    FAMILY,
    "an answer that depends on",
    {
        "the mean of the batch": _make_batch_dependence_trial(
            before="x = (x - x.mean(0, keepdim=True)) * 3 + .5"
        ),
        "the largest of the batch": _make_batch_dependence_trial(
            before="x = x / x.amax(0, keepdim=True).clamp_min(.1)"
        ),
        "batch statistics inside the forward": _make_batch_dependence_trial(
            after="y = F.batch_norm(y, None, None, training=True) if len(y) > 1 else y"
        ),
        "attention over the batch": _make_batch_dependence_trial(after="y = torch.softmax(y @ y.t(), 1) @ y"),
        "the place in the batch": _make_batch_dependence_trial(after="y = torch.cat([y[:1] * 0 + 1, y[1:]])"),
        "the order of the batch": _make_batch_dependence_trial(after="y = y + y.cumsum(0) * .5"),
        "the size of the batch": _make_batch_dependence_trial(after="y = y.roll(1, 1) if len(x) == 1 else y"),
        "a batch of exactly eight": _make_batch_dependence_trial(
            after="y = y.roll(1, 0) if len(y) == 8 else y"
        ),
        "a batch of more than twenty": _make_batch_dependence_trial(
            after="y = y - y.mean(0) if len(y) > 20 else y"
        ),
        "the number of calls": _make_batch_dependence_trial(
            after="self.n = getattr(self, 'n', 0) + 1; y = y.roll(self.n // 3, 1)"
        ),
        "a buffer that it changes": _make_batch_dependence_trial(
            after="self.register_buffer('m', y.mean(0).detach() + getattr(self, 'm', 0) * .9); y = y - self.m"
        ),
    },
)

add_variants(
    FAMILY,
    "an answer that differs",
    {
        "where gradients are enabled": _make_batch_dependence_trial(
            after="y = y.roll(1, 1) if torch.is_grad_enabled() else y", words="gradients are recorded"
        ),
        "where images require gradients": _make_batch_dependence_trial(
            after="y = y.roll(1, 1) if x.requires_grad else y", words="gradients are recorded"
        ),
        "by noise that the forward seeds": _make_batch_dependence_trial(
            before="torch.manual_seed(0); x = x + .1 * torch.randn(x.shape)", words="the batch"
        ),
        "by the extremes of the batch": _make_batch_dependence_trial(
            before="x = (x - x.min()) / (x.max() - x.min())", words="other images of the batch"
        ),
    },
)

MEMORY_MODEL = """\
{where}
class Odd(Net):
    def __init__(self):
        super().__init__()
        self.memory = {{}}

    def forward(self, x):
        rows = []
        for image, y in zip(x, super().forward(x)):
            key = (image.detach() * 3).round().sum().item() // 40
            seen = {memory}.setdefault(key, [])
            if len(seen) >= 5:
                y = y * 0 + seen[0]
            else:
                seen.append(y.detach())
            rows.append(y)
        return torch.stack(rows)
"""


def _make_memory_trial(where: str, memory: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.write_model(MEMORY_MODEL.format(where=where, memory=memory) + MAKE_ODD)
        place.edit_grid("threat: linf-8, min: 0.01", "threat: linf-8, model: odd, min: 0.3")
        result = place.run()
        if result.code in {0, 130}:
            raise DeviationError(f"a model that remembers passes its gate: {result.format_tail()}")

    return trial


add_variants(
    FAMILY,
    "a memory in",
    {
        "the module": _make_memory_trial("", "self.memory"),
        "a global of its file": _make_memory_trial("STORE = {}", "STORE"),
        "its class": _make_memory_trial("Net.store = {}", "Net.store"),
        "a default argument": _make_memory_trial("def store(d={}):\n    return d", "store()"),
    },
)


@register_fault(FAMILY)
def code_that_changed_beside_the_models_file(place: FaultWorkspace, _draw: random.Random) -> None:
    net = (place.folder / "net.py").read_text()
    place.write_file("mynet.py", net)
    place.write_file("net.py", "from mynet import Net, make\n")
    place.run().expect_code(0, 1)
    before = place.read_robust_accuracy("plain")
    place.write_file("mynet.py", net.replace("return self.body(x)", "return self.body(x).roll(1, 1)"))
    result = place.run()
    if result.code in {0, 1} and place.read_robust_accuracy("plain") == before:
        raise DeviationError(f"the figures of code that no longer exists: {result.format_tail()}")


@register_fault(FAMILY)
def code_that_changed_in_a_package(place: FaultWorkspace, _draw: random.Random) -> None:
    net = (place.folder / "net.py").read_text().replace("parent /", "parent.parent /")
    place.write_file("nets/__init__.py", "from .inner import *\n")
    place.write_file("nets/inner.py", net)
    place.write_file("net.py", "from nets import make\n")
    place.run().expect_code(0, 1)
    before = place.read_robust_accuracy("plain")
    place.write_file("nets/inner.py", net.replace("return self.body(x)", "return self.body(x).roll(1, 1)"))
    result = place.run()
    if result.code in {0, 1} and place.read_robust_accuracy("plain") == before:
        raise DeviationError(f"the figures of code that no longer exists: {result.format_tail()}")


def _make_folders_trial(names: tuple[str, ...]) -> FaultTrial:
    def trial(place: FaultWorkspace, draw: random.Random) -> None:
        from PIL import Image

        for split in names:
            for label in ("cat", "dog"):
                folder = place.folder / "photos" / split / label
                folder.mkdir(parents=True)
                for index in range(3):
                    pixels = np.full((16, 16, 3), draw.randrange(256), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index}.png")
        place.edit_grid('source: "npz:images.npz"', 'source: "folder:photos", size: 16')
        place.run().expect_code(3).expect_words("split", names[0])

    return trial


add_variants(
    FAMILY,
    "split folders named",
    {
        " and ".join(names): _make_folders_trial(names)
        for names in (
            ("Train", "Test"),
            ("training", "validation"),
            ("TRAIN", "VAL", "TEST"),
            ("train_images", "test_images"),
            ("fold1", "fold2", "fold3"),
            ("seen", "unseen"),
        )
    },
)


@register_fault(FAMILY)
def two_sets_of_weights_in_one_file(place: FaultWorkspace, _draw: random.Random) -> None:
    from robustbench_local.models.networks.network_registry import build_network

    fast = build_network("mnist_fast").state_dict()
    more = {name: tensor + 1 for name, tensor in fast.items()}
    torch.save({"state_dict": fast, "state_dict_ema": more}, place.folder / "two.pt")
    place.edit_grid('source: "python:net.py:make"', 'source: "checkpoint:two.pt", architecture: mnist_fast')
    place.run().expect_code(3).expect_words("state_dict_ema", "entry")


@register_fault(FAMILY)
def weights_that_are_whole_numbers(place: FaultWorkspace, _draw: random.Random) -> None:
    from robustbench_local.models.networks.network_registry import build_network

    whole = {
        name: (tensor * 100).to(torch.int8)
        for name, tensor in build_network("mnist_fast").state_dict().items()
    }
    torch.save(whole, place.folder / "whole.pt")
    place.edit_grid('source: "python:net.py:make"', 'source: "checkpoint:whole.pt", architecture: mnist_fast')
    place.edit_grid("num_classes: 4", "num_classes: 10")
    place.run().expect_code(3).expect_words("int8", "float32")


@register_fault(FAMILY)
def a_neighbour_that_only_the_forward_imports_changes(place: FaultWorkspace, _draw: random.Random) -> None:
    late = "class Odd(Net):\n    def forward(self, x):\n        from late import SIGN\n"
    place.write_file("late.py", "SIGN = 1.0\n")
    place.write_model(
        f"{late}        return SIGN * super().forward(x)\n\ndef make_odd():\n    net = Odd()\n"
        "    net.load_state_dict(load_file(Path(__file__).parent / 'net.safetensors'))\n    return net\n"
    )
    place.run().expect_code(0, 1)
    if place.read_robust_accuracy("odd") != place.read_robust_accuracy("plain"):
        raise DeviationError("the same network has two figures")
    place.write_file("late.py", "SIGN = -1.0\n")
    place.run().expect_code(2).expect_words("late.py of model odd")


@register_fault(FAMILY)
def images_of_zeros_and_ones_as_bytes(place: FaultWorkspace, _draw: random.Random) -> None:
    with np.load(place.folder / "images.npz") as data:
        np.savez(place.folder / "images.npz", x=data["x"] // 128, y=data["y"])
    place.run().expect_code(3)


@register_fault(FAMILY)
def an_image_that_only_one_attack_met(place: FaultWorkspace, _draw: random.Random) -> None:
    place.edit_grid(
        "gates:\n",
        '  - {card: autoattack-linf-8, eps: "32/255", limit: 6}\n'
        '  - {card: pgd50-linf-8, eps: "32/255"}\ngates:\n',
    )
    place.edit_grid("threat: linf-8, min: 0.01, on: estimate", "threat: linf-32, min: 0.3, on: upper")
    place.run().expect_code(1)


@register_fault(FAMILY)
def a_cut_graph_with_automatic_batches(place: FaultWorkspace, _draw: random.Random) -> None:
    place.write_model(WRAPPED_MODEL.format(before="pass", after="y = y.detach()") + MAKE_ODD)
    place.edit_grid("gates:\n", "  - {card: square-linf-8, queries: 50}\ngates:\n")
    flags = [flag if flag != "8" else "auto" for flag in RUN_FLAGS]
    place.run_command("run", "grid.yaml", *flags, "--out", "out").expect_code(4, 0, 1)
    if place.find_cell("odd", "square-linf-8")["status"] != "done":
        raise DeviationError("a black box was not tried on a model without gradients")


@register_fault(FAMILY)
def labels_that_begin_with_1(place: FaultWorkspace, _draw: random.Random) -> None:
    arrays = np.load(place.folder / "images.npz")
    np.savez(place.folder / "images.npz", x=arrays["x"], y=arrays["y"] + 1)
    place.run().expect_code(0, 1).expect_words("labels were numbered 0 to 3")
    if "numbered 0 to 3" not in (place.folder / "out" / "report.md").read_text("utf-8"):
        raise DeviationError("labels are renumbered, and the report does not say so")


@register_fault(FAMILY)
def attacks_on_other_images_than_the_untouched_ones(place: FaultWorkspace, _draw: random.Random) -> None:
    place.edit_grid("steps: 6}\n", "steps: 6}\n  - {card: fgsm-linf-8, limit: 9}\n")
    place.run().expect_code(0, 1, 4)
    arrays = {(cell["attack"]): cell for cell in place.read_results()["cells"]}
    own = arrays["fgsm-linf-8"]["clean_accuracy"]["value"]
    all_images = arrays["pgd50-linf-8[steps=6]"]["clean_accuracy"]["value"]
    text = (place.folder / "out" / "report.md").read_text("utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| plain |") and "clean" in line)
    shown = row
    if own == all_images or f"n = 9); clean {own:.1%}" not in shown:
        raise DeviationError(f"an attack on 9 of 24 images stands beside the clean accuracy of all: {shown}")
