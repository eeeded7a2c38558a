"""The bridge in the guide to JAX models gives the scores and gradients of the same network in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doc_blocks import DOCS, read_blocks

pytestmark = pytest.mark.extra


def test_the_bridge_of_the_guide_has_torchs_scores_and_gradients():
    pytest.importorskip("jax", reason="needs jax, as the page says")
    page = DOCS / "how-to" / "test-keras-and-jax-models.md"
    names: dict = {"__name__": "jaxnet"}
    exec(next(block.code for block in read_blocks(page) if block.file == "jaxnet.py"), names)
    draw = np.random.default_rng(0)
    weights = {"first": draw.normal(size=(48, 16)), "last": draw.normal(size=(16, 5))}
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    first, last = (torch.from_numpy(weights[name]) for name in ("first", "last"))
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = (images.flatten(1) @ first).relu() @ last
    found = names["JaxNetwork"](weights)(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    for column in range(5):
        slopes = [
            torch.autograd.grad(each[:, column].sum(), images, retain_graph=True)[0]
            for each in (found, expected)
        ]
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-4)
