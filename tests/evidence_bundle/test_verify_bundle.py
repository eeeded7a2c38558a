"""A bundle stands where it is honest, and whatever somebody changes in it is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bundle_changes import change_bundle, change_files, edit_json, replace_text
from safetensors import numpy as safetensors

from robustbench_local.errors import ConfigError
from robustbench_local.evidence_bundle.example_checks import check_examples
from robustbench_local.evidence_bundle.example_files import ExampleChoice, hash_image_bytes
from robustbench_local.evidence_bundle.make_bundle import BundleOptions, make_bundle
from robustbench_local.evidence_bundle.record_checks import check_documents, check_results, check_schema
from robustbench_local.evidence_bundle.verified_models import ModelSource
from robustbench_local.evidence_bundle.verify_bundle import VerificationOptions, verify_bundle

PLAIN = ModelSource(name=None, source="zoo:signs-plain")


def read_statuses(report) -> dict[str, str]:
    return {check.name: check.status for check in report.checks}


def test_an_honest_bundle_stands_anywhere_with_any_batch_size(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    copy = tmp_path / "received.zip"
    copy.write_bytes(bundle.read_bytes())
    report = verify_bundle(copy, VerificationOptions(models=[PLAIN], batch_size=3, device="cpu"))
    assert [check for check in report.checks if check.status == "failed"] == []
    assert report.exit_code == 0
    assert report.verdict == "stands"
    statuses = read_statuses(report)
    assert statuses.pop("signature") == "not checked"
    assert set(statuses.values()) == {"ok"}
    verdicts = report.checks[-1]
    assert verdicts.name == "verdicts of plain"
    listed = json.loads(json.dumps(report.to_json()))
    assert listed["checks"][-1]["sentence"].split(" of ")[0] == verdicts.sentence.split()[0]
    assert list(tmp_path.iterdir()) == [copy]


def test_the_same_run_gives_the_same_bytes(evidence_run, bundle, tmp_path):
    again = make_bundle(evidence_run, tmp_path / "again.zip")
    assert again.path.read_bytes() == bundle.read_bytes()
    assert again.included_examples == again.stored_examples > 0


def change_pixel(folder: Path) -> None:
    """Change one value of one adversarial example by one level."""
    path = sorted((folder / "examples").glob("*.safetensors"))[0]
    content = {name: array.copy() for name, array in safetensors.load(path.read_bytes()).items()}
    flat = content["adversarial"].reshape(-1)
    flat[100] = flat[100] - 1 if flat[100] > 1 else flat[100] + np.array(1 / 255).astype(flat.dtype)
    path.write_bytes(safetensors.save(content))


def change_pixel_and_list(folder: Path) -> None:
    """Change it, and list the hash of the changed image."""
    change_pixel(folder)
    path = sorted((folder / "examples").glob("*.safetensors"))[0]
    images = safetensors.load(path.read_bytes())["adversarial"]
    images = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images

    def list_hashes(content: dict) -> None:
        rows = content["examples"]["cells"][0]["images"]
        for row, image in zip(rows, images, strict=True):
            row["adversarial_sha256"] = hash_image_bytes(image)

    edit_json("bundle.json", list_hashes)(folder)


def remove_example(folder: Path) -> None:
    """Remove the last example of the first cell from its file alone."""
    path = sorted((folder / "examples").glob("*.safetensors"))[0]
    content = safetensors.load(path.read_bytes())
    path.write_bytes(safetensors.save({name: array[:-1].copy() for name, array in content.items()}))


def swap_files(folder: Path) -> None:
    """Swap the examples of two cells."""
    first, second = sorted((folder / "examples").glob("*.safetensors"))[:2]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def flip_outcome(folder: Path) -> None:
    """Make an image robust in the records."""
    path = sorted((folder / "records").glob("*.outcomes.jsonl"))[0]
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    place = json.loads(head).index("broken")
    for number, row in enumerate(map(json.loads, rows)):
        if row[place]:
            row[place] = False
            rows[number] = json.dumps(row)
            break
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")


def write_odd_positions(folder: Path) -> None:
    """Give positions that are no numbers."""
    path = sorted((folder / "examples").glob("*.safetensors"))[0]
    content = safetensors.load(path.read_bytes())
    path.write_bytes(safetensors.save({**content, "positions": np.full(len(content["positions"]), np.nan)}))


SCHEMA, RATES, EXAMPLES, DOCUMENTS = (
    "schema of results.json",
    "rates and intervals",
    "examples and budgets",
    "bill of materials, evidence map and statement",
)
CHECKS = {SCHEMA: check_schema, RATES: check_results, EXAMPLES: check_examples, DOCUMENTS: check_documents}
CHANGES = {
    "a pixel": (change_pixel, EXAMPLES),
    "a pixel and its hash": (change_pixel_and_list, EXAMPLES),
    "an example less": (remove_example, EXAMPLES),
    "swapped examples": (swap_files, EXAMPLES),
    "no clean images": (lambda folder: sorted(folder.glob("examples/clean/*"))[0].unlink(), EXAMPLES),
    "no examples of a cell": (
        lambda folder: sorted(folder.glob("examples/*.safetensors"))[0].unlink(),
        EXAMPLES,
    ),
    "fewer examples listed": (
        edit_json("bundle.json", lambda content: content["examples"]["cells"][0]["images"].pop()),
        EXAMPLES,
    ),
    "a list without form": (edit_json("bundle.json", lambda content: content["examples"].clear()), EXAMPLES),
    "a larger budget": (replace_text("records/run.json", "eps=0.03137254901960784", "eps=0.05"), EXAMPLES),
    "no threat model": (replace_text("records/run.json", "ThreatModel(", "open('x')("), EXAMPLES),
    "another norm of a change": (replace_text("records/00000*outcomes*", ", 0.031", ", 0.030"), EXAMPLES),
    "a rate": (
        edit_json("results.json", lambda content: content["cells"][0]["robust_accuracy"].update(value=0.75)),
        RATES,
    ),
    "an interval": (
        edit_json(
            "results.json", lambda content: content["worst_case"][0]["robust_accuracy"].update(low=0.5)
        ),
        RATES,
    ),
    "an outcome": (flip_outcome, RATES),
    "no outcomes": (lambda folder: sorted(folder.glob("records/0*"))[0].unlink(), RATES),
    "another type": (replace_text("records/00000*", '"ok"', '["ok"]'), RATES),
    "other columns": (replace_text("records/00000*", '"broken"', '"robust"'), RATES),
    "a NaN": (replace_text("records/00000*", "false", "NaN"), RATES),
    "a cell's type": (replace_text("records/run.json", '"position": 0', '"position": "0"'), RATES),
    "records of a list": (lambda folder: (folder / "records/run.json").write_text("[]"), RATES),
    "a cell outside of the folder": (replace_text("records/run.json", '"key": "', '"key": "/../'), EXAMPLES),
    "no file of images": (
        lambda folder: sorted(folder.glob("examples/*.safetensors"))[0].write_bytes(b"\x08" + bytes(20)),
        EXAMPLES,
    ),
    "no clean file": (
        lambda folder: sorted(folder.glob("examples/clean/*"))[0].write_bytes(b"\xff" * 64),
        EXAMPLES,
    ),
    "positions of another kind": (write_odd_positions, EXAMPLES),
    "deep records": (lambda folder: (folder / "records/run.json").write_text("[" * 99999), RATES),
    "metadata without form": (
        edit_json("records/run.json", lambda content: content["meta"].update(grid=[1], models=3)),
        RATES,
    ),
    "a key twice": (replace_text("results.json", '"schema": 1,', '"schema": 1, "schema": 1,'), RATES),
    "an unknown key": (
        edit_json("results.json", lambda content: content.update(extra=1)),
        SCHEMA,
    ),
    "a metric of the bill": (replace_text("ml-bom.cdx.json", '"value": "', '"value": "0'), DOCUMENTS),
    "the evidence map": (replace_text("evidence-map.md", "partly tested", "tested"), DOCUMENTS),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_with_new_hashes_is_found(name, bundle, tmp_path):
    change, check = CHANGES[name]
    folder = change_files(bundle, tmp_path / "files", change, writes_hashes=check == DOCUMENTS)
    found = CHECKS[check](folder)
    assert (found.name, found.status) == (check, "failed")
    assert all("\n" not in line for line in (found.sentence, *found.details))


def drop_cell(folder: Path) -> None:
    """Drop all examples of a cell, and the entry that lists them."""
    sorted((folder / "examples").glob("*.safetensors"))[0].unlink()
    edit_json("bundle.json", lambda content: content["examples"]["cells"].pop(0))(folder)


def test_an_attack_whose_examples_were_dropped_without_a_trace_is_open(bundle, tmp_path):
    folder = change_files(bundle, tmp_path / "files", drop_cell, writes_hashes=False)
    found = check_examples(folder)
    assert found.status == "undecided"
    (line,) = found.details
    assert line.startswith("fgsm-linf-8 on plain: 0 of the ")


def test_labels_that_a_model_does_not_have_are_found(bundle, tmp_path):
    """The model that reads would raise for them."""

    def change(folder: Path) -> None:
        for path in (folder / "records").glob("*.outcomes.jsonl"):
            head, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            for row in rows:
                row[head.index("label")] = 10**6
            path.write_text("\n".join(map(json.dumps, [head, *rows])) + "\n", encoding="utf-8")

    forged = change_bundle(bundle, tmp_path / "changed.zip", change)
    report = verify_bundle(forged, VerificationOptions(models=[PLAIN], device="cpu"))
    assert report.exit_code == 1
    assert "a label that plain has no class for" in report.checks[-1].details[0]


def test_a_changed_rate_with_new_hashes_ends_with_exit_code_1(bundle, tmp_path):
    report = verify_bundle(change_bundle(bundle, tmp_path / "changed.zip", CHANGES["a rate"][0]))
    assert report.exit_code == 1
    assert report.verdict == "does not stand"
    found = next(check for check in report.checks if check.name == RATES)
    assert found.details == ("/cells/0/robust_accuracy/value: 0.75 is stated, 0.0 follows",)


@pytest.mark.parametrize(
    "change",
    [
        change_pixel,
        replace_text("results.json", '"n": 6', '"n": 7'),
        lambda folder: (folder / "more.txt").write_text("hidden"),
        lambda folder: (folder / "run.yaml").unlink(),
        lambda folder: (folder / "statement.json").unlink(),
        lambda folder: (folder / "statement.json").write_text('{"subject": 1}'),
        lambda folder: (folder / "statement.json").write_text("{"),
    ],
)
def test_a_change_without_new_hashes_ends_the_checks(change, bundle, tmp_path):
    report = verify_bundle(change_bundle(bundle, tmp_path / "changed.zip", change, writes_hashes=False))
    assert report.exit_code == 1
    assert report.checks[1].name == "files"
    assert report.checks[1].status == "failed"
    assert len(report.checks) == 3


def test_a_changed_digit_of_another_version_is_left_open(bundle, tmp_path):
    def change(folder: Path) -> None:
        edit_json("results.json", lambda content: content["cells"][0].update(note="new words"))(folder)
        edit_json("bundle.json", lambda content: content["made_by"].update(code="0.0.9+abc"))(folder)

    report = verify_bundle(change_bundle(bundle, tmp_path / "changed.zip", change))
    assert read_statuses(report)[RATES] == "undecided"
    assert report.exit_code == 4
    assert "0.0.9+abc" in next(check.sentence for check in report.checks if check.name == RATES)
    other = change_bundle(
        bundle,
        tmp_path / "other.zip",
        edit_json("bundle.json", lambda content: content.update(bundle_version=2)),
    )
    assert [(check.name, check.status) for check in verify_bundle(other).checks][1:] == [
        ("archive", "undecided")
    ]


@pytest.mark.slow
def test_verdicts_that_a_model_does_not_give_do_not_stand(bundle, tmp_path):
    """A bundle that was forged as a whole: the identity of the one model, the verdicts of another."""
    pgd = ModelSource(name="plain", source="zoo:signs-pgd-at")
    honest = verify_bundle(bundle, VerificationOptions(models=[pgd], device="cpu"))
    assert honest.exit_code == 4
    assert "its weights" in next(one.sentence for one in honest.checks if one.name == "identity of plain")
    from robustbench_local import load_classifier

    parts = load_classifier("zoo:signs-pgd-at").describe_parts()
    forge = edit_json(
        "records/run.json",
        lambda content: content["identity"].update(
            {f"{part} of model plain": value for part, value in parts.items()}
        ),
    )
    forged = verify_bundle(
        change_bundle(bundle, tmp_path / "forged.zip", forge), VerificationOptions(models=[pgd], device="cpu")
    )
    assert forged.exit_code == 1
    assert read_statuses(forged)["identity of plain"] == "ok"
    verdicts = forged.checks[-1]
    assert verdicts.status == "failed"
    assert "a successful attack is stated, no success is found" in verdicts.details[0]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ModelSource(name="plan", source="zoo:x"), "Did you mean plain"),
        (ModelSource(name=None, source="zoo:x"), "zoo"),
    ],
)
def test_a_wrong_model_is_a_usage_error(source, words, bundle):
    with pytest.raises(ConfigError, match=words):
        verify_bundle(bundle, VerificationOptions(models=[source], device="cpu"))


def test_without_images_hashes_stay_and_no_verdict_can_be_read(evidence_run, tmp_path):
    written = make_bundle(
        evidence_run, tmp_path / "small.zip", BundleOptions(examples=ExampleChoice(has_images=False))
    )
    assert written.included_examples == 0
    names = change_files(written.path, tmp_path / "files", lambda folder: None, writes_hashes=False)
    files = {path.relative_to(names).as_posix() for path in names.rglob("*") if path.is_file()}
    assert not [name for name in files if name.startswith("examples/") or name.endswith((".html", ".png"))]
    report = verify_bundle(written.path, VerificationOptions(models=[PLAIN], device="cpu"))
    assert report.exit_code == 4
    statuses = read_statuses(report)
    assert (statuses[EXAMPLES], statuses["verdicts"]) == ("not checked", "undecided")
    listed = json.loads((names / "bundle.json").read_text(encoding="utf-8"))
    assert len(listed["left_out"]) == 3
    assert all(len(row["clean_sha256"]) == 64 for row in listed["examples"]["cells"][0]["images"])


def test_a_sample_is_drawn_by_its_seed_and_says_so(evidence_run, tmp_path):
    samples = []
    for seed in (1, 1, 2):
        path = tmp_path / f"{len(samples)}.zip"
        options = BundleOptions(examples=ExampleChoice(count=2, seed=seed))
        assert make_bundle(evidence_run, path, options).included_examples <= 6
        folder = change_files(
            path, tmp_path / f"files{len(samples)}", lambda folder: None, writes_hashes=False
        )
        content = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))["examples"]
        assert content["chosen"] == f"at most 2 of each attack, by a hash of seed {seed} and the image's id"
        samples.append([row["image"] for row in content["cells"][0]["images"]])
    assert samples[0] == samples[1] != samples[2]
    assert verify_bundle(path).exit_code == 0


def test_a_model_card_is_included_and_named_in_the_bill(evidence_run, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("# Card\n", encoding="utf-8")
    path = make_bundle(evidence_run, tmp_path / "b.zip", BundleOptions(model_card=card)).path
    folder = change_files(path, tmp_path / "files", lambda folder: None, writes_hashes=False)
    assert (folder / "model-card.md").read_text(encoding="utf-8") == "# Card\n"
    bill = json.loads((folder / "ml-bom.cdx.json").read_text(encoding="utf-8"))
    assert bill["components"][0]["externalReferences"] == [{"type": "model-card", "url": "model-card.md"}]
    assert verify_bundle(path).exit_code == 0


def test_what_cannot_be_bundled_is_said(tmp_path, evidence_run):
    with pytest.raises(ConfigError, match="no such folder"):
        make_bundle(evidence_run, tmp_path / "absent" / "b.zip")
    with pytest.raises(ConfigError, match="no such bundle"):
        verify_bundle(tmp_path / "absent.zip")
    (tmp_path / "text.zip").write_text("no archive")
    report = verify_bundle(tmp_path / "text.zip")
    assert (report.exit_code, len(report.checks)) == (1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["text.zip"]
