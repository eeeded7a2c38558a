"""``python:FILE.py:NAME`` in grids and calls: if allowed, in the identity, and one line for every fault."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import pytest
import yaml
from example_package import EXAMPLE

import robustbench_local as rbl
from robustbench_local.errors import ConfigError, DataError, RefusedError, RobustbenchError
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.planning import outside_code

OPTIONS = rbl.Options(workers=1, batch_size=16, device="cpu", allow_code=True, timeout=60)

HEAD = """
from dataclasses import dataclass
import os, sys, time
import numpy as np
import torch
import robustbench_local as rbl

@dataclass(frozen=True, kw_only=True)
class Own(rbl.Attack):
    strength: float = 1.0
    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        {perturb}
    def estimate_cost(self, threat):
        {cost}
"""


def write_attack(path, perturb="return 1 - images", cost="return 1, 0", before="", after=""):
    path.write_text(before + HEAD.format(perturb=perturb, cost=cost) + after)
    return f"python:{path.name}:Own"


@pytest.mark.slow
def test_a_grid_of_files_runs_and_only_with_leave(tmp_path, monkeypatch):
    folder = tmp_path / "src" / "robustbench_example"
    shutil.copytree(EXAMPLE / "src" / "robustbench_example", folder)
    shutil.copy(EXAMPLE / "grid-of-files.yaml", tmp_path / "grid.yaml")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(RefusedError, match="--allow-code"):
        rbl.run_grid(tmp_path / "grid.yaml", out=tmp_path / "run", options=replace(OPTIONS, allow_code=False))
    run = rbl.run_grid(tmp_path / "grid.yaml", out=tmp_path / "run", options=OPTIONS)
    cells = run.results["cells"]
    assert {cell["status"] for cell in cells} == {"done", "skipped"}
    claims = [cell for cell in cells if "LinearMargin" in cell["attack"] and cell["status"] == "done"]
    assert claims
    assert all(cell["note"].startswith("claimed by python:") for cell in claims)
    skipped = [cell["error"] for cell in cells if cell["status"] == "skipped"]
    assert all("has a defense around it" in line for line in skipped)
    before = run.outcomes
    assert rbl.run_grid(tmp_path / "grid.yaml", out=tmp_path / "run", options=OPTIONS).outcomes.equals(before)
    for name in ("defense.py", "certificate.py", "blobs.py"):
        source = folder / name
        text = source.read_text()
        source.write_text(text + "\n# changed\n")
        with pytest.raises(ConfigError, match=name):
            rbl.run_grid(tmp_path / "grid.yaml", out=tmp_path / "run", options=OPTIONS)
        source.write_text(text)
    assert rbl.run_grid(tmp_path / "grid.yaml", out=tmp_path / "run", options=OPTIONS).outcomes.equals(before)


@pytest.mark.slow
def test_a_module_that_an_attack_imports_is_part_of_the_identity(workplace, tmp_path):
    (tmp_path / "helper.py").write_text("FACTOR = 1.0\n")
    name = write_attack(
        tmp_path / "own.py", "return images + threat.eps * helper.FACTOR", before="import helper\n"
    )
    rbl.run_grid(workplace(name), out="run", options=OPTIONS)
    (tmp_path / "helper.py").write_text("FACTOR = 0.5\n")
    with pytest.raises(ConfigError, match=r"helper\.py"):
        rbl.run_grid(workplace(name), out="run", options=OPTIONS)


@pytest.mark.slow
def test_a_card_of_the_users_names_a_method_from_outside(workplace, tmp_path):
    name = write_attack(tmp_path / "own.py", "return (images + threat.eps * self.strength).clamp(0, 1)")
    card = {
        "schema": 1,
        "kind": "attack",
        "name": "mine",
        "version": 1,
        "description": "Brighter.",
        "source": "me",
        "method": name,
        "parameters": {"strength": 0.5},
        "threat": {"norm": "Linf", "eps": "8/255"},
    }
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.yaml").write_text(yaml.safe_dump(card))
    run = rbl.run_grid(workplace() | {"attacks": ["mine"]}, out="run", options=OPTIONS)
    assert run.results["cells"][0]["status"] == "done"
    assert run.outcomes["linf"].max() == pytest.approx(4 / 255, abs=1e-6)


@pytest.mark.slow
def test_an_attack_has_no_success_by_its_own_word(workplace, tmp_path):
    name = write_attack(tmp_path / "own.py", "return 1 - images")
    outcomes = rbl.run_grid(workplace(name), out="run", options=OPTIONS).outcomes
    assert not outcomes["broken"].any()
    assert set(outcomes["status"]) == {"rejected"}


IMPORTS = {
    "raises": ("raise ValueError('no\\nluck')", "ValueError on import: no"),
    "exits": ("import sys; sys.exit(3)", "SystemExit on import"),
    "leaves": ("import os; os._exit(3)", "its code ended its process with code 3"),
    "dies": ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by signal 15"),
    "hangs": ("import time; time.sleep(600)", "does not come to an end within 2 s"),
    "syntax": ("def (:", "SyntaxError"),
}


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, marks=[pytest.mark.slow] * (fault in {"hangs", "dies"})) for fault in IMPORTS],
)
def test_a_file_that_cannot_be_imported_is_one_line(fault, workplace, tmp_path):
    before, message = IMPORTS[fault]
    name = write_attack(tmp_path / "own.py", before=before + "\n")
    with pytest.raises(ConfigError, match=message) as caught:
        rbl.run_grid(
            workplace(name), out="run", options=replace(OPTIONS, timeout=2 if fault == "hangs" else 60)
        )
    assert "\n" not in str(caught.value)
    assert "own.py" in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("python:missing.py:Own", "no such file"),
        ("python:own.py:Onw", "Did you mean Own"),
        ("python:own.py", "Write python:FILE.py:NAME"),
        ("python:own.py:", "Write python:FILE.py:NAME"),
        ("python:own.py:function", "is a function, not a class of attacks"),
        ("python:own.py:VALUE", "is a int, not a class of attacks"),
        ("python:own.py:Empty", "it lacks estimate_cost, perturb"),
        ("python:own.py:Undecorated", "is no dataclass of its own"),
        ("python:own.py:Wrapper", "the class Wrapper, not a class of attacks"),
        ("python:own.txt:Own", "is not a Python file"),
    ],
)
def test_a_wrong_reference_is_one_line(reference, message, workplace, tmp_path):
    after = """
