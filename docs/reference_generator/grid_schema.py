"""The page on the grid file, from the pydantic models that read it."""

from __future__ import annotations

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from reference_generator.docstrings import read_field_docs, read_summary, to_markdown
from reference_generator.tables import render_code, render_table
from reference_generator.types import describe_field, list_models, name_model
from robustbench_local.evaluation.grid.schema import Grid

_HEAD = """# Grid file

A grid file is YAML. Unknown keys are errors, with the nearest key that exists. `rbl init` writes a commented
file to start from. Radii and limits may be fractions, such as `"8/255"`. Relative paths start from the folder
of the grid file.

"""


def write_grid_page() -> str:
    """The whole page: one table for each mapping in the file."""
    sections = [render_model(model) for model in find_models()]
    return _HEAD + "\n".join(sections)


def find_models(root: type[BaseModel] = Grid) -> list[type[BaseModel]]:
    """The model of a whole file and all models inside it, each once, outermost first."""
    found: list[type[BaseModel]] = [root]
    for model in found:
        for field in model.model_fields.values():
            found.extend(inner for inner in list_models(field.annotation) if inner not in found)
    return found


def render_model(model: type[BaseModel]) -> str:
    """A section with a table of the keys of one mapping."""
    docs = read_field_docs(model)
    rows = [
        (render_code(field.alias or name), describe_field(field), _describe_default(field), docs[name])
        for name, field in model.model_fields.items()
    ]
    table = render_table(("key", "type", "default", "meaning"), rows)
    return f"## {name_model(model)}\n\n{to_markdown(read_summary(model))}\n\n{table}"


def _describe_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "none" if not field.get_default(call_default_factory=True) else "`[none]`"
    if field.default is None:
        return ""
    return render_code(str(field.default).lower() if isinstance(field.default, bool) else field.default)
