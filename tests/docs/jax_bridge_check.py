"""Compare the bridge to JAX in the guide with torch; a process of its own, since JAX is not to be forked."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch


def check_bridge(code: str) -> None:
    """Check scores and gradients of the network that the code of the page defines."""
    names: dict = {"__name__": "jaxnet"}
    exec(code, names)
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


if __name__ == "__main__":
    check_bridge(Path(sys.argv[1]).read_text(encoding="utf-8"))
