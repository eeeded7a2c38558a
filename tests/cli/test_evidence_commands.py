"""rbl bundle and rbl verify as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_local.cli.main import run_command

SIGNS = Path(__file__).parents[2] / "reports/signs"


@pytest.mark.slow
def test_the_embedded_run_is_bundled_and_its_verdicts_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(["bundle", str(SIGNS)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bundle: signs.bundle.zip"
    assert "adversarial examples: 217 of the 217 that the run has stored" in lines[2]
    models = ["--model", "signs-plain=zoo:signs-plain", "--model", "signs-gaussian=zoo:signs-gaussian-0.25"]
    assert run_command(["verify", "signs.bundle.zip", *models, "--device", "cpu", "--proofs", "2"]) == 0
    text = capsys.readouterr().out
    assert "ok           verdicts of signs-gaussian + smoothing-0.25: 43 of 43 stored verdicts stand" in text
    proofs = (
        "certificates of signs-gaussian + smoothing-0.25: 2 of 2 stated proofs stand; not read again: 48 of "
    )
    assert proofs in text
    assert text.splitlines()[-1] == "signs.bundle.zip: stands"
    with Path("signs.bundle.zip").open("ab") as file:
        file.write(b"hidden")
    assert run_command(["verify", "signs.bundle.zip", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["verdict"], report["exit_code"]) == ("does not stand", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bundle", str(SIGNS), "--examples", "few"], "'few' is neither all nor a number"),
        (["bundle", str(SIGNS), "--examples", "-1"], "'-1' is neither all nor a number"),
        (["verify", "absent.zip"], "there is no such bundle"),
        (["verify", "absent.zip", "--model", "a="], "'a=' names no source"),
        (["verify", "absent.zip", "--model", "a=zoo:x", "--model", "a=zoo:y"], "a model is named twice"),
        (["verify", "absent.zip", "--model", "zoo:x", "--weights", "b=f"], "there is no --model for b"),
        (["verify", "absent.zip", "--model", "http://h/?a=b", "--weights", "f"], "there is no such bundle"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())
