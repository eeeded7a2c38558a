"""Files that are not what their names say, or that were made to fill memory: one line, nothing run."""

from __future__ import annotations

import os
import random
import socket
import zipfile
from pathlib import Path

import numpy as np
import torch
from fault import FaultTrial, add_variants, register_fault
from workplace import RUN_FLAGS, DeviationError, FaultWorkspace

FAMILY = "hostile files"


def _make_odd_file(path, kind: str) -> None:
    """Something at a path that is no regular file of a sane size."""
    path.unlink(missing_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a link to a FIFO":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to("pipe")
    elif kind == "a link to an endless device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as listener:
            os.chdir(path.parent)
            listener.bind(path.name)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a sparse file of 100 GB":
        with path.open("wb") as file:
            file.truncate(100 * 10**9)
    elif kind == "an empty file":
        path.write_bytes(b"")
    elif kind == "a link to itself":
        path.symlink_to(path.name)
    else:
        raise ValueError(kind)


ODD_KINDS = (
    "a FIFO",
    "a link to a FIFO",
    "a link to an endless device",
    "a socket",
    "a folder",
    "a sparse file of 100 GB",
    "an empty file",
    "a link to itself",
)


def _make_odd_file_trial(
    name: str, kind: str, codes: tuple[int, ...], edit: tuple[str, str] | None
) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        if edit:
            place.edit_grid(*edit)
        before = Path.cwd()
        _make_odd_file(place.folder / name, kind)
        os.chdir(before)
        place.run().expect_code(*codes)

    return trial


CHECKPOINT_EDIT = ('"python:net.py:make"', '"checkpoint:net.pt", architecture: mnist_fast')
ONNX_EDIT = ('"python:net.py:make"', '"onnx:net.onnx"')
for file, codes, edit in (
    ("grid.yaml", (2,), None),
    ("images.npz", (3, 5), None),
    ("net.pt", (3, 5), CHECKPOINT_EDIT),
    ("net.onnx", (3, 5), ONNX_EDIT),
    ("net.py", (2, 3, 5), None),
):
    add_variants(
        FAMILY, f"{file} that is", {kind: _make_odd_file_trial(file, kind, codes, edit) for kind in ODD_KINDS}
    )

HOSTILE_GRIDS: dict[str, str | bytes] = {
    "20,000 brackets": "[" * 20_000,
    "20,000 nested maps": "{a: " * 20_000,
    "deep indentation": "\n".join(" " * depth + f"a{depth}:" for depth in range(3_000)),
    "a billion laughs": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
    ),
    "a lone surrogate": 'name: "\\ud800"\n',
    "bytes that are no text": b"\xff\xfe\x00name: x",
    "a NUL": "name: a\0b\n",
    "a huge integer": f"seed: {'9' * 10_000}\n",
    "an overflowing float": "seed: 1e999\n",
    "a timestamp out of range": "name: 2024-99-99T99:99:99\n",
    "a date": "name: 2024-02-30\n",
    "a sexagesimal number": "seed: 190:20:30\n",
    "bad base64": "name: !!binary '***'\n",
    "an object": "name: !!python/object/apply:os.system ['touch owned']\n",
    "a complex key": "? [a, b]\n: c\n",
    "a merge key": "<<: [1, 2]\n",
    "an endless loop": "a: &a [*a]\n",
    "a set": "name: !!set {a, b}\n",
    "an int tag": "seed: !!int 'x'\n",
    "a float tag": "seed: !!float 'x'\n",
    "an omap": "data: !!omap [a, b]\n",
    "two documents": "schema: 1\n---\nschema: 1\n",
    "nothing": "",
    "a scalar": "42\n",
    "a list": "- 1\n- 2\n",
}


def _make_grid_trial(text: str | bytes, *, alone: bool) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        whole = (place.folder / "grid.yaml").read_bytes()
        text_bytes = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        place.write_file("grid.yaml", text_bytes if alone else whole + text_bytes)
        place.run(limit=30).expect_code(2)
        if (place.folder / "owned").exists():
            raise DeviationError("the grid file ran a command")

    return trial


