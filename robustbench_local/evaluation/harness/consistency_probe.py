"""Whether a model answers an image by the image alone: not by its company, nor by what it was asked before.

A number of a model that does is a number of one batch size, one order and one history. So a handful of images
is asked about before any attack: alone, in other company, again after many similar ones, after gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.foreign_errors import out_of_memory
from robustbench_local.classifier.fresh_copy import is_own_adapter
from robustbench_local.classifier.hidden_state import RANDOM, describe_state, find_places
from robustbench_local.classifier.state_guard import RandomStates, seed_everything
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.classifier.wrapper import innermost
from robustbench_local.errors import ModelError, UnreachableError
from robustbench_local.evaluation.harness.file_watch import watch_files

Kind = Literal["consistent", "company", "memory"]

SAME_SHAPE_TOLERANCE = 1e-4
"""Share of the logits' range by which answers may differ between batches of one size, the image at the same
place in both: kernels do the same there whatever the other images are. As much as makes a verdict fragile."""
ROUNDING_FACTOR = 10.0
"""Batches of other sizes may differ by so many times what a change of 1e-6 in every pixel makes of the
answers: sums are taken in another order, and a network of low precision rounds each otherwise."""
MOST_ROUNDING = 0.1
"""The largest share of the logits' range that is ever taken for rounding."""
QUANTIZED_TOLERANCE = 8 / 256
"""Share for networks with quantized layers: their arithmetic has 256 levels, which some of them lay over the
whole batch."""
SERVICE_TOLERANCE = 1e-2
"""The same for what is no module: nobody knows its arithmetic, and it may round what it sends."""
SIMILAR_BATCHES, SIMILAR_SIZE = 4, 8
"""Batches of images similar to one that are asked about, and images in each."""
SIMILAR_DISTANCE = 8 / 255
"""How far a similar image is from the image, in every pixel."""
TWIN_SHARE = 0.04
"""Share of an image's values in which its twin differs: few, so that who remembers rounded images confuses
the two."""
MANY_CALLS = 128
"""Calls, of one image each, that a model gets that keeps state without a change in its answers so far."""
COMPANY_SIZE = 17
"""The batch in which an image is asked about in much company: no multiple of what kernels are made for."""
_SEED = 20_240_229
_FILE = "file "


@dataclass(frozen=True, kw_only=True)
class ConsistencyProbe:
    """What the questions revealed; it can be taken to another process."""

    kind: Kind
    """``"company"``: answers depend on the other images of a batch, on its size or on the place in it.
    ``"memory"``: they depend on what was asked before."""
    cause: str = ""
    """Why it is not consistent, in one line with the figure; empty if it is."""
    difference: float = 0.0
    """Largest difference between two answers that should be the same."""
    spread: float = 0.0
    """The logits' range that it is to be compared with."""
    notes: tuple[str, ...] = ()
    """What a reader of the results has to know although it refuses nothing."""
    keeps_state: bool = False
    """Whether something of the model changes from call to call, its answers aside."""
    varies: bool = False
    """Whether the same image gets another answer each time, by random numbers that no global seed repeats."""
    draws: bool = False
    """Whether it draws random numbers, by whatever generator."""
    tolerance: float = SAME_SHAPE_TOLERANCE
    """Share of the logits' range by which its answers differ by rounding."""
    rows: int = 0
    """Images that it was asked about, repetitions included."""

    @property
    def consistent(self) -> bool:
        """Whether an image's answer is its own."""
        return self.kind == "consistent"


def probe_consistency(classifier: Classifier, images: Tensor, *, backward: bool = True) -> ConsistencyProbe:
    """Ask a model about a few images in several ways and compare the answers.

    A module is asked about some sixty images, and left as if it had not been: copies of it are asked, where
    it can be copied. What is no module may be somebody's service, and is asked about six. The global random
    states are the same before each call, so that a model that draws from them is compared with itself.

    Args:
        classifier: The classifier, a defended one as a whole.
        images: (N, C, H, W) in [0, 1], N at least 1, of the data that it will be evaluated on.
        backward: Whether it may be asked for gradients, which are more than black boxes need.

    Returns:
        What was found; the first inconsistency ends the questions.

    Raises:
        ModelError: If the model cannot answer about any of the first images.
    """
    alone = [images[row : row + 1] for row in range(min(3, len(images)))]
    try:
        return _probe(classifier, images, backward)
    except UnreachableError:
        raise
    except ModelError as failure:
        # an image that it cannot bear costs that image at work: the others are made from one that it can
        for image in alone:
            with suppress(ModelError):
                return _probe(classifier, image, backward)
        raise failure  # noqa: TRY201  the first one, not that of the last image


