"""Grid files with slips and nonsense in them: a plan, or one line that says where the mistake is."""

from __future__ import annotations

import random

from fault import register_fault
from workplace import FaultWorkspace

FAMILY = "mutated grids"
RICH_GRID = """\
schema: 1
name: rich
seed: 3
question: "How sure?"
data: {source: "npz:images.npz", limit: 20, seed: 1}
models:
  - {id: plain, source: "python:net.py:make", num_classes: 4}
defenses: [none, jpeg-75]
attacks:
  - fgsm-linf-8
  - {card: pgd50-linf-8, eps: ["1/255", "4/255"], steps: 6, restarts: 2}
  - {card: square-linf-8, queries: 20, limit: 10}
gates:
  - {metric: robust_accuracy, threat: linf-8, min: 0.01, on: lower, level: error}
  - {metric: clean_accuracy, min: 0.5}
"""
NONSENSE_VALUES = (
    "null", "true", "-1", "0", "1e309", ".nan", ".inf", "''", "[]", "{}", "'x'", "8/255", "\"\\0\"", "[[[]]]",
    "~", "0x10", "99999999999999999999", "2001-01-01", "!!set {a}", "*missing", "&a", "\u202e", "[/red]",
    "'../../x'", "- - -", "? :", "%TAG",
)  # fmt: skip


def mutate_text(text: str, draw: random.Random) -> str:
    """One to three slips of the pen, or values that mean nothing."""
    for _ in range(draw.randint(1, 3)):
        lines = text.splitlines(keepends=True)
        place = draw.randrange(len(lines))
        kind = draw.randrange(7)
        if kind == 0:  # a letter is lost
            at = draw.randrange(len(text))
            text = text[:at] + text[at + 1 :]
            continue
        if kind == 1:  # a letter comes twice, or another one
            at = draw.randrange(len(text))
            text = (
                text[:at]
                + draw.choice([text[at] * 2, draw.choice("{}[]:,&*!|>'\"%@`#-? \t\x00\x1b\u2028")])
                + text[at + 1 :]
            )
            continue
        if kind == 2:
            lines.pop(place)
        elif kind == 3:
            lines.insert(place, lines[draw.randrange(len(lines))])
        elif kind == 4 and ":" in lines[place]:  # a value of another type
            head, _, _ = lines[place].partition(":")
            lines[place] = f"{head}: {draw.choice(NONSENSE_VALUES)}\n"
        elif kind == 5:
            words = [at for at, letter in enumerate(lines[place]) if letter in ",{"]
            if words:
                at = draw.choice(words)
                key, value = draw.choice(["eps", "seed", "id", "limit", "odd"]), draw.choice(NONSENSE_VALUES)
                lines[place] = f"{lines[place][: at + 1]} {key}: {value},{lines[place][at + 1 :]}"
        else:
            lines[place] = " " * draw.randint(1, 4) + lines[place]
        text = "".join(lines) or " "
    return text


@register_fault(FAMILY, has_variants=True)
def a_grid_with_slips(place: FaultWorkspace, draw: random.Random) -> None:
    text = mutate_text(RICH_GRID, draw)
    place.write_file("grid.yaml", text)
    try:
        place.run("--dry-run", limit=45).expect_code(0, 2, 3, 5)
    except Exception as error:
        error.add_note(f"the grid:\n{text}")
        raise
