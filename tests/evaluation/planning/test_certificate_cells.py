"""Certificates in a grid and by hand: recorded, resumed, skipped, refused, and kept out of worst cases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from scipy.stats import norm as normal

import robustbench_local as rbl
from robustbench_local.certification.base import Certificate, CertifiedBatch
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.errors import CardError, ConfigError, ThreatError
from robustbench_local.evaluation.execution.progress_listener import ProgressListener
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.certificate_job import CHUNK_PIXELS, CertificateJob
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.statistics import compute_lower_bounds
from robustbench_local.store.run_store import RunStore
from robustbench_local.threats.threat_model import ThreatModel

SMALL = {"sigma": 0.5, "n0": 10, "n": 60}
GRID = {
    "schema": 1,
    "name": "certificates",
    "data": {"source": "npz:digits.npz", "limit": 12, "choose": "first"},
    "models": [{"id": "first", "source": "checkpoint:first.safetensors", "architecture": "mnist_fast"}],
    "defenses": ["none", {"card": "smoothing-0.25", "sigma": 0.5, "votes": 9, "draws": 2}],
    "attacks": [
        {"card": "fgsm-l2-0.5", "eps": 0.4},
        {"card": "certify-smoothing-l2-0.25", "eps": 0.4, **SMALL},
        {"card": "certify-smoothing-sequential-l2-0.25", "eps": 0.4, **SMALL},
    ],
}


def outcomes(run: rbl.Run) -> dict[tuple[str, str], list]:
    with RunStore.open_readonly(run.directory) as store:
        return {(cell.defense, cell.attack): store.read_outcomes(cell.key) for cell in store.read_cells()}


@pytest.fixture(scope="module")
def run(_made, tmp_path_factory):
    """The grid, carried out once."""
    folder = tmp_path_factory.mktemp("certificates")
    model = {**GRID["models"][0], "source": f"checkpoint:{_made / 'first.safetensors'}"}
    data = {**GRID["data"], "source": f"npz:{_made / 'digits.npz'}"}
    return rbl.run_grid(
        {**GRID, "models": [model], "data": data}, out=folder / "run", options=rbl.Options(device="cpu")
    )


def test_cells_say_what_is_proven_about_what_and_how_surely(run):
    with RunStore.open_readonly(run.directory) as store:
        cells = {(cell.defense, cell.card): cell for cell in store.read_cells()}
    assert run.is_complete
    plain = cells["none", "certify-smoothing-l2-0.25"]
    assert (plain.measure, plain.concerns, plain.alpha) == ("certificate", "smoothed", 0.001)
    assert "majority vote under Gaussian noise of sigma 0.5" in plain.note
    assert plain.parameters["method"] == "smoothing"
    (smoothed,) = {defense for defense, _ in cells} - {"none"}
    assert smoothed.startswith("smoothing-0.25[")
    assert cells[smoothed, "certify-smoothing-l2-0.25"].concerns == "model"
    attack = cells["none", "fgsm-l2-0.5"]
    assert (attack.measure, attack.concerns, attack.alpha) == ("ball", "model", 0.0)


def test_outcomes_hold_the_proof_and_are_never_broken(run):
    found = outcomes(run)
    for (_, attack), rows in found.items():
        assert len(rows) == 12
        if attack.startswith("fgsm"):
            assert all((row.certified, row.radius, row.abstained) == (None, None, False) for row in rows)
            continue
        assert not any(row.broken for row in rows)
        for row in rows:
            assert row.certified == (row.clean_prediction == row.label and row.radius >= 0.4)
            assert row.abstained == (row.clean_prediction is None)
            assert row.radius == 0 or not row.abstained
            assert 10 < row.forward_passes <= 70
    graded = next(
        rows
        for (defense, name), rows in found.items()
        if defense == "none" and "sequential" not in name and "certify" in name
    )
    assert len({row.radius for row in graded}) > 2
    assert 0 < sum(row.certified for row in graded) < 12
    assert {row.forward_passes for row in graded} == {70}
    early = next(
        rows for (defense, name), rows in found.items() if defense == "none" and "sequential" in name
    )
    assert {row.radius for row in early} == {0.0, 0.4}
    assert min(row.forward_passes for row in early) < 70


def test_the_votes_are_the_same_whether_the_classifier_is_smoothed_already_or_not(run):
    found = outcomes(run)
    for name in {attack for _, attack in found if attack.startswith("certify")}:
        plain, smoothed = (rows for (_, attack), rows in found.items() if attack == name)
        assert [row.radius for row in plain] == [row.radius for row in smoothed]


def test_certificates_have_no_part_in_worst_cases_and_their_own_numbers(run):
    results = run.results
    assert all(len(worst["attacks"]) == 1 for worst in results["worst_case"])
    cells = [cell for cell in results["cells"] if cell["measure"] == "certificate"]
    assert len(cells) == 4
    for cell in cells:
        assert cell["robust_accuracy"]["value"] is None
        assert cell["attack_success"]["reason"] == "a certificate, no attack"
        proven = cell["certified_accuracy"]
        assert proven["n"] == 12
        assert proven["low"] < proven["value"] < proven["high"]
        assert cell["certified"] == proven["value"] * 12


class Stopping(ProgressListener):
    """Presses Ctrl-C in the middle of a certificate."""

    def on_batch_end(self, cell, done):
        if cell.record.measure == "certificate" and done.n >= 3:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_certificate_is_resumed_image_by_image(run, workplace, monkeypatch):
    monkeypatch.setattr("robustbench_local.evaluation.harness.certificate_job.CHUNK_PIXELS", 3 * 70 * 28 * 28)
    with pytest.raises(KeyboardInterrupt):
        rbl.run_grid(GRID, out="out", options=rbl.Options(device="cpu"), listener=Stopping())
    with RunStore.open_readonly(workplace / "out") as store:
        status = {cell.status for cell in store.read_cells()}
    assert "running" in status
    again = rbl.run_grid(GRID, out="out", options=rbl.Options(device="cpu"))

    def verdicts(one):
        return {
            key: [(row.image, row.certified, row.radius, row.forward_passes) for row in rows]
            for key, rows in outcomes(one).items()
        }

    assert verdicts(again) == verdicts(run)


@pytest.mark.slow
def test_what_a_kill_may_cost_is_bounded_and_batches_change_nothing(linear, data):
    threat = ThreatModel(norm="L2", eps=0.1)
    cheap, dear = (
        CertificateJob(
            key="k", classifier=linear, data=data, certificate=Smoothing(n=n), threat=threat, seed=0
        )
        for n in (100, CHUNK_PIXELS)
    )
    assert [len(batch) for batch in cheap.build_queue(50, done_positions={3})] == [50, 9]
    assert [len(batch) for batch in dear.build_queue(50, done_positions=set())] == [1] * 60
    whole = [row for batch in run_batches(cheap, batch_size=60) for row in batch.outcomes]
    small = [row for batch in run_batches(cheap, batch_size=7) for row in batch.outcomes]
    timeless = [replace(row, seconds=0.0) for row in whole]
    assert [replace(row, seconds=0.0) for row in small] == timeless


def test_a_certificate_that_a_model_cannot_have_is_skipped_with_its_reason(workplace):
    grid = {**GRID, "attacks": [{"card": "certify-smoothing-l2-0.25", "n": 60}]}
    done = rbl.run_grid(grid, out="out", options=rbl.Options(device="cpu"))
    assert done.is_complete
    with RunStore.open_readonly(done.directory) as store:
        own, smoothed = store.read_cells()
    assert own.status == "done"
    assert smoothed.status == "skipped"
    assert "smoothed with sigma 0.5, the certificate is for sigma 0.25" in smoothed.error


POOLING = """
from torch import nn
from torch.nn import functional