def _probe(classifier: Classifier, images: Tensor, backward: bool) -> ConsistencyProbe:
    with classifier.attacked():
        probe = _Probe(classifier, _distinct(images).to(classifier.device), backward)
        try:
            if classifier.module is None:
                probe.question_briefly()
            else:
                probe.question()
        except _InconsistentError as found:
            return found.probe
        except Exception as failure:
            if not out_of_memory(failure):
                raise
            probe.notes.append(
                f"memory ran out when it was asked about {COMPANY_SIZE} images at once: whether its answers "
                "depend on the other images of a batch is not known"
            )
        return probe.summary("consistent")


class _InconsistentError(Exception):
    """Ends the questions."""

    def __init__(self, probe: ConsistencyProbe) -> None:
        super().__init__(probe.cause)
        self.probe = probe


@dataclass
class _Probe:
    """The questions to one classifier."""

    classifier: Classifier
    images: Tensor
    """(8, C, H, W), all different."""
    backward: bool = True
    """Whether it may be asked for gradients."""
    rows: int = 0
    notes: list[str] = field(default_factory=list)
    draws: bool = False
    """Whether the forward draws from a global random state."""
    varies: bool = False
    """Whether answers differ for a reason that no seed takes away."""
    own_generator: bool = False
    """Whether it draws from a generator that is part of it."""
    keeps_state: bool = False
    _rounding: float = SAME_SHAPE_TOLERANCE

    def question(self) -> None:
        """All questions to a module."""
        generator = torch.Generator().manual_seed(_SEED)
        first = self.images[:1]
        similar = [_similar(first, generator) for _ in range(SIMILAR_BATCHES * SIMILAR_SIZE)]
        pair = torch.cat([first, _similar(first, generator, share=TWIN_SHARE)])
        alone = self._ask_alone(pair)
        if not self.varies:
            self._compare_company(pair, alone)
        if not self.varies and not self.own_generator:
            self._compare_history(pair, alone, torch.cat(similar))

    def question_briefly(self) -> None:
        """Few questions, for each may cost somebody something: alone, again, and in company."""
        first, again = self.images[:1], torch.zeros(0)
        before = self._ask(self.classifier, first)

        def ask_again() -> None:
            nonlocal again
            again = self._ask(self.classifier, first)

        changed = self._changes(self.classifier, ask_again)
        if changed:
            self.notes.append(f"keeps state between calls ({_listed(changed)} changed)")
        if self._differ(before, again, SERVICE_TOLERANCE):
            self._note_variation(before, again)
            return
        among = self._ask(self.classifier, torch.cat([self.images[1:3], first, self.images[3:4]]))[2:3]
        self._refuse_company(before, among, SERVICE_TOLERANCE, "its place and the other images of the batch")

    def _ask_alone(self, pair: Tensor) -> Tensor:
        """Answers to two images alone, each of a copy that was asked nothing else before; the first twice."""
        with self._fresh() as model:
            answers = [self._ask(model, pair[:1])]
            changed = self._changes(model, lambda: answers.append(self._ask(model, pair[:1])))
        first, again = answers
        generators = sorted(path for path, text in changed.items() if text.startswith(RANDOM))
        if generators:
            self.draws = self.own_generator = True
            self.notes.append(
                f"draws random numbers from a generator of its own ({_listed(generators)}): its predictions "
                "change from call to call"
            )
        elif self._differ(first, again, self._tolerance):
            self._explain_change(pair[:1], first, again, changed)
        with self._fresh() as model:
            return torch.cat([first, self._ask(model, pair[1:])])

    def _explain_change(self, image: Tensor, first: Tensor, again: Tensor, changed: Collection[str]) -> None:
        """Why an image that is asked about twice gets two answers: copies tell chance from memory."""
        with self._fresh() as model:
            other = self._ask(model, image)
        weights = {name for name, _ in model.module.named_parameters()} if model.module else set()
        if weights.isdisjoint(changed) and self._differ(first, other, self._tolerance):
            self._note_variation(first, other)
        else:
            self._refuse_memory(first, again, "when it is asked again", changed)

    def _compare_company(self, pair: Tensor, alone: Tensor) -> None:
        """The same images with others beside them, at other places and in batches of other sizes."""
        first, neighbours = pair[:1], self.images[1:3]
        beside = []
        for neighbour in torch.split(neighbours, 1):
            with self._fresh() as model:
                beside.append(self._ask(model, torch.cat([first, neighbour])))
        self._refuse_company(beside[0][:1], beside[1][:1], self._tolerance, "the other images of the batch")
        if self.draws:  # a batch of another size or order draws other numbers for an image
            return
        copies = neighbours[:1].expand(COMPANY_SIZE - len(self.images) - 1, *first.shape[1:])
        with self._fresh() as model:
            many = self._ask(model, torch.cat([copies, self.images[1:], pair.flip(0)]))
        same = torch.cat([alone, beside[0][1:], beside[0][1:], beside[1][1:]])
        seen = many[[-1, -2, 0, len(copies), len(copies) + 1]]
        self._rounding = self._size_tolerance(beside[0])
        what = "the size of the batch, the place in it or the other images"
        self._refuse_company(same, seen, self._rounding, what)

    def _compare_history(self, pair: Tensor, alone: Tensor, similar: Tensor) -> None:
        """The same images again, after many similar ones and after a backward pass."""
        warm_up, *batches = torch.split(similar, SIMILAR_SIZE)
        with self._fresh() as model:
            self._ask(model, warm_up)  # what is kept for each size of a batch is kept from now on
            self._ask_one_by_one(model, pair)
            seen = alone

            def ask_again() -> None:
                nonlocal seen
                for batch in batches:
                    self._ask(model, batch)
                seen = self._ask_one_by_one(model, pair)

            # the same question came last before: what only holds the last answer is as it was
            changed = self._changes(model, ask_again)
            self._refuse_memory(alone, seen, f"after {len(similar)} similar ones", changed)
            if self._backward(model, self.images[:2]):
                again = self._ask(model, pair[:1])
                self._refuse_memory(alone[:1], again, "after a backward pass", changed)
        if changed:
            self._question_state(changed, pair, alone, similar)

    def _question_state(self, changed: Collection[str], pair: Tensor, alone: Tensor, similar: Tensor) -> None:
        """Many more calls to a model in which something grows; if nothing comes of it, a note."""
        with self._fresh() as model:
            for call in range(MANY_CALLS):
                self._ask(model, similar[call % len(similar)][None])
            seen = self._ask_one_by_one(model, pair)
            self._refuse_memory(alone, seen, f"after {MANY_CALLS} calls", changed)
            uncopied = (
                changed if model is self.classifier else innermost(self.classifier).uncopied & set(changed)
            )
            if uncopied:
                cause = f"keeps state between calls ({_listed(uncopied)} changed) that cannot be copied"
                raise _InconsistentError(self.summary("memory", cause))
        files = [path for path in changed if path.startswith(_FILE)]
        if files:
            self.notes.append(
                f"writes to {_listed(files)} in its forward: that made no difference to its answers in "
                f"{MANY_CALLS} calls, and no copy of it forgets what is there"
            )
        if kept := set(changed) - set(files):
            self.keeps_state = True
            self.notes.append(
                f"keeps state between calls ({_listed(kept)} changed): a copy that remembers nothing answers "
                "each call"
            )

    @contextmanager
    def _fresh(self) -> Iterator[Classifier]:
        """A copy that was asked nothing, of which a look is one draw."""
        with self.classifier.fresh() as model:
            if not isinstance(model, RandomizedClassifier):
                yield model
                return
            before, model.draws = model.draws, 1
            try:
                yield model
            finally:
                model.draws = before

    def _ask(self, model: Classifier, images: Tensor) -> Tensor:
        """Answers, (N, K) double on the CPU, with the same global random states before each call."""
        seed_everything(_SEED)
        before = RandomStates.current()
        self.rows += len(images)
        with torch.no_grad():
            answers = model(images).double().cpu()
        self.draws = self.draws or not before.same(RandomStates.current())
        return answers

    def _backward(self, model: Classifier, images: Tensor) -> bool:
        """A forward and a backward pass; whether there is one."""
        if model.access != "gradients" or not self.backward:
            return False
        self.rows += len(images)
        try:
            model.gradient(images, lambda logits: logits.logsumexp(dim=1))
        except (ModelError, RuntimeError) as error:
            if out_of_memory(error) or isinstance(error, UnreachableError):
                raise
            return False  # what is wrong with its gradients is not asked here
        return True

    def _changes(self, model: Classifier, act: Callable[[], object]) -> dict[str, str]:
        """What of the model is not as before once something is done: digests afterwards, by path."""
        if is_own_adapter(model.model):
            act()
            return {}
        places = find_places(model.model)
        before = describe_state(model.model, places)
        with watch_files() as files:
            act()
        after = describe_state(model.model, places)
        changed = {path: text for path, text in after.items() if before.get(path) != text}
        return changed | {f"{_FILE}{Path(file).name}": "" for file in files}

    @property
    def _tolerance(self) -> float:
        """For batches of one size, the image at the same place."""
        return max(SAME_SHAPE_TOLERANCE, QUANTIZED_TOLERANCE if self._quantized else 0.0)

    @property
    def _quantized(self) -> bool:
        module = self.classifier.module
        places = (type(part).__module__ for part in (module.modules() if module is not None else ()))
        return any(place.startswith("torch.") and "quantized" in place for place in places)

    def _size_tolerance(self, answers: Tensor) -> float:
        """For batches of other sizes and places: what the model's own rounding makes of its answers.

        Args:
            answers: What it answered to the first two images together.
        """
        with self._fresh() as model:
            moved = self._ask(model, self.images[:2].add(1e-6).clamp(0, 1))
        rounding = _difference(moved, answers) / _spread(answers)
        return max(self._tolerance, min(ROUNDING_FACTOR * rounding, MOST_ROUNDING))

    def _ask_one_by_one(self, model: Classifier, pair: Tensor) -> Tensor:
        return torch.cat([self._ask(model, image) for image in torch.split(pair, 1)])

    def _differ(self, one: Tensor, other: Tensor, tolerance: float) -> bool:
        return _difference(one, other) > tolerance * _spread(torch.cat([one, other]))

    def _refuse_company(self, one: Tensor, other: Tensor, tolerance: float, what: str) -> None:
        if self._differ(one, other, tolerance):
            why = "batch statistics (a mean over dimension 0, batch norm in training mode inside forward, "
            why = f"{why}attention over dimension 0)?"
            cause = f"answers depend on {what} ({self._figures(one, other)}): {why}"
            raise _InconsistentError(self.summary("company", cause, one, other))

    def _refuse_memory(self, one: Tensor, other: Tensor, when: str, changed: Collection[str]) -> None:
        if self._differ(one, other, self._tolerance):
            cause = f"remembers: the same image gets another answer {when} ({self._figures(one, other)})"
            if changed:
                cause = f"{cause}; {_listed(changed)} changed"
            raise _InconsistentError(self.summary("memory", cause, one, other))

    def _note_variation(self, one: Tensor, other: Tensor) -> None:
        self.varies = True
        self.notes.append(
            "answers differ from call to call by random numbers that no seed repeats "
            f"({self._figures(one, other)}): whether they depend on the other images of a batch is not known"
        )

    def _figures(self, one: Tensor, other: Tensor) -> str:
        if self.classifier.access == "labels":
            return "labels differ"
        spread = _spread(torch.cat([one, other]))
        return f"logits differ by {_difference(one, other):.2g} of a range of {spread:.2g}"

    def summary(
        self, kind: Kind, cause: str = "", one: Tensor | None = None, other: Tensor | None = None
    ) -> ConsistencyProbe:
        """What is known by now."""
        compared = one is not None and other is not None
        return ConsistencyProbe(
            kind=kind,
            cause=cause,
            difference=_difference(one, other) if compared else 0.0,  # type: ignore[arg-type]
            spread=_spread(torch.cat([one, other])) if compared else 0.0,  # type: ignore[list-item]
            notes=tuple(self.notes),
            keeps_state=self.keeps_state or kind == "memory",
            varies=self.varies or self.own_generator,
            draws=self.draws,
            tolerance=max(self._tolerance, self._rounding),
            rows=self.rows,
        )