add_variants(
    FAMILY,
    "a grid file that is",
    {name: _make_grid_trial(text, alone=True) for name, text in HOSTILE_GRIDS.items()},
)

HOSTILE_NAMES = (
    "..", ".", "../up", "/abs", "a/b", "rc[/1]", "[/a]", "[bold]x", "\x1b[31mred", "a\x07b", "\u202egnp",
    "x" * 300,
    "-rf", " ", "", "CON", "a\nb", "\u00e9\u0301", "=cmd()", "<script>alert(1)</script>",
)  # fmt: skip


def _make_name_trial(name: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        import yaml

        place.edit_grid("name: small\n", yaml.safe_dump({"name": name}, allow_unicode=True))
        result = place.run_command("run", "grid.yaml", *RUN_FLAGS).expect_code(0, 1, 2)
        outside = [
            p.name for p in place.folder.parent.iterdir() if p.is_dir() and p.name in {"up", "report.html"}
        ]
        if outside or (place.folder.parent / "run.db").exists() or (place.folder / "run.db").exists():
            raise DeviationError(f"written outside of runs/: {result.format_tail()}")

    return trial


add_variants(FAMILY, "a grid named", {repr(name[:20]): _make_name_trial(name) for name in HOSTILE_NAMES})


@register_fault(FAMILY)
def a_zip_bomb_as_weights(place: FaultWorkspace, _draw: random.Random) -> None:
    place.edit_grid(*CHECKPOINT_EDIT)
    torch.save({"w": torch.zeros(4)}, place.folder / "small.pt")
    bomb = zipfile.ZipFile(place.folder / "net.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(place.folder / "small.pt") as old, bomb as new:
        for kept in old.infolist():
            new.writestr(kept.filename, old.read(kept))
        with new.open("archive/data/9", "w", force_zip64=True) as entry:
            for _ in range(2_000):
                entry.write(bytes(1_000_000))
    place.run(limit=30).expect_code(3, 5)


@register_fault(FAMILY)
def a_zip_bomb_as_images(place: FaultWorkspace, _draw: random.Random) -> None:
    np.savez_compressed(
        place.folder / "images.npz", x=np.zeros((400_000, 32, 32, 3), np.uint8), y=np.zeros(4, int)
    )
    place.run(limit=60).expect_code(3, 5)


@register_fault(FAMILY)
def a_folder_of_figures_that_is_a_link(place: FaultWorkspace, _draw: random.Random) -> None:
    outside = place.folder / "elsewhere"
    outside.mkdir()
    place.run().expect_code(0, 1)
    import shutil

    shutil.rmtree(place.folder / "out" / "figures", ignore_errors=True)
    (place.folder / "out" / "figures").symlink_to(outside)
    place.run_command("report", "out").expect_code(0, 2, 5)
    if list(outside.iterdir()):
        raise DeviationError("the report writes through a link to another folder")


@register_fault(FAMILY)
def a_report_that_is_a_link(place: FaultWorkspace, _draw: random.Random) -> None:
    victim = place.write_file("victim", "precious")
    place.run().expect_code(0, 1)
    for name in ("report.html", "report.md", "results.json", "outcomes.csv"):
        (place.folder / "out" / name).unlink(missing_ok=True)
        (place.folder / "out" / name).symlink_to(victim)
    place.run_command("report", "out").expect_code(0, 2, 5)
    if victim.read_text() != "precious":
        raise DeviationError("the report writes through a link to another file")


@register_fault(FAMILY)
def a_run_on_media_that_cannot_be_written(place: FaultWorkspace, _draw: random.Random) -> None:
    place.run().expect_code(0, 1)
    media = place.folder / "out"
    for path in [*media.rglob("*"), media]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        place.run_command("report", "out", "--out", "page/report.html").expect_code(0)
        place.run_command("gate", "out").expect_code(0, 1)
    finally:
        for path in [media, *media.rglob("*")]:
            path.chmod(0o700)
    if not (place.folder / "page" / "report.html").exists():
        raise DeviationError("no report was written to the other folder")


@register_fault(FAMILY)
def a_model_that_prints_beside_json(place: FaultWorkspace, _draw: random.Random) -> None:
    import json

    net = (place.folder / "net.py").read_text()
    noisy = net.replace(
        "return self.body(x)", "print('hello'); import os; os.write(1, b'raw'); return self.body(x)"
    )
    place.write_file("net.py", noisy + "\nprint('loaded')\n")
    result = place.run("--json").expect_code(0, 1)
    for line in result.stdout.splitlines():
        try:
            json.loads(line)
        except ValueError as error:
            raise DeviationError(f"a line of --json is no JSON: {line[:80]!r}") from error


@register_fault(FAMILY)
def hostile_words_in_a_card(place: FaultWorkspace, _draw: random.Random) -> None:
    card = (Path(__file__).parents[2] / "attacks" / "pgd50-linf-8.yaml").read_text()
    lines = [
        'description: "[/a] \\e[31m <b>bold</b> | `x` \\u202e"' if line.startswith("description:") else line
        for line in card.splitlines()
    ]
    place.write_file("cards/odd.yaml", "\n".join(lines))
    place.run_command("list", "attacks", "--cards", "cards").expect_code(0, 2)
    place.edit_grid("{card: pgd50-linf-8, steps: 6}", "{card: odd, steps: 6}")
    place.run().expect_code(0, 1, 2)


@register_fault(FAMILY)
def images_a_hair_outside_the_range(place: FaultWorkspace, _draw: random.Random) -> None:
    with np.load(place.folder / "images.npz") as data:
        pixels = data["x"].astype(np.float32) / 255
        pixels[0, 0, 0, 0], pixels[1, 0, 0, 0] = -3e-8, 1.0000001
        np.savez(place.folder / "images.npz", x=pixels, y=data["y"])
    place.run().expect_code(0, 1)
    with np.load(place.folder / "images.npz") as data:
        pixels = data["x"].copy()
        pixels[0, 0, 0, 0] = -1e-3
        np.savez(place.folder / "images.npz", x=pixels, y=data["y"])
    place.run(out="other").expect_code(3)


HOSTILE_RADII = {
    "0.5/255": (0, 1), "8 / 255": (0, 1, 2), "8/25 5": (2,), "8/0": (2,), "8//255": (2,), "8/255/1": (2,),
    "nan": (2,),
    "inf": (2,), "-8/255": (2,), "1e-2": (0, 1), "0x8/255": (2,), "8/-255": (2,), "": (2,), "eight": (2,),
    "\u0668/255": (2,), "8_0/255": (2,), "1e999": (2,),
}  # fmt: skip


def _make_radius_trial(text: str, codes: tuple[int, ...]) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        import json

        place.edit_grid("steps: 6}", f"steps: 6, eps: {json.dumps(text)}}}")
        place.edit_grid(
            "gates:\n  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: estimate}\n", ""
        )
        place.run().expect_code(*codes)

    return trial


add_variants(
    FAMILY,
    "an eps of",
    {repr(text): _make_radius_trial(text, codes) for text, codes in HOSTILE_RADII.items()},
)


def _make_truth_value_trial(old: str, new: str) -> FaultTrial:
    def trial(place: FaultWorkspace, _draw: random.Random) -> None:
        place.edit_grid(old, new)
        place.run().expect_code(2).expect_words("boolean")

    return trial


add_variants(
    FAMILY,
    "a truth value as",
    {
        "the number of images": _make_truth_value_trial('npz:images.npz"', 'npz:images.npz", limit: true'),
        "the number of classes": _make_truth_value_trial("num_classes: 4", "num_classes: true"),
        "the seed": _make_truth_value_trial("seed: 3", "seed: false"),
    },
)
