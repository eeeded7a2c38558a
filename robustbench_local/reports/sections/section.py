"""What a section of the report is: what it shows, and its form in each file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from robustbench_local.reports.analysis.evidence import EvaluatedModel, Evidence
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Content = TypeVar("Content")
JsonDict = dict[str, Any]


class Section(ABC, Generic[Content]):
    """One section: a subclass in a module of its own, with its template beside it.

    A report calls ``build_content`` once and renders every form from its result. A section leaves out the
    forms that it does not have: it does not define their method, or its template is empty. Slow computations
    belong in a function of ``analysis/`` that runs once for each evidence (``compute_once``).
    """

    anchor: ClassVar[str]
    """Id of the section's heading on the page; no two sections have the same."""
    title: ClassVar[str] = ""
    """Heading on the page."""
    link_text: ClassVar[str] = ""
    """What the list of sections at the head of the page calls it."""
    template: ClassVar[str] = ""
    """Name of the page's template, which sees the section as ``section`` and its content as ``content``;
    empty: the page has no such section."""
    explanation: ClassVar[str] = ""
    """How to read it, in sentences; the template and ``to_markdown`` say where."""
    has_photographs: ClassVar[bool] = False
    """Whether its figures are photographs; they come after the drawings."""

    @abstractmethod
    def build_content(self, evidence: Evidence, store: RunStore) -> Content:
        """What the section shows; the store is open for what the evidence does not hold, such as images."""

    def is_shown(self, content: Content) -> bool:
        """Whether there is anything to say."""
        return bool(content)

    def to_markdown(self, content: Content, evidence: Evidence) -> Iterable[str]:
        """Its lines of report.md, with its heading; names from outside are escaped."""
        return ()

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Its entries of results.json, shown or not; they are made from the evidence alone."""
        return {}

    def draw_figures(
        self, content: Content, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Its figures with the names of their files; ``names`` are the models' names that can be drawn."""
        return iter(())

    def read_template(self) -> str:
        """Text of the page's template."""
        package = type(self).__module__.rpartition(".")[0]
        return resources.files(package).joinpath(self.template).read_text(encoding="utf-8")


class ShownSection(NamedTuple):
    """A section with what it shows."""

    section: Section[Any]
    content: Any
