"""What the attacks' tests share: a trained network, and the peers where they are installed."""

from __future__ import annotations

import warnings
from types import ModuleType

import pytest
from attack_samples import Sample, train_sample


@pytest.fixture(scope="session")
def small() -> Sample:
    """96 images that a small trained network reads correctly."""
    return train_sample()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "torchattacks" in getattr(item, "fixturenames", ()):
            item.add_marker("extra")


@pytest.fixture(scope="session")
def torchattacks() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchattacks", reason="needs the extra .[torchattacks]")


@pytest.fixture(scope="session")
def foolbox() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("foolbox", reason="needs foolbox, a test dependency")
