"""Which code decides verdicts is computed: what is imported on the way to one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_local.classifier.package_code import PACKAGE_FOLDER, digest_code, find_reached_modules
from robustbench_local.classifier.source_imports import iterate_imported_names
from robustbench_local.errors import InvariantError
from robustbench_local.evaluation.planning.environment import VERDICT_MODULES, compute_code_version

FILES = {
    "__init__.py": "from house import window\n",
    "root.py": "from house import middle\nimport house.room\n",
    "middle.py": "def later():\n    from house.leaf import (\n        a,  # one\n        b as c,\n    )\n",
    "leaf.py": "a = b = 1\n",
    "room/__init__.py": "TABLE = {'x': 'house.room.lazy:X'}\nfrom . import near\n",
    "room/lazy.py": "class X: ...\n",
    "room/near.py": "from ..outer import y\n",
    "outer.py": "y = 1\n",
    "window.py": "import house.cosmetics\n",
    "cosmetics.py": "",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "house"


def test_imports_are_followed_wherever_they_stand(house: Path) -> None:
    found = set(find_reached_modules(["house.root"], house))
    assert found == {"root.py", "middle.py", "leaf.py", "room/__init__.py", "room/near.py", "outer.py"}


def test_a_module_that_is_imported_from_now_on_decides_from_now_on(house: Path) -> None:
    before = set(find_reached_modules(["house.leaf"], house))
    assert before == {"leaf.py"}
    (house / "new.py").write_text("")
    assert set(find_reached_modules(["house.leaf"], house)) == before
    (house / "leaf.py").write_text("import house.new\n")
    assert set(find_reached_modules(["house.leaf"], house)) == {"leaf.py", "new.py"}


def test_a_folder_stands_for_all_that_lies_in_it(house: Path) -> None:
    assert "room/lazy.py" in find_reached_modules(["house.room"], house)
    with pytest.raises(InvariantError, match="no_such_room"):
        find_reached_modules(["house.no_such_room"], house)


def test_the_digest_follows_bytes_and_paths(house: Path, tmp_path: Path) -> None:
    before = digest_code(["house.leaf"], house)
    other = tmp_path / "copy" / "house"
    other.mkdir(parents=True)
    (other / "leaf.py").write_text("a = b = 2\n")
    assert digest_code(["house.leaf"], other) != before
    assert digest_code(["house.leaf"], house) == before


def test_what_decides_verdicts_is_all_there() -> None:
    found = find_reached_modules(VERDICT_MODULES)
    expected = {
        "statistics.py", "store/records.py", "models/networks/small_networks.py", "models/user_code.py",
        "threats/lp_ball.py", "attacks/pgd.py", "attacks/base.py", "certification/bound_propagation/crown.py",
        "classifier/classifier.py", "classifier/model_identity.py", "defenses/wrappers/jpeg.py",
        "evaluation/harness/verify.py", "evaluation/harness/attack_job.py", "data/subsample.py",
        "threats/corruptions/blur.py", "threats/warp.py", "threats/physical/camera.py",
    }  # fmt: skip
    assert expected <= found.keys()
    assert not any(path.startswith(("cli/", "reports/")) for path in found)
    assert compute_code_version().partition("+")[2] == digest_code(VERDICT_MODULES)[:12]


def _parsed(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".") if is_package else module.split(".")[:-1]
            base = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{name.name}" for name in node.names if name.name != "*")


@pytest.mark.slow
def test_the_search_of_the_text_finds_what_a_parse_finds() -> None:
    for path in PACKAGE_FOLDER.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(PACKAGE_FOLDER.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        )
        package = path.name == "__init__.py"
        missed = set(_parsed(ast.parse(text), module, is_package=package)) - set(
            iterate_imported_names(text, module, is_package=package)
        )
        assert not missed, path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a, b.c as d", {"a", "b", "b.c"}),
        ("  import a; x = 1", {"a"}),
        ("from a.b import c, d as e  # f", {"a", "a.b", "a.b.c", "a.b.d"}),
        ("from a import (\n  b,\n  c, # d\n)", {"a", "a.b", "a.c"}),
        ("from a import \\\n    b", {"a", "a.b"}),
        ("from . import x", {"pkg", "pkg.x"}),
        ("from ..up import x", {"up", "up.x"}),
        ("from .near import x", {"pkg", "pkg.near", "pkg.near.x"}),
        ("from a import *", {"a"}),
        ("if x: import a", set()),
    ],
)
def test_every_way_to_write_an_import(source: str, expected: set[str]) -> None:
    assert set(iterate_imported_names(source, "pkg.own")) == expected
