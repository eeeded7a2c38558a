"""Certificates of a bundle are proved again: the honest ones stand, and every other claim is found."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from bundle_changes import change_files, edit_json
from scipy.special import ndtri
from store_records import make_outcome_record

import robustbench_local as rbl
from robustbench_local.certification.bound_propagation.ibp import IBP
from robustbench_local.certification.randomized_smoothing.smoothing_certificate import Smoothing
from robustbench_local.evidence_bundle import make_bundle as bundle_module
from robustbench_local.evidence_bundle.check_results import BundleError
from robustbench_local.evidence_bundle.example_files import ExampleChoice
from robustbench_local.evidence_bundle.make_bundle import BundleOptions, make_bundle
from robustbench_local.evidence_bundle.model_readings import check_models
from robustbench_local.evidence_bundle.proof_images import read_proof_images
from robustbench_local.evidence_bundle.proof_readings import compare_proof
from robustbench_local.evidence_bundle.readings import Readings
from robustbench_local.evidence_bundle.verified_models import ModelSource
from robustbench_local.evidence_bundle.verify_bundle import VerificationOptions, verify_bundle
from robustbench_local.store import CellRecord

IBP_MODEL = ModelSource(name=None, source="zoo:signs-ibp")
CELL = CellRecord(
    key="k" * 64, position=0, model="m", defense="none", attack="a", card="a", norm="L2", eps=0.25,
    threat="l2-0.25", goal="untargeted", images=1,
)  # fmt: skip
VOTES = Smoothing(sigma=0.25, n=1_000_000)


def compare(certificate, stated, found):
    """Compare two outcomes; return what came of it in a word, and the line about it."""
    readings, base = Readings(label="m"), make_outcome_record(margin=None, certified=True, radius=None)
    compare_proof(CELL, replace(base, **stated), replace(base, **found), certificate, readings)
    lines = {"failed": readings.failures, "open": readings.doubts}
    return next(((word, *found) for word, found in lines.items() if found), ("stands",))


@pytest.mark.parametrize(
    ("stated", "found", "word"),
    [
        ({"margin": 2.0}, {"margin": 2.0 * (1 + 0.95e-3)}, "stands"),
        ({"margin": 2.0}, {"margin": 2.0 * (1 + 1.06e-3)}, "failed"),
        ({"margin": 2.0 * (1 + 1.06e-3)}, {"margin": 2.0}, "failed"),  # a larger bound than is proved
        ({"margin": 0.0}, {"margin": 0.95e-3}, "stands"),
        ({"margin": 0.0}, {"margin": 1.05e-3}, "failed"),
        # rounding may turn a proof round where its bound is close to 0, and nowhere else
        ({"margin": 0.9e-3}, {"margin": 0.0, "certified": False}, "open"),
        ({"margin": 0.5}, {"margin": -0.5, "certified": False}, "failed"),
        ({"margin": 0.5}, {"margin": 0.5, "certified": False}, "failed"),
        ({"margin": 0.5, "certified": False}, {"margin": 0.5}, "failed"),
        ({"margin": 0.0}, {"margin": 0.0, "clean_correct": False}, "open"),
        ({"margin": 0.5}, {"margin": None}, "failed"),
    ],
)
def test_bounds_are_those_that_are_proved_again(stated, found, word):
    assert compare(IBP(), stated, found)[0] == word


@pytest.mark.parametrize(
    ("stated", "found", "word"),
    [
        ({"radius": 0.5}, {"radius": 0.5}, "stands"),
        ({"radius": 0.25 * ndtri(0.9)}, {"radius": 0.25 * ndtri(0.9019)}, "stands"),
        ({"radius": 0.25 * ndtri(0.9)}, {"radius": 0.25 * ndtri(0.9021)}, "failed"),
        ({"radius": 0.25 * ndtri(0.9021)}, {"radius": 0.25 * ndtri(0.9)}, "failed"),
        ({"radius": 0.2501}, {"radius": 0.2499, "certified": False}, "open"),
        ({"radius": 0.4}, {"radius": 0.1, "certified": False}, "failed"),
        # near all votes the share says little, and no votes prove more than the largest radius
        ({"radius": VOTES.largest_radius}, {"radius": VOTES.largest_radius}, "stands"),
        ({"radius": 1e9}, {"radius": VOTES.largest_radius}, "failed"),
        ({"radius": 0.0, "abstained": True}, {"radius": 0.4}, "failed"),
    ],
)
def test_a_few_votes_may_move_a_radius(stated, found, word):
    assert compare(VOTES, stated, found)[0] == word


def test_a_line_names_the_image_and_both_claims():
    word, line = compare(IBP(), {"margin": 1.0}, {"margin": -1.0, "certified": False})
    assert word == "failed"
    claims = ("class 0 (correct), certified is stated", "class 0 (correct), not certified is found")
    assert line == f"test/0 under a on m: {', '.join(claims)}"
    word, line = compare(IBP(), {"margin": 1.0}, {"margin": 0.5})
    assert line == "test/0 under a on m: bound 1 is stated, 0.5 is found"


@pytest.fixture(scope="module")
def certified_run(tmp_path_factory) -> Path:
    """A run of bounds and of votes on a network that was trained for them."""
    grid = {
        "data": {"source": "signs", "limit": 6},
        "models": [{"id": "ibp", "source": "zoo:signs-ibp"}],
        "attacks": ["certify-ibp-linf-1", {"card": "certify-smoothing-l2-0.25", "n0": 10, "n": 100}],
    }
    options = rbl.Options(batch_size=8, workers=1, device="cpu")
    return rbl.run_grid(grid, out=tmp_path_factory.mktemp("proofs") / "run", options=options).directory


def write_bundle(run: Path, out: Path, **choice) -> Path:
    return make_bundle(run, out, BundleOptions(examples=ExampleChoice(**choice))).path


@pytest.fixture(scope="module")
def certified_bundle(certified_run) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "write_report", lambda _run, out: write_nothing(out))
        return write_bundle(certified_run, certified_run.parent / "run.zip")


def write_nothing(out: Path) -> None:
    out.mkdir(parents=True)
    for name in ("report.html", "report.md", "results.csv"):
        (out / name).touch()


@pytest.fixture
def short_report(monkeypatch):
    monkeypatch.setattr(bundle_module, "write_report", lambda _run, out: write_nothing(out))


def read_check(checks):
    return next(check for check in checks if check.name == "certificates of ibp")


@pytest.mark.slow
def test_honest_proofs_stand_all_or_as_many_as_asked_for(certified_bundle):
    report = verify_bundle(certified_bundle, VerificationOptions(models=[IBP_MODEL], device="cpu"))
    check = read_check(report.checks)
    assert (check.status, check.sentence) == ("ok", "12 of 12 stated proofs stand")
    assert report.exit_code == 0
    options = VerificationOptions(models=[IBP_MODEL], device="cpu", proofs=2, batch_size=1)
    check = read_check(verify_bundle(certified_bundle, options).checks)
    assert check.sentence.startswith("4 of 4 stated proofs stand; not read again: 4 of certify-ibp-linf-1 ")


def change_column(attack: int, name: str, value):
    """Change a column of the first outcome of a certificate for which it is another value."""

    def change(folder: Path) -> None:
        path = sorted((folder / "records").glob("*.outcomes.jsonl"))[attack]
        head, *rows = path.read_text(encoding="utf-8").splitlines()
        place = json.loads(head).index(name)
        for number, row in enumerate(map(json.loads, rows)):
            if row[place] != value and row[place] is not None:
                row[place] = value
                rows[number] = json.dumps(row)
                break
        else:
            pytest.fail("nothing to change")
        path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_column(0, "certified", False), ", not certified is stated"),
        (change_column(0, "margin", 9.0), "bound 9 is stated"),
        (change_column(0, "clean_correct", False), " (wrong), certified is stated"),
        (change_column(0, "clean_prediction", 3), "class 3 (correct), "),
        (change_column(1, "radius", 0.9), "radius 0.9 is stated"),
        (change_column(1, "certified", True), ", certified is stated"),
        (change_column(1, "abstained", False), " is stated, an abstention, not certified is found"),
    ],
)
def test_a_changed_claim_is_found_by_the_model(change, words, certified_bundle, tmp_path):
    folder = change_files(certified_bundle, tmp_path / "files", change)
    check = read_check(check_models(folder, [IBP_MODEL], device="cpu"))
    assert check.status == "failed"
    assert check.sentence.startswith("11 of 12 stated proofs stand")
    assert words in check.details[0]


def list_image(edit):
    """Return a change of the first listed image of the first certificate."""
    return edit_json("bundle.json", lambda content: edit(content["proofs"][0]["images"][0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (list_image(lambda row: row.update(position=99)), "has no outcome"),
        (list_image(lambda row: row.update(image="other")), "another image than that of the outcome"),
        (list_image(lambda row: row.update(clean_sha256="0" * 64)), "another image than that of the outcome"),
        (list_image(lambda row: row.update(clean_sha256=f"{row['clean_sha256'][:16]}0")), "is missing"),
        (list_image(lambda row: row.clear()), "cannot be read (KeyError"),
        (change_column(0, "original_hash", "0" * 16), "another image than that of the outcome"),
        (change_column(0, "original_hash", ""), "another image than that of the outcome"),
        (
            edit_json("bundle.json", lambda content: content["proofs"][0].update(cell="0" * 64)),
            "which is no certificate",
        ),
    ],
)
def test_images_that_are_not_those_of_the_outcomes_are_found(change, words, certified_bundle, tmp_path):
    folder = change_files(certified_bundle, tmp_path / "files", change)
    with pytest.raises(BundleError, match=re.escape(words)):
        list(read_proof_images(folder))
    assert [check.status for check in check_models(folder, [IBP_MODEL], device="cpu")] == ["failed"]


@pytest.mark.slow
def test_what_is_not_in_the_bundle_is_said(certified_run, certified_bundle, short_report, tmp_path):
    few = write_bundle(certified_run, tmp_path / "few.zip", count=4)
    check = read_check(verify_bundle(few, VerificationOptions(models=[IBP_MODEL], device="cpu")).checks)
    assert check.sentence.startswith("8 of 8 stated proofs stand; not read again: ")
    assert "2 images not in the bundle" in check.sentence
    bare = write_bundle(certified_run, tmp_path / "bare.zip", has_images=False)
    report = verify_bundle(bare, VerificationOptions(models=[IBP_MODEL], device="cpu"))
    assert report.checks[-1].sentence == "the bundle has no images that a model could read"
    assert report.exit_code == 4
    # a bundle of an older version lists no such images
    folder = change_files(
        certified_bundle, tmp_path / "files", edit_json("bundle.json", lambda content: content.pop("proofs"))
    )
    assert [listed.missing for listed in read_proof_images(folder)] == [
        "6 images not in the bundle (the bundle is older than such images)"
    ] * 2
    # images that other data have under the same name are never taken
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustbench_local.run_data.hash_image_array", lambda _pixels: "0" * 16)
        other = make_bundle(certified_run, tmp_path / "other.zip")
    assert (other.proof_images, other.certificate_outcomes) == (0, 12)
    assert other.proof_problem == "the data on this machine have another image of this name"
