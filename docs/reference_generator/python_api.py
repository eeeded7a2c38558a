"""The page on the Python interface, which Sphinx's autodoc fills in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import robustbench_local as rbl

_HEAD = """# Python

Everything here is reached as `rbl.NAME` after `import robustbench_local as rbl`.

"""
_OWN_CODE = """These define what code of your own provides; see
[how to add an attack](../how-to/add-an-attack.md).

"""


def write_python_page() -> str:
    """The whole page: functions first, then classes by what they are for."""
    sections = [
        f"## {title}\n\n"
        + (_OWN_CODE if title == "Base classes" else "")
        + "\n".join(map(_render_object, names))
        for title, names in group_public_names().items()
    ]
    return _HEAD + "\n".join(sections)


def group_public_names() -> Mapping[str, list[str]]:
    """Every public name but the version, once, under the title of its section."""
    groups: dict[str, list[str]] = {
        title: []
        for title in ("Functions", "Models, data and results", "Attacks", "Certificates", "Base classes")
    }
    for name in rbl.__all__:
        if name != "__version__":
            groups[_find_group(getattr(rbl, name))].append(name)
    return groups


def _find_group(public: object) -> str:
    if not inspect.isclass(public):
        return "Functions"
    if inspect.isabstract(public):
        return "Base classes"
    if issubclass(public, rbl.Attack):
        return "Attacks"
    return "Certificates" if issubclass(public, rbl.Certificate) else "Models, data and results"


def _render_object(name: str) -> str:
    """An object's directive; attacks and certificates have the members of their base class."""
    public = getattr(rbl, name)
    kind = "autoclass" if inspect.isclass(public) else "autofunction"
    has_own_members = _find_group(public) in {"Models, data and results", "Base classes"}
    members = "\n   :members:" if has_own_members else ""
    return f"```{{eval-rst}}\n.. {kind}:: robustbench_local.{name}{members}\n```\n"