def function(): pass
VALUE = 3
class Empty(rbl.Attack): pass
class Undecorated(Own):
    more: int = 3
class Wrapper(rbl.FixedWrapper):
    def transform_images(self, images): return images
"""
    write_attack(tmp_path / "own.py", after=after)
    shutil.copy(tmp_path / "own.py", tmp_path / "own.txt")
    with pytest.raises(ConfigError, match=message) as caught:
        rbl.run_grid(workplace(reference), out="run", options=OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strenght": 2}, "Did you mean strength"),
        ({"strength": "much"}, "cannot read the number"),
    ],
)
def test_a_wrong_parameter_is_one_line(changes, message, workplace, tmp_path):
    entry = {"card": write_attack(tmp_path / "own.py"), "norm": "Linf", "eps": 0.1} | changes
    with pytest.raises(ConfigError, match=message):
        rbl.run_grid(workplace() | {"attacks": [entry]}, out="run", options=OPTIONS)


WORK = {
    "raises": ("raise ValueError('no luck')", "ValueError: no luck"),
    "exits": ("sys.exit(3)", r"sys\.exit\(3\)"),
    "leaves": ("os._exit(3)", "code 3"),
    "hangs": ("time.sleep(600)", "no pass finished for 2 s"),
    "returns numpy": ("return images.numpy()", "returned a ndarray, not a tensor"),
    "returns nothing": ("pass", "returned a NoneType, not a tensor"),
    "changes weights": (
        "[p.data.zero_() for p in classifier.module.parameters()]; return images",
        "changed the model's weights",
    ),
    "changes forward": (
        "classifier.module.forward = lambda x: x.flatten(1)[:, :3] * 0; return images",
        "changed the model's forward or hooks",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", WORK)
def test_an_attack_that_fails_at_work_is_an_error_of_its_cell(fault, workplace, tmp_path):
    perturb, message = WORK[fault]
    name = write_attack(tmp_path / "own.py", perturb)
    grid = workplace() | {"attacks": [{"card": name, "norm": "Linf", "eps": 0.1}, "fgsm-linf-8"]}
    run = rbl.run_grid(grid, out="run", options=replace(OPTIONS, timeout=2 if fault == "hangs" else 60))
    own, fgsm = run.results["cells"]
    texts = [str(own["error"]), *map(str, run.outcomes["error"])]
    assert own["status"] in {"error", "timeout", "partial"}
    assert any(re.search(message, text) for text in texts), texts
    assert not run.outcomes[run.outcomes["attack"] == own["attack"]]["broken"].any()
    assert fgsm["status"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("raise KeyError('cost')", "raised KeyError before any image|KeyError"),
        ("sys.exit(4)", r"its code called sys\.exit\(4\)"),
    ],
)
def test_what_fails_while_the_run_is_planned_is_one_line(cost, message, workplace, tmp_path):
    caveat = f"\n    def describe_caveats(self, classifier, threat):\n        {cost}\n"
    name = write_attack(tmp_path / "own.py", after=caveat)
    with pytest.raises(RobustbenchError, match=message) as caught:
        rbl.run_grid(workplace(name), out="run", options=OPTIONS)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ("return 3", "estimate_cost returned 3. Return"),
        ("return (-1, 0)", "estimate_cost returned"),
        ("return ('a', 'b')", "estimate_cost returned"),
        ("raise KeyError('cost')", "raised KeyError before any image"),
    ],
)
def test_a_cost_that_is_none_is_one_line(cost, message, workplace, tmp_path):
    name = write_attack(tmp_path / "own.py", cost=cost)
    with pytest.raises(ConfigError, match=message):
        rbl.run_grid(workplace(name), out="run", options=OPTIONS)


@pytest.mark.slow
def test_parameters_that_cannot_be_written_down_are_one_line(workplace, tmp_path):
    name = write_attack(tmp_path / "own.py", perturb="return images\n    held: object = object()")
    with pytest.raises(ConfigError, match="not plain values"):
        rbl.run_grid(workplace(name), out="run", options=OPTIONS)


CERTIFICATE = """
from dataclasses import dataclass
import torch
import robustbench_local as rbl

