"""What a node has, asked by a function that travels by value, because the node may have another package.

It imports nothing at the top but Python's own modules.
"""

from __future__ import annotations

from typing import Any


def probe_node(modules: tuple[str, ...]) -> dict[str, Any]:
    """Describe the Python, torch and this package of a node.

    Args:
        modules: Arguments of the digest of the package's code: roots of what has to be the same.

    Returns:
        ``python``, ``torch``, ``package``, ``code``; empty where there is none. ``problem``: why the package
        cannot be used there.
    """
    import platform  # noqa: PLC0415 - the function travels without its module
    from importlib import metadata  # noqa: PLC0415

    found: dict[str, Any] = {"python": platform.python_version(), "problem": ""}
    for key, name in (("package", "robustbench-local"), ("torch", "torch")):
        try:
            found[key] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[key] = ""
    try:
        from robustbench_local.classifier.package_code import digest_code  # noqa: PLC0415

        found["code"] = digest_code(modules)[:12]
    except Exception as error:  # noqa: BLE001 - whatever it is, the node cannot take work
        found["code"] = ""
        found["problem"] = f"robustbench_local cannot be used: {type(error).__name__}: {error}"[:200]
    return found
