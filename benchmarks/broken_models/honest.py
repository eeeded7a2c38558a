"""``python -m benchmarks.broken_models.honest``: robust accuracy under attacks made by hand.

For each case: gradient ascent through stand-ins that were written with the model's code in view, margin loss
and targets, the candidates asked of the model itself. Nothing of the package's own adaptive attack is used.
"""

from __future__ import annotations

import copy
import csv
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import typer
from torch import Tensor, nn

from benchmarks.broken_models.case import ModelCase
from benchmarks.broken_models.networks import NETWORKS
from benchmarks.broken_models.registry import HONEST_FILE, list_models, list_study_models
from benchmarks.broken_models.surrogates import list_surrogates

_STEPS = 60
_RESTARTS = 2
_TARGETS = 4
_QUERY_EVERY = 4
"""Steps between two questions to the model itself."""
_VERDICT_DRAWS, _GRADIENT_DRAWS, _RANDOM_TARGETS = 20, 10, 1
"""Draws of a random model: in the verdict, which is a vote, and in the gradient, for fewer targets."""
_UNDEFINED_KINDS = frozenset({"batch norm always on", "batch mean subtracted", "switch by the clock"})
"""Kinds whose answer to a single image is not defined."""

Loss = Callable[[Tensor, Tensor], Tensor]


def measure_case(case: ModelCase, n: int) -> list[bool]:
    """Whether each image is correctly classified and no attempt succeeds.

    Args:
        case: The case.
        n: How many images.
    """
    torch.manual_seed(0)
    images, labels = case.data(n)
    model, base = case.build().eval(), NETWORKS[case.name.rpartition(" on ")[2]]
    is_random = _is_random(model, images[:4])
    judge = _Judge(model, labels, _VERDICT_DRAWS if is_random else 1)
    robust = judge.find_correct(images, torch.arange(n))
    surrogates = list_surrogates(base, model)
    if _has_gradient(model, images[:2]):
        surrogates.append(copy.deepcopy(model))
    for surrogate in surrogates:
        for start in _draw_starts(images, case):
            for goal in range(1 + (_RANDOM_TARGETS if is_random else _TARGETS)):
                rows = robust.nonzero().flatten()
                if not len(rows):
                    return robust.tolist()
                job = _Ascent(
                    surrogate, case, images[rows], labels[rows], goal, _GRADIENT_DRAWS if is_random else 1
                )
                for candidates in job.iterate(start[rows]):
                    robust[rows] &= judge.find_correct(candidates, rows)
    return robust.tolist()


class _Judge:
    """Asks the model as it was before any question."""

    def __init__(self, model: nn.Module, labels: Tensor, draws: int) -> None:
        self.model, self.labels, self.draws = model, labels, draws

    def find_correct(self, images: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            answers = [_take_shares(copy.deepcopy(self.model)(images)) for _ in range(self.draws)]
        return torch.stack(answers).mean(dim=0).argmax(dim=1) == self.labels[rows]


def _take_shares(logits: Tensor) -> Tensor:
    """One for the predicted class: the mean over draws is a vote."""
    return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


def _is_random(model: nn.Module, images: Tensor) -> bool:
    with torch.no_grad():
        answers = [copy.deepcopy(model)(images) for _ in range(3)]
        if all(torch.equal(answers[0], other) for other in answers[1:]):
            return any(hasattr(layer, "generator") and layer.generator for layer in model.modules())
    return True


def _has_gradient(model: nn.Module, images: Tensor) -> bool:
    logits = copy.deepcopy(model)(images.clone().requires_grad_())
    return logits.requires_grad


def _draw_starts(images: Tensor, case: ModelCase) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    for restart in range(_RESTARTS):
        noise = torch.rand(images.shape, generator=generator) * 2 - 1
        yield images if restart == 0 else (images + case.eps * noise).clamp(0, 1)


class _Ascent:
    """Signed gradient ascent in the Linf ball, with momentum and a step that shrinks.

    Goal 0 is any wrong class; goal k is the class that is k-th nearest on the clean image.
    """

    def __init__(
        self, surrogate: nn.Module, case: ModelCase, images: Tensor, labels: Tensor, goal: int, draws: int
    ) -> None:
        self.surrogate, self.eps, self.images, self.labels, self.draws = (
            surrogate,
            case.eps,
            images,
            labels,
            draws,
        )
        self.targets: Tensor | None = None
        if goal:
            with torch.no_grad():
                logits = copy.deepcopy(surrogate)(images)
            logits = logits.scatter(1, labels[:, None], -torch.inf)
            self.targets = logits.topk(min(goal, logits.shape[1] - 1), dim=1).indices[:, -1]

    def iterate(self, start: Tensor) -> Iterator[Tensor]:
        """Candidates on the way, the last one among them."""
        current, velocity = start, torch.zeros_like(start)
        for step in range(_STEPS):
            rate = self.eps * (0.5 if step < _STEPS // 2 else 0.5 * 2 ** (-(step - _STEPS // 2) / 8))
            velocity = 0.75 * velocity + self._compute_slope(current).sign()
            moved = current + rate * velocity.sign()
            current = (self.images + (moved - self.images).clamp(-self.eps, self.eps)).clamp(0, 1)
            if step % _QUERY_EVERY == _QUERY_EVERY - 1:
                yield current

    def _compute_slope(self, images: Tensor) -> Tensor:
        leaf = images.clone().requires_grad_()
        # a model without random numbers needs no draws, whoever judges it
        losses = [self._compute_loss(self.surrogate(leaf)).sum() for _ in range(self.draws)]
        total = torch.stack(losses).sum()
        if not total.requires_grad:
            return torch.randn_like(images)
        slope = torch.autograd.grad(total, leaf, allow_unused=True)[0]
        return torch.randn_like(images) if slope is None else slope.nan_to_num()

    def _compute_loss(self, logits: Tensor) -> Tensor:
        own = logits.gather(1, self.labels[:, None])
        others = logits.scatter(1, self.labels[:, None], -torch.inf)
        other = (
            others.amax(dim=1, keepdim=True)
            if self.targets is None
            else logits.gather(1, self.targets[:, None])
        )
        return (other - own).squeeze(1)


def main(
    names: Annotated[str, typer.Option(help="Only cases whose name holds this text.")] = "",
    every: Annotated[bool, typer.Option("--all", help="Each kind on each of its networks.")] = False,
    file: Annotated[Path, typer.Option(help="The table to extend.")] = HONEST_FILE,
) -> None:
    """Measure the cases that the table does not hold yet, and write the table after each."""
    torch.set_num_threads(1)
    table = _read_table(file)
    cases = list_models() if every else list_study_models()
    for case in sorted(cases, key=lambda case: case.is_sound):
        if names not in case.name or case.name in table or case.kind in _UNDEFINED_KINDS:
            continue
        start = time.process_time()
        verdicts = measure_case(case, case.images)
        table[case.name] = "".join("1" if robust else "0" for robust in verdicts)
        _write_table(file, table)
        seconds = time.process_time() - start
        print(f"{case.name}: {sum(verdicts)} of {len(verdicts)} robust, {seconds:.0f} s", flush=True)


def _read_table(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {row["case"]: row["robust"] for row in csv.DictReader(lines)}


def _write_table(file: Path, table: dict[str, str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["case", "robust"])
        writer.writerows(sorted(table.items()))


if __name__ == "__main__":
    typer.run(main)
