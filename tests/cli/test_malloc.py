"""The allocator's setting: told once, and never against the user's own."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from robustbench_local.cli.malloc import keep_freed_memory


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch):
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_users_own_setting_stands(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()


def test_elsewhere_than_on_linux_nothing_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_the_c_library_is_told_to_keep_what_passes_free(monkeypatch: pytest.MonkeyPatch):
    told: dict[int, int] = {}
    library = SimpleNamespace(mallopt=lambda key, value: told.setdefault(key, value) == value)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    assert keep_freed_memory()
    trim, mmap = told[-1], told[-3]
    activations = 128 * 64 * 32 * 32 * 4  # bytes of a layer: 64 channels at 32 px, 128 images
    assert mmap >= activations, "a layer's memory must come from the heap"
    assert trim > 10 * activations, "the heap must keep several layers"


def test_a_c_library_without_the_setting_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace())
    assert not keep_freed_memory()