class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(14 * 14, 10)

    def forward(self, images):
        return self.head(functional.max_pool2d(images / images.size(2), 2).flatten(1))

pooling = Pooling()
"""


@pytest.mark.slow
def test_a_function_without_bounds_is_a_reason_to_skip_too(workplace):
    (workplace / "pooling.py").write_text(POOLING)
    model = {"id": "pooling", "source": "python:pooling.py:pooling", "num_classes": 10}
    grid = {**GRID, "models": [model], "defenses": ["none"], "attacks": ["certify-ibp-linf-1"]}
    done = rbl.run_grid(grid, out="out", options=rbl.Options(device="cpu", allow_code=True))
    with RunStore.open_readonly(done.directory) as store:
        (cell,) = store.read_cells()
    assert cell.status == "skipped"
    assert "max_pool2d is the operation max_pool2d, for which there are no bounds" in cell.error


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ({"card": "certify-smoothing-l2-0.25", "eps": 3}, ThreatError, "prove a radius of at most"),
        ({"card": "certify-smoothing-l2-0.25", "norm": "Linf"}, ThreatError, "does not support the norm"),
        ({"card": "certify-smoothing-l2-0.25", "steps": 3}, ConfigError, "has no key 'steps'"),
        ({"card": "certify-smoothing-l2-0.25", "alpha": 0.7}, ConfigError, "alpha must lie between"),
        ({"card": "certify-smoothing-l2-0.25", "transfer_from": "first"}, ConfigError, "nothing to transfer"),
        ({"card": "smoothing-0.25"}, CardError, "there is no card 'smoothing-0.25'"),
    ],
)
def test_questions_that_make_no_sense_are_refused_before_any_work(workplace, entry, error, message):
    models = [*GRID["models"], {**GRID["models"][0], "id": "second"}]
    grid, base = load_grid({**GRID, "models": models, "defenses": ["none"], "attacks": [entry]})
    with pytest.raises(error, match=message):
        make_plan(grid, Options(device="cpu"), base_folder=base)


def test_the_plan_counts_votes_and_a_card_twice_is_a_mistake(workplace):
    grid, base = load_grid(GRID)
    plan = make_plan(grid, Options(device="cpu"), base_folder=base)
    votes = [cell.max_passes for cell in plan.cells if cell.record.measure == "certificate"]
    assert votes == [(12 * 71, 0)] * 4
    twice = {**GRID, "attacks": [GRID["attacks"][1], GRID["attacks"][1]]}
    with pytest.raises(ConfigError, match=r"certificate 'certify-smoothing-l2-0\.4\[.*' is listed twice"):
        make_plan(load_grid(twice)[0], Options(device="cpu"), base_folder=base)


def test_certify_gives_radii_and_none_for_abstentions(linear, data):
    found = rbl.certify(linear, data, certificate="certify-smoothing-l2-0.25", sigma=0.1, n=500, eps=0.1)
    logits = linear(data.images)
    top = logits.topk(2, dim=1).values
    assert found.concerns == "smoothed"
    assert found.threat == ThreatModel(norm="L2", eps=0.1)
    assert found.counts.n == len(found.predictions) == len(found.radii) == 60
    weights = linear.module.weight
    gaps = torch.cdist(weights, weights)
    distance = (
        ((top[:, :1] - logits) / gaps[logits.argmax(dim=1)])
        .masked_fill(logits == top[:, :1], torch.inf)
        .amin(dim=1)
    )
    for reach, radius, prediction in zip(distance.tolist(), found.radii, found.predictions, strict=True):
        assert radius <= reach + 1e-6, "no ball is larger than the nearest border"
        if reach > 0.1:
            assert prediction is not None
    largest = 0.1 * normal.ppf(compute_lower_bounds(500, 500, 0.001))
    assert max(found.radii) == pytest.approx(largest)
    assert any(one is None for one in found.predictions) == (found.counts.abstained > 0)
    assert found.certified_accuracy == found.compute_certified_accuracy(0.1)
    shares = [found.compute_certified_accuracy(radius).value for radius in (0.0, 0.05, 0.1, 0.2, 0.5)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] <= found.accuracy.value
    assert shares[-1] == 0
    assert "majority vote" in found.notes[-1]


def test_certify_takes_a_certificate_of_ones_own(linear, data):
    method = Smoothing(sigma=0.1, n=100, sequential=True)
    found = rbl.certify(linear, (data.images, data.labels), certificate=method, norm="l2", eps="1/20")
    assert set(found.radii) == {0.0, 0.05}
    assert "concerns='smoothed'" in repr(found)
    with pytest.raises(ConfigError, match="needs norm and eps"):
        rbl.certify(linear, data, certificate=method)
    with pytest.raises(ConfigError, match="has its parameters already"):
        rbl.certify(linear, data, certificate=method, norm="L2", eps=0.1, sigma=1.0)
    with pytest.raises(CardError, match="is of kind attack, not certificate"):
        rbl.certify(linear, data, certificate="fgsm-linf-8")
    with pytest.raises(CardError, match="is of kind certificate, not attack"):
        rbl.evaluate(linear, data, attack="certify-smoothing-l2-0.25")


@dataclass(frozen=True, kw_only=True)
class Liar(Certificate):
    """Proves everything of whatever the label says."""

    norms = frozenset({"L2"})

    def certify(self, classifier, images, labels, threat, stream):
        count = len(images)
        return CertifiedBatch(
            predictions=labels.clone(),
            verified=torch.ones(count, dtype=torch.bool),
            radius=torch.full((count,), torch.nan, dtype=torch.float64),
            margins=torch.full((count,), 0.5, dtype=torch.float64),
        )

    def estimate_cost(self, threat):
        return 0, 0


def test_a_proof_about_another_class_than_the_classifier_reads_counts_for_nothing(linear, data):
    found = rbl.certify(linear, data, certificate=Liar(), norm="L2", eps=0.1)
    wrong = found.outcomes[found.outcomes["label"] != found.outcomes["clean_prediction"]]
    assert len(wrong) == 6
    assert set(wrong["status"]) == {"rejected"}
    assert not wrong["certified"].any()
    assert "which the classifier does not read" in wrong["error"].iloc[0]
    assert found.certified_accuracy.count == 54
    assert found.radii[0] is None
    assert found.outcomes["margin"].iloc[1] == 0.5
