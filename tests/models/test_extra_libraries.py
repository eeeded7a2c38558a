"""A library of an extra that is missing, or that is there and broken, is one line with its reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from robustbench_local.errors import ConfigError
from robustbench_local.models.extra_libraries import import_extra


def test_an_installed_library_is_returned():
    assert import_extra("json.decoder", extra="hf").__name__ == "json.decoder"


@pytest.mark.parametrize("module", ["no_such_library", "no_such_library.part"])
def test_a_missing_one_names_its_extra(module: str):
    with pytest.raises(
        ConfigError, match=r"^no-such is not installed\. Run pip install '\.\[hf\]' in the clone"
    ):
        import_extra(module, extra="hf", distribution="no-such")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_part", "No module named 'no_such_part'"),
        ("raise ImportError('needs numpy 1')", "needs numpy 1"),
    ],
)
def test_a_broken_one_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
):
    (tmp_path / "broken_library.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        import_extra("broken_library", extra="hf")
    assert str(caught.value).startswith(f"broken_library is installed and cannot be imported: {reason}")
    assert "broken_library" not in sys.modules
