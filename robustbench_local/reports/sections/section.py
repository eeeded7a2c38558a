"""The interface of a report section: its content, and its form in each file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from robustbench_local.reports.analysis.evaluated_model import EvaluatedModel
from robustbench_local.reports.analysis.evidence import Evidence
from robustbench_local.store import RunStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Content = TypeVar("Content")
JsonDict = dict[str, Any]


class Section(ABC, Generic[Content]):
    """A section of the report. Each subclass has its own module, with its template beside it.

    A report calls ``build_content`` once and renders every form from its result. A section leaves out the
    forms that it does not have: it does not define their method, or its template is empty. Slow computations
    belong in a function of ``analysis/`` that runs once for each evidence (``compute_once``).
    """

    anchor: ClassVar[str]
    """Id of the section's heading on the page; no two sections have the same."""
    title: ClassVar[str] = ""
    """Heading on the page."""
    link_text: ClassVar[str] = ""
    """Name of the section in the navigation at the head of the page."""
    template: ClassVar[str] = ""
    """Name of the page's template, which sees the section as ``section`` and its content as ``content``;
    empty: the page has no such section."""
    explanation: ClassVar[str] = ""
    """How to read the section, in sentences; the template and ``to_markdown`` place it."""
    is_folded: ClassVar[bool] = False
    """Whether the page shows its heading alone until a reader opens it: what a first reader does not need."""
    has_photographs: ClassVar[bool] = False
    """Whether its figures are photographs; they come after the drawings."""
    has_marked_names: ClassVar[bool] = False
    """Whether the names of models in its figures bear the mark of numbers that are not trustworthy."""

    @abstractmethod
    def build_content(self, evidence: Evidence, store: RunStore) -> Content:
        """Build the content; the open store provides what the evidence does not hold, such as images."""

    def is_shown(self, content: Content) -> bool:
        """Return whether the content has anything to show."""
        return bool(content)

    def to_markdown(self, content: Content, evidence: Evidence) -> Iterable[str]:
        """Render the lines of report.md, heading included; names from outside are escaped."""
        return ()

    def to_json(self, evidence: Evidence) -> JsonDict:
        """Encode the entries of results.json from the evidence alone, whether or not the section is shown."""
        return {}

    def draw_figures(
        self, content: Content, names: Mapping[EvaluatedModel, str]
    ) -> Iterator[tuple[str, Figure]]:
        """Draw the figures, with their file names; ``names`` are the drawable names of the models."""
        return iter(())

    def read_template(self) -> str:
        """Read the text of the page's template."""
        package = type(self).__module__.rpartition(".")[0]
        return resources.files(package).joinpath(self.template).read_text(encoding="utf-8")


class ShownSection(NamedTuple):
    """A section with its content."""

    section: Section[Any]
    content: Any
