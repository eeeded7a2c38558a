"""The record of a first look at a model: its clean accuracy, and a better form of its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from robustbench_local.counted_nouns import format_count
from robustbench_local.statistics import Estimate, compute_clopper_pearson

PREPROCESSING_CHECK_KEY = "preprocessing_check"
"""Key of the record in a model's description."""
MAX_ADVICE_LENGTH = 300
"""Most characters of a remedy that is written out in a message."""


@dataclass(frozen=True, kw_only=True)
class BetterForm:
    """Another form of the images, or another order of the classes, with which a model is clearly better."""

    kind: Literal["images", "classes"]
    """What is in another form."""
    form: str
    """The other form, in words that follow "with"."""
    remedy: str
    """What to do: keys of the model's entry in a grid file, one a line, where that is possible."""
    is_yaml: bool
    """Whether ``remedy`` can be pasted into a grid file."""
    correct: int
    """Images that are classified correctly in this form."""
    correct_before: int
    """The same images that are classified correctly as they are."""
    gains: int
    """Images that are classified correctly in this form only."""
    losses: int
    """Images that are classified correctly as they are only."""
    n: int
    """Images that both were asked about."""
    chance: float
    """Chance of so many gains if the form were no better, times the number of forms that were tried."""

    def format_advice(self) -> str:
        """Format what to do, as one line without a full stop; a long list is named, not written."""
        if self.is_yaml and len(self.remedy) > MAX_ADVICE_LENGTH:
            key = self.remedy.partition(":")[0]
            where = f"{PREPROCESSING_CHECK_KEY}.better.remedy of the model in results.json"
            return f"set {key} to the line in {where}"
        return f"set {' and '.join(self.remedy.splitlines())}" if self.is_yaml else self.remedy


@dataclass(frozen=True, kw_only=True)
class PreprocessingCheck:
    """What a few clean images said about a model before any attack."""

    correct: int = 0
    """Images that are classified correctly as they are."""
    n: int = 0
    """Images that were asked about as they are; 0: the model was not asked."""
    forms: int = 0
    """Other forms that were tried."""
    passes: int = 0
    """Forward passes of the whole check."""
    unchecked: str = ""
    """Why other forms were not tried, or not all; empty if they were, or if none could be clearly better."""
    better: BetterForm | None = None
    """The form that suits the model better; None if there is none."""

    @property
    def accuracy(self) -> Estimate:
        """Clean accuracy with its exact 95% interval."""
        return compute_clopper_pearson(self.correct, self.n)

    def format_warning(self, model: str) -> str | None:
        """Format the finding about a model as one line; None without one.

        Args:
            model: Name of the model.
        """
        if self.better is None:
            return None
        better = self.better
        images = format_count(better.n, "image")
        verb = "is" if better.correct == 1 else "are"
        what = "preprocessing" if better.kind == "images" else "order of the classes"
        return (
            f"the {what} of {model} looks wrong: {better.correct_before} of {images} correct"
            f"; with {better.form} {better.correct} of {better.n} {verb}: {better.format_advice()}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values, with the accuracy and its interval."""
        return {**asdict(self), "accuracy": self.accuracy.to_json("the model was not asked")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the record of `to_json`."""
        better = values["better"]
        known = {key: value for key, value in values.items() if key not in {"accuracy", "better"}}
        return cls(**known, better=None if better is None else BetterForm(**better))
