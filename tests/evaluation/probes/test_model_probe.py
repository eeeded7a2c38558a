"""A probe in a child process asks for a few images, however many there are."""

from __future__ import annotations

from robustbench_local.evaluation.isolation.isolated_call import ProcessEndedError
from robustbench_local.evaluation.probes import model_probe
from robustbench_local.evaluation.probes.model_probe import ModelProbeResult, probe_in_child
from robustbench_local.models.http_model import MAX_IDENTITY_IMAGES

SOUND = ModelProbeResult(
    notes=(),
    smallest_batch=1,
    consistency=model_probe._UNKNOWN_CONSISTENCY,
    has_masked_borders=False,
    first_labels="",
)


def test_no_question_selects_more_images_than_a_probe_looks_at(monkeypatch):
    monkeypatch.setattr(model_probe, "call_isolated", lambda question, **_: question())
    counts, images = [], range(50_000)

    def probe(rows, *, should_compare, should_use_gradients):
        counts.append(len(images[rows]))
        if len(counts) < 3:
            raise ProcessEndedError("the process ended")
        return SOUND

    result = probe_in_child(len(images), probe, timeout=None, name="model")
    assert counts == [MAX_IDENTITY_IMAGES, MAX_IDENTITY_IMAGES, 1]
    assert not result.is_complete
    assert "a single image" in result.notes[0]
