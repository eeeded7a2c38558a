"""The steps of an adapted attack, as values that are stored with the cell, and the stages they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Self

from robustbench_local.attacks.adaptive.gradient_views import build_view
from robustbench_local.attacks.adaptive.ray_search import RaySearch
from robustbench_local.attacks.adaptive.view_spec import ViewSpec
from robustbench_local.attacks.apgd.search_by_norm import build_apgd_search
from robustbench_local.attacks.black_box.boundary import Boundary
from robustbench_local.attacks.black_box.hopskipjump import HopSkipJump
from robustbench_local.attacks.core.objective import LossName
from robustbench_local.attacks.core.search import Search
from robustbench_local.attacks.ensembles.ensemble import Stage
from robustbench_local.attacks.minimum_norm.fab import FABSearch
from robustbench_local.attacks.square.square import SquareSearch
from robustbench_local.threats.threat_model import ThreatModel

NEIGHBORHOOD_SHARE = 0.5
"""Size of a neighborhood, as a share of the radius of the ball."""
SearchName = Literal["apgd", "fab", "square", "rays", "hopskipjump", "boundary"]


_KINDS_OF_OTHER_PASSES = frozenset({"bpda", "smooth", "part", "undefended", "wide"})
"""Views whose gradients come from another pass than the answers."""
_LABEL_ATTACKS: Mapping[str, type[HopSkipJump] | type[Boundary] | type[RaySearch]] = {
    "rays": RaySearch,
    "hopskipjump": HopSkipJump,
    "boundary": Boundary,
}


@dataclass(frozen=True, kw_only=True)
class AttackStep:
    """One step of an adapted attack."""

    label: str
    """Name in records and reports."""
    search: SearchName
    """The search."""
    steps: int
    """Its steps for each path; the queries of a search with labels alone."""
    loss: LossName = "ce"
    """Loss of APGD."""
    restarts: int = 1
    """Paths per image."""
    first_restart: int = 0
    """Index of the first path; later ones draw other random numbers."""
    targets: int = 0
    """Maximum target classes per image; 0: no target classes."""
    view: ViewSpec | None = None
    """How gradients are obtained; None: the model's own."""
    draws: int = 1
    """Passes averaged per evaluation, for a model whose answers vary by chance."""

    def build_stage(self, threat: ThreatModel) -> Stage:
        """Return the stage of the ensemble; neighborhoods are as large as the threat model's ball."""
        view = None if self.view is None else _fit_neighborhood(self.view, threat)
        return Stage(
            name=self.label,
            build_search=None if self.search in _LABEL_ATTACKS else self._build_search,
            attack=_LABEL_ATTACKS[self.search](queries=self.steps) if self.search in _LABEL_ATTACKS else None,
            restarts=self.restarts,
            first_restart=self.first_restart,
            targets=self.targets,
            uses_gradients=self.search in {"apgd", "fab"},
            # the search averages over draws, of answers and gradients alike
            build_classifier=None if view is None else partial(build_view, spec=replace(view, draws=1)),
            draws=self.draws,
            forward_factor=2 if view is not None and view.kind in _KINDS_OF_OTHER_PASSES else 1,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the step as JSON values, with the label of its view."""
        return {**asdict(replace(self, view=None)), "view": None if self.view is None else self.view.label}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], views: Sequence[ViewSpec]) -> Self:
        """Return the step of `to_json`, with its view among those that the findings call for."""
        by_label = {view.label: view for view in views}
        return cls(**{**values, "view": None if values["view"] is None else by_label[values["view"]]})

    def _build_search(self, threat: ThreatModel) -> Search[Any]:
        builders: Mapping[SearchName, Callable[[], Search[Any]]] = {
            "apgd": lambda: build_apgd_search(
                threat=threat, steps=self.steps, loss=self.loss, name=self.label
            ),
            "fab": lambda: FABSearch(threat=threat, steps=self.steps, name=self.label),
            "square": lambda: SquareSearch(
                threat=threat, steps=self.steps, use_lookahead=True, name=self.label
            ),
        }
        return builders[self.search]()


def _fit_neighborhood(view: ViewSpec, threat: ThreatModel) -> ViewSpec:
    if view.kind != "neighborhood":
        return view
    return replace(view, radius=NEIGHBORHOOD_SHARE * threat.eps, norm=threat.norm)
