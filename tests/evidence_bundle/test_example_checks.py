"""The limits of what counts as the same norm of a change."""

from __future__ import annotations

import pytest

from robustbench_local.evidence_bundle.example_checks import is_same_norm


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("stated", "step"), [(2.0, 2e-6), (0.0, 1e-6)])
def test_a_norm_is_the_stated_one_but_for_rounding(stated, step, sign):
    assert is_same_norm(stated + sign * 0.97 * step, stated)
    assert not is_same_norm(stated + sign * 1.03 * step, stated)