def _distinct(images: Tensor, count: int = 8) -> Tensor:
    """So many images from all over the data, all different: mirrored and mixed ones where there are few."""
    chosen = images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]
    generator = torch.Generator().manual_seed(_SEED)
    noise = torch.rand(count, *images.shape[1:], generator=generator).to(images)
    filled = chosen[torch.arange(count) % len(chosen)].clone()
    made = torch.arange(count) >= len(chosen)
    for row in range(1, count):
        twin = (filled[row] == filled[:row]).flatten(1).all(dim=1).any()
        if made[row] or bool(twin):
            filled[row] = 0.5 * filled[row].flip(-1) + 0.5 * noise[row]
    return filled


def _similar(image: Tensor, generator: torch.Generator, share: float = 1.0) -> Tensor:
    """An image that is `SIMILAR_DISTANCE` away in a share of its values, eight at least."""
    moved = torch.rand(image.numel(), generator=generator).argsort() < max(8, share * image.numel())
    signs = torch.where(image > 0.5, -1.0, 1.0) * moved.view(image.shape).to(image)
    return image + SIMILAR_DISTANCE * signs * (
        1 - 0.1 * torch.rand(image.shape, generator=generator).to(image)
    )


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference between two answers; infinite where only one of them is finite."""
    finite = torch.isfinite(one), torch.isfinite(other)
    if not torch.equal(*finite):
        return float("inf")
    return float((one - other)[finite[0]].abs().max()) if bool(finite[0].any()) else 0.0


def _spread(answers: Tensor) -> float:
    """The largest range of an image's logits."""
    finite = torch.isfinite(answers)
    high = answers.masked_fill(~finite, -torch.inf).amax(dim=1)
    low = answers.masked_fill(~finite, torch.inf).amin(dim=1)
    largest = answers.masked_fill(~finite, 0.0).abs().max()
    # where all logits are as good as equal, what they are made of rounds by more than their range
    return max(float((high - low).max()), 1e-2 * float(largest), 1e-12)


def _listed(names: Collection[str], most: int = 2) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(sorted(names)[:most])}{more}"
