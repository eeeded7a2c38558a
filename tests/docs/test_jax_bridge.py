"""The bridge in the guide to JAX models gives the scores and gradients of the same network in torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import DOCS, read_blocks

pytestmark = pytest.mark.extra


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax, as the page says")
def test_the_bridge_of_the_guide_has_torchs_scores_and_gradients(tmp_path):
    page = DOCS / "how-to" / "test-keras-and-jax-models.md"
    code = next(block.code for block in read_blocks(page) if block.file == "jaxnet.py")
    (tmp_path / "jaxnet.py").write_text(code, encoding="utf-8")
    program = Path(__file__).with_name("jax_bridge_check.py")
    done = subprocess.run(
        [sys.executable, program, tmp_path / "jaxnet.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
