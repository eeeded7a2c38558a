"""``rbl export``: vector figures, model cards, RobustBench entries, and the files themselves."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import yaml
from sample_run import HOSTILE_MODELS, SampleRun, build_run

from robustbench_local.cli.main import run_command
from robustbench_local.errors import ConfigError, InvariantError, RefusedError
from robustbench_local.reports.exports import export_files
from robustbench_local.reports.exports.export_files import EXPORT_FORMATS, write_exports
from robustbench_local.reports.exports.file_slugs import make_slugs
from robustbench_local.reports.exports.model_card import write_model_cards
from robustbench_local.reports.exports.model_figures import list_model_figures
from robustbench_local.reports.exports.robustbench_entries import write_robustbench_entries
from robustbench_local.reports.exports.vector_figures import draw_vector_figures
from robustbench_local.store import RunStore
from robustbench_local.store.diagnostic_records import DiagnosticResult, DiagnosticsRecord

ROBUSTBENCH_KEYS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture",
    "eps", "clean_acc", "reported", "autoattack_acc", "unreliable", "footnote",
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "slugs"),
    [
        (["ResNet-50 + JPEG", "ResNet 50 (JPEG)"], ["resnet-50-jpeg", "resnet-50-jpeg-2"]),
        (["../../etc/passwd", "", "模型"], ["etc-passwd", "model", "model-2"]),
        (["a-2", "a", "a"], ["a-2", "a", "a-3"]),
        (["x" * 300], ["x" * 60]),
    ],
)
def test_file_names_are_plain_and_never_equal(names, slugs):
    assert make_slugs(names) == slugs


@pytest.mark.slow
def test_figures_are_the_same_bytes_twice_and_hold_no_photographs(content):
    first, second = draw_vector_figures(content), draw_vector_figures(content)
    assert first == second
    names = {name.rpartition(".")[0] for name in first}
    assert names == {name.rpartition(".")[0] for name in first if name.endswith(".svg")}
    assert "robust-accuracy" in names
    assert not any("examples" in name for name in names)
    for name, file in first.items():
        if name.endswith(".svg"):
            assert ET.fromstring(file).tag.endswith("svg")
        else:
            assert file.startswith(b"%PDF")
            assert b"/Type3" not in file


def read_metadata(card: str):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_has_the_shares_of_its_model_with_n_and_interval(content):
    cards = write_model_cards(content)
    assert list(cards) == ["model-card-signs-plain.md", "model-card-signs-pgd-at.md"]
    for subject, card in zip(content.evidence.subjects, cards.values(), strict=True):
        figures = list_model_figures(content.evidence, subject)
        (index,) = read_metadata(card)["model-index"]
        (result,) = index["results"]
        assert index["name"] == str(subject)
        stated = [figure for figure in figures if figure.estimate.is_known and not figure.is_void]
        assert [metric["value"] for metric in result["metrics"]] == [
            round(figure.estimate.value, 6) for figure in stated
        ]
        for metric, figure in zip(result["metrics"], stated, strict=True):
            low, high = metric["args"]["confidence_interval"]
            assert low <= metric["value"] <= high
            assert metric["args"]["n"] == figure.estimate.n
        assert "## Adversarial robustness" in card
        assert "required" in card  # the gate
    missing = [
        figure
        for figure in list_model_figures(content.evidence, content.evidence.subjects[0])
        if figure.status_text
    ]
    assert missing
    assert "so it may be too high" in cards["model-card-signs-plain.md"]


def test_a_void_number_is_in_no_metadata(read_content, tmp_path):
    block = DiagnosticResult(
        id="D2", name="a check", model="signs-plain", defense="none", threat=None, status="block",
        sentence="Answers depend on the batch.", action="Mend it.",
    )  # fmt: skip
    diagnostics = DiagnosticsRecord(results=(block,), passes=1, planned_passes=100).to_json()
    sample = SampleRun(models=("signs-plain",), has_images=False, diagnostics=diagnostics)
    content = read_content(build_run(tmp_path / "run", sample))
    for card in write_model_cards(content).values():
        metrics = read_metadata(card)["model-index"][0]["results"][0]["metrics"]
        assert [metric for metric in metrics if metric["args"]["metric"] == "robust_accuracy"] == []
        assert "no number" in card
        assert "void (D2)" in card


@pytest.mark.extra
def test_hugging_face_reads_the_cards(content, hostile, read_content):
    hub = pytest.importorskip("huggingface_hub", reason="needs robustbench_local[hf]")
    for one in (content, read_content(hostile.run_dir)):
        for subject, text in zip(one.evidence.subjects, write_model_cards(one).values(), strict=True):
            card = hub.ModelCard(text)
            figures = list_model_figures(one.evidence, subject)
            assert len(card.data.eval_results) == sum(
                figure.estimate.is_known and not figure.is_void for figure in figures
            )
            assert all(result.task_type == "image-classification" for result in card.data.eval_results)


def test_hostile_names_stay_text_in_a_card(hostile, read_content):
    cards = write_model_cards(read_content(hostile.run_dir))
    assert len(cards) == len(HOSTILE_MODELS)
    for card in cards.values():
        read_metadata(card)
        section = card.partition("## Adversarial robustness")[2]
        assert "<script>" not in section
        assert "\u202e" not in card


def name_version(cell):
    standard = {"method": "autoattack", "version": "standard"}
    is_autoattack = cell.record.card.startswith("autoattack")
    return replace(cell, record=replace(cell.record, parameters=standard)) if is_autoattack else cell


def test_an_entry_has_the_keys_of_robustbench_and_the_numbers_of_autoattack(content):
    assert not write_robustbench_entries(content.evidence)  # its cells do not name their version
    evidence = replace(content.evidence, cells=tuple(map(name_version, content.evidence.cells)))
    entries = write_robustbench_entries(evidence)
    assert entries
    done = [
        cell
        for cell in evidence.cells
        if cell.is_done and cell.record.parameters.get("version") == "standard"
    ]
    assert len(entries) == len(done)
    for text, cell in zip(entries.values(), done, strict=True):
        entry = json.loads(text)
        assert entry.keys() - {"external"} == ROBUSTBENCH_KEYS
        assert entry["autoattack_acc"] == f"{100 * cell.robust_accuracy.value:.2f}"
        assert f"n = {cell.robust_accuracy.n}" in entry["footnote"]
        worst = evidence.get_worst_case(cell.subject, cell.threat)
        robust = sum(worst.any_attack_verdicts[image].robust for image in cell.verdicts)
        is_lower = robust < cell.tally.robust
        assert ("external" in entry) == is_lower


def test_all_forms_are_written_and_the_same_bytes_again(sample, tmp_path, capsys):
    forms = ("latex", "model-card", "robustbench")  # figures have a test of their own
    options = [word for form in forms for word in ("--format", form)]
    assert run_command(["export", str(sample.run_dir), "--out", str(tmp_path / "out"), *options]) == 0
    printed = capsys.readouterr().out.split("\n")[:-1]
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {line.rpartition("/")[2] for line in printed} == files.keys()
    assert {name.rpartition(".")[2] for name in files} == {"tex", "md"}
    paths = write_exports(sample.run_dir, tmp_path / "again", forms)
    again = {path.name: path.read_bytes() for path in paths}
    assert again == files
    assert list(EXPORT_FORMATS) == ["latex", "figures", "model-card", "robustbench"]


def test_bad_input_is_named(sample, tmp_path):
    with pytest.raises(ConfigError, match=r"unknown format 'latx'\. Did you mean latex\?"):
        write_exports(sample.run_dir, tmp_path, ["latx"])
    with pytest.raises(ConfigError):
        write_exports(tmp_path / "none", tmp_path / "out")
    with RunStore.create_or_open(tmp_path / "empty", resolved_yaml="", identity={}):
        pass
    with pytest.raises(ConfigError, match="the run has no outcome yet"):
        write_exports(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "robust-accuracy.tex").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match="symbolic link"):
        write_exports(sample.run_dir, tmp_path, ["latex"])
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_exported_where_an_attack_contradicts_a_certificate(
    content, sample, tmp_path, monkeypatch
):
    report = replace(content.gate_report, violations=("image 7",))
    violated = replace(content, gate_report=report)
    monkeypatch.setattr(export_files, "read_report_data", lambda store: violated)
    with pytest.raises(InvariantError, match="certificate violated"):
        write_exports(sample.run_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()