@dataclass(frozen=True, kw_only=True)
class Own(rbl.Certificate):
    norms = frozenset({{"Linf"}})
    def certify(self, classifier, images, labels, threat, stream):
        count = len(images)
        with torch.no_grad():
            classifier(images)
        return {returned}
    def estimate_cost(self, threat):
        return 1, 0
"""
CLAIM = (
    "rbl.CertifiedBatch(predictions=labels.cpu(), verified=torch.ones(count{cut}, dtype=torch.bool), "
    "radius=torch.full((count,), {radius}, dtype=torch.float64), "
    "margins=torch.full((count,), torch.nan, dtype=torch.float64))"
)


@pytest.mark.slow
def test_a_claim_that_attacks_contradict_is_reported(workplace, tmp_path):
    claim = CLAIM.format(cut="", radius=1.0)
    (tmp_path / "own.py").write_text(CERTIFICATE.format(returned=claim))
    entry = {"card": "python:own.py:Own", "norm": "Linf", "eps": 0.3}
    run = rbl.run_grid(
        workplace()
        | {"attacks": [entry, "fgsm-linf-8 ".strip(), {"card": "pgd50-linf-8", "steps": 3, "eps": 0.3}]},
        out="run",
        options=OPTIONS,
    )
    cell = run.results["cells"][0]
    assert cell["note"].startswith("claimed by python:own.py:Own, and not verified")
    assert run.outcomes["broken"].any()
    run.report()
    assert "certified" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8").lower()
    assert run.evaluate_gates().violations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("None", "returned a NoneType, not a CertifiedBatch"),
        (CLAIM.format(cut=" + 1", radius=1.0), r"verified must be torch.bool of shape"),
        (CLAIM.format(cut="", radius=-1.0), "negative"),
    ],
)
def test_what_is_no_certified_batch_is_an_error_of_its_cell(returned, message, workplace, tmp_path):
    (tmp_path / "own.py").write_text(CERTIFICATE.format(returned=returned))
    run = rbl.run_grid(workplace("python:own.py:Own"), out="run", options=OPTIONS)
    cell = run.results["cells"][0]
    assert cell["status"] == "error"
    assert re.search(message, cell["error"]), cell["error"]


DATA = {
    "raises": ("raise ValueError('no luck')", "raised ValueError: no luck"),
    "exits": ("raise SystemExit(3)", "raised SystemExit"),
    "returns one": ("return torch.zeros(2, 3, 8, 8)", "returned a Tensor, not a Dataset or a pair"),
    "returns bytes": ("return torch.full((2, 3, 8, 8), 200.0), [0, 1]", "look like 0..255"),
    "returns labels": ("return torch.zeros(2, 3, 8, 8), [0]", "2 images, 1 label"),
}


@pytest.mark.parametrize("fault", DATA)
def test_data_that_cannot_be_used_are_one_line(fault, tmp_path, monkeypatch):
    body, message = DATA[fault]
    (tmp_path / "own.py").write_text(f"import torch\ndef make():\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        rbl.load_dataset("python:own.py:make", allow_code=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(RefusedError, match="would be run as code"):
        rbl.load_dataset("python:own.py:make")


@pytest.mark.slow
def test_a_wrapper_that_makes_no_classifier_is_an_error_of_its_cells(workplace, tmp_path):
    text = (
        "import robustbench_local as rbl\nclass Own(rbl.Wrapper):\n    def wrap(self, classifier): return 3\n"
    )
    (tmp_path / "own.py").write_text(text)
    grid = workplace() | {"defenses": ["none", "python:own.py:Own"]}
    cells = rbl.run_grid(grid, out="run", options=OPTIONS).results["cells"]
    assert [cell["status"] for cell in cells] == ["done", "error"]
    assert "made a int of the model" in cells[1]["error"]


def test_a_call_runs_a_file_only_with_leave(workplace, tmp_path):
    workplace()
    name = write_attack(tmp_path / "own.py", "return (images + threat.eps).clamp(0, 1)")
    classifier = rbl.load_classifier("python:blobs.py:make_linear", allow_code=True)
    data = rbl.load_dataset("python:blobs.py:make_blobs", limit=3, allow_code=True)
    given = {"attack": name, "norm": "Linf", "eps": 0.1}
    with pytest.raises(RefusedError, match="--allow-code"):
        rbl.evaluate(classifier, data, **given)
    assert rbl.evaluate(classifier, data, **given, options=rbl.Options(allow_code=True)).counts.n == 3


@pytest.mark.parametrize(
    ("attacks", "times"),
    [
        (["fgsm-linf-8"], 0),
        (["python:a.py:A", "python:b.py:B"], 1),
    ],
)
def test_libraries_are_imported_once_before_files_are_tried_in_copies_of_the_process(
    monkeypatch, tmp_path, attacks, times
):
    steps = []
    monkeypatch.setattr(outside_code, "import_known_libraries", lambda: steps.append("import"))
    monkeypatch.setattr(outside_code, "call_isolated", lambda *_, **__: steps.append("try"))
    models = [{"id": "a", "source": "zoo:signs-plain"}]
    grid, _ = load_grid({"data": {"source": "signs"}, "models": models, "attacks": attacks})
    outside_code.check_outside_code(grid, [], base_folder=tmp_path, allow_code=True, timeout=None)
    assert steps == ["import"] * times + ["try"] * (len(attacks) if times else 0)
