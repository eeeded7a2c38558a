"""The page on the Python interface, which Sphinx's autodoc fills in."""

from __future__ import annotations

import inspect

import robustbench_local as rbl

_HEAD = """# Python

Everything here is reached as `rbl.NAME` after `import robustbench_local as rbl`.

"""
_EXTENSION_HEAD = """## For attacks, defenses and certificates of your own

These base classes define what such code provides; see [how to add an attack](../how-to/add-an-attack.md).

"""
EXTENSION_POINTS = {
    "Attack": "robustbench_local.attacks.base",
    "FixedWrapper": "robustbench_local.defenses.wrappers.base",
    "RandomWrapper": "robustbench_local.defenses.wrappers.base",
    "Certificate": "robustbench_local.certification.base",
}
"""Base classes that outside code derives from, by the module that has them."""


def write_python_page() -> str:
    """The whole page."""
    public = [name for name in rbl.__all__ if name != "__version__"]
    names = sorted(public, key=lambda name: (inspect.isclass(getattr(rbl, name)), name.lower()))
    sections = [_render_object(name, "robustbench_local") for name in names]
    extensions = [_render_object(name, module) for name, module in EXTENSION_POINTS.items()]
    return _HEAD + "\n".join(sections) + _EXTENSION_HEAD + "\n".join(extensions)


def _render_object(name: str, module: str) -> str:
    found = getattr(__import__(module, fromlist=[name]), name)
    if inspect.isclass(found):
        directive = f".. autoclass:: {module}.{name}\n   :members:"
    else:
        directive = f".. autofunction:: {module}.{name}"
    return f"```{{eval-rst}}\n{directive}\n```\n"
