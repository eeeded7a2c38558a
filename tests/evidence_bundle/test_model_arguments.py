"""What names a model for ``rbl verify``, and what a bundle may say about it."""

from __future__ import annotations

import pytest

from robustbench_local.cli.verify_command import _split_entry
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evidence_bundle.model_readings import ModelSource, _build_entry


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("zoo:signs-plain", (None, "zoo:signs-plain")),
        ("plain=zoo:signs-plain", ("plain", "zoo:signs-plain")),
        (
            "p + fast-at[epochs=2,batch_size=4]=checkpoint:w=1",
            ("p + fast-at[epochs=2,batch_size=4]", "checkpoint:w=1"),
        ),
        ("https://host/model?key=1", (None, "https://host/model?key=1")),
        ("a[b=c", (None, "a[b=c")),
    ],
)
def test_a_name_ends_at_the_first_sign_outside_its_settings(entry, expected):
    assert _split_entry(entry, "--model") == expected


def test_a_name_without_a_source_is_refused():
    with pytest.raises(ConfigError, match="names no source"):
        _split_entry("plain=", "--model")


def test_a_bundle_cannot_say_which_pickle_is_to_be_trusted():
    grid = Grid.model_validate(
        {
            "data": {"source": "signs"},
            "models": [{"id": "m", "source": "checkpoint:a.pt", "trust_pickle": f"sha256:{'0' * 64}"}],
            "attacks": ["fgsm-linf-8"],
        }
    )
    entry = _build_entry(grid, ModelSource(name="m", source="checkpoint:b.pt", weights=None))
    assert (entry.source, entry.trust_pickle) == ("checkpoint:b.pt", None)
