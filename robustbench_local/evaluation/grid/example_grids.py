"""The example grids that ship with the package, as text: listing or copying one needs no schema."""

from __future__ import annotations

from importlib import resources

from robustbench_local.errors import ConfigError, did_you_mean


def list_examples() -> list[str]:
    """Return the names of the example grids that ship with the package."""
    folder = resources.files("robustbench_local") / "examples"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def read_example(name: str) -> str:
    """Return the text of an example grid.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in list_examples():
        raise ConfigError(f"there is no example grid {name!r}", remedy=did_you_mean(name, list_examples()))
    return (resources.files("robustbench_local") / "examples" / f"{name}.yaml").read_text(encoding="utf-8")
