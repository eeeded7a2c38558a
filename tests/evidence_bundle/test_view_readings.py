"""Photographs of signs in a bundle are read again, and verdicts follow from what was read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_changes import change_bundle, change_files, edit_json
from safetensors import numpy as safetensors
from store_records import make_outcome_record

import robustbench_local as rbl
from robustbench_local.evidence_bundle import make_bundle as bundle_module
from robustbench_local.evidence_bundle.make_bundle import make_bundle
from robustbench_local.evidence_bundle.model_readings import check_models
from robustbench_local.evidence_bundle.sign_checks import _find_problems, check_signs
from robustbench_local.evidence_bundle.verified_models import ModelSource
from robustbench_local.evidence_bundle.verify_bundle import VerificationOptions, verify_bundle
from robustbench_local.evidence_bundle.view_readings import is_close_reading
from robustbench_local.store import CellRecord
from robustbench_local.store.records import ViewPredictionsRecord
from robustbench_local.threats.threat_model import ThreatModel

PLAIN = ModelSource(name=None, source="zoo:signs-plain")
CELL = CellRecord(
    key="k" * 64, position=0, model="m", defense="none", attack="sticker", card="sticker", norm="sticker",
    eps=0.1, threat="sticker", goal="targeted", images=1, measure="views", targets=(7,),
)  # fmt: skip
THREAT = ThreatModel(norm="sticker", eps=0.1, targets=(7,), transformation="rectangles")


def test_only_a_close_reading_may_be_turned_round_by_rounding():
    assert is_close_reading(0.5, 0.5 - 0.95e-3)
    assert not is_close_reading(0.5, 0.5 - 1.05e-3)


def find_problems(clean, worn, **outcome):
    predictions = {
        name: ViewPredictionsRecord(
            cell=CELL.key, position=0, condition=name, kind="view", predictions=tuple(values),
            confidences=tuple(0.9 for _ in values),
        )
        for name, values in (("clean", clean), ("sticker", worn))
    }  # fmt: skip
    row = make_outcome_record(**{"label": 0, "clean_correct": True, "broken": True} | outcome)
    return list(_find_problems(CELL, THREAT, row, predictions))


def test_a_sign_is_broken_in_more_than_half_of_its_right_views():
    assert find_problems([0] * 20, [7] * 11 + [0] * 9) == []
    assert find_problems([0] * 20, [7] * 10 + [0] * 10, broken=False) == []
    line = find_problems([0] * 20, [7] * 10 + [0] * 10)
    assert line == [
        "test/0 under sticker on m: a successful attack is stated, no success follows from 20 views"
    ]
    assert "no success is stated" in find_problems([0] * 20, [7] * 11 + [0] * 9, broken=False)[0]
    # another class is no success, nor is an output that is not finite; views that were wrong do not count
    assert find_problems([0] * 20, [3] * 11 + [7] * 9, broken=False) == []
    assert find_problems([0] * 20, [None] * 11 + [7] * 9, broken=False) == []
    assert find_problems([0] * 19 + [7], [7] * 10 + [0] * 9 + [7]) == []


def test_a_sign_with_too_few_right_clean_views_has_no_verdict():
    assert find_problems([0] * 19 + [1], [7] * 20) == []
    void = {"clean_correct": False, "broken": False}
    assert find_problems([0] * 18 + [1] * 2, [7] * 20, **void) == []
    assert "no verdict follows" in find_problems([0] * 18 + [1] * 2, [7] * 20)[0]
    assert "no verdict follows" in find_problems([], [])[0]
    assert find_problems([0] * 20, [7] * 19)[0].endswith("20 clean views, and 19 with the sticker")
    row = make_outcome_record(broken=True)
    assert "without any view" in next(_find_problems(CELL, THREAT, row, {}))
    assert "without any view" in next(_find_problems(CELL, THREAT, make_outcome_record(), {}))
    wrong = make_outcome_record(clean_correct=False, status="clean-wrong")
    assert list(_find_problems(CELL, THREAT, wrong, {})) == []


def write_nothing(_run: Path, out: Path) -> None:
    out.mkdir(parents=True)
    for name in ("report.html", "report.md", "results.csv"):
        (out / name).touch()


@pytest.fixture(scope="module")
def sign_bundle(tmp_path_factory) -> Path:
    """The bundle of a run of a small sticker on two stop signs."""
    grid = {
        "data": {"source": "signs", "limit": 50},
        "models": [{"id": "plain", "source": "zoo:signs-plain"}],
        "attacks": [{"card": "sticker-10", "steps": 2, "views": 2, "test_views": 10}],
    }
    folder = tmp_path_factory.mktemp("signs")
    run = rbl.run_grid(grid, out=folder / "run", options=rbl.Options(workers=1, device="cpu", batch_size=16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_module, "write_report", write_nothing)
        return make_bundle(run.directory, folder / "run.zip").path


@pytest.mark.slow
def test_honest_photographs_stand(sign_bundle):
    report = verify_bundle(sign_bundle, VerificationOptions(models=[PLAIN], device="cpu", batch_size=3))
    assert report.exit_code == 0, report.to_json()
    sentences = {check.name: check.sentence for check in report.checks}
    assert sentences["verdicts of signs"] == "2 signs, each as the predictions of its views say"
    assert sentences["photographs of signs of plain"].startswith("40 of 40 readings stand; not read again: ")
    assert sentences["examples and budgets"].startswith("2 of a family without a norm")


def change_photographs(edit):
    """Return a change of the arrays of the signs, with their hashes in the list."""

    def change(folder: Path) -> None:
        path = next((folder / "examples").glob("*.safetensors"))
        content = {name: array.copy() for name, array in safetensors.load(path.read_bytes()).items()}
        edit(content)
        path.write_bytes(safetensors.save(content))

    return change


def turn_prediction(folder: Path) -> None:
    """State another class for the first view of each sign with its sticker."""
    path = next((folder / "records").glob("*.predictions.jsonl"))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if (row["condition"], row["kind"]) == ("sticker", "view"):
            row["predictions"][0] = (row["predictions"][0] + 1) % 10
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
def test_another_reading_than_the_models_does_not_stand(sign_bundle, tmp_path):
    folder = change_files(sign_bundle, tmp_path / "files", turn_prediction)
    check = check_models(folder, [PLAIN], device="cpu")[-1]
    assert check.status == "failed"
    assert check.sentence.startswith("38 of 40 readings stand")
    assert ", photograph 1: class " in check.details[0]


def flip_sign(folder: Path) -> None:
    path = next((folder / "records").glob("*.outcomes.jsonl"))
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    first = json.loads(rows[0])
    place = json.loads(head).index("broken")
    first[place] = not first[place]
    path.write_text("\n".join([head, json.dumps(first), *rows[1:]]) + "\n", encoding="utf-8")


@pytest.mark.slow
def test_a_verdict_against_its_views_is_found_without_a_model(sign_bundle, tmp_path):
    check = check_signs(change_files(sign_bundle, tmp_path / "files", flip_sign))
    assert (check.status, check.sentence) == (
        "failed",
        "1 of 2 signs with another verdict than its views give",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content["photographs"].__setitem__((0, 0, 0, 0), 7), "were changed"),
        (lambda content: content["frame_numbers"].__setitem__((0, 0), 1), "were changed"),
        (lambda content: content.pop("photographs"), "without their numbers"),
        (lambda content: content.update(frames=content["frames"][:1]), "another form"),
        (lambda content: content.update(frames=content["frames"].astype(np.float32)), "another form"),
        (
            lambda content: content.update(frame_numbers=content["frame_numbers"][:, :2]),
            "without their numbers",
        ),
    ],
)
def test_changed_photographs_are_found(edit, words, sign_bundle, tmp_path):
    changed = change_bundle(sign_bundle, tmp_path / "changed.zip", change_photographs(edit))
    report = verify_bundle(changed)
    assert report.exit_code == 1
    assert words in next(check.sentence for check in report.checks if check.status == "failed")


@pytest.mark.slow
def test_photographs_of_views_that_there_are_not_are_found_and_missing_ones_said(sign_bundle, tmp_path):
    def renumber(folder: Path) -> None:
        change_photographs(lambda content: content["photograph_numbers"].__iadd__(999))(folder)
        forget_hashes(folder)

    def forget_hashes(folder: Path) -> None:
        from robustbench_local.evidence_bundle.example_files import PHOTOGRAPH_ARRAYS, _hash_photographs

        content = safetensors.load(next((folder / "examples").glob("*.safetensors")).read_bytes())
        photographs = {name: content[name] for name in PHOTOGRAPH_ARRAYS if name in content}

        def list_hashes(description: dict) -> None:
            for number, row in enumerate(description["examples"]["cells"][0]["images"]):
                row.pop("photographs_sha256")
                row.update(_hash_photographs(photographs, number))

        edit_json("bundle.json", list_hashes)(folder)

    changed = change_bundle(sign_bundle, tmp_path / "changed.zip", renumber)
    report = verify_bundle(changed, VerificationOptions(models=[PLAIN], device="cpu"))
    assert report.checks[-1].sentence == "a photograph is of a view that has no prediction"

    def drop(folder: Path) -> None:
        names = ("photographs", "photograph_numbers", "frames", "frame_numbers")
        change_photographs(lambda content: [content.pop(name) for name in names])(folder)
        forget_hashes(folder)

    folder = change_files(sign_bundle, tmp_path / "files", drop)
    check = check_models(folder, [PLAIN], device="cpu")[-1]
    assert check.status == "not checked"
    assert "2 signs with stickers, whose photographs are not in the bundle" in check.sentence
