"""The generated reference covers every card, command, option and key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from gate_runs import make_run
from sample_run import SampleRun, build_run
from sample_stickers import build_sticker_run
from sample_transfers import TRANSFER_SAMPLE

import robustbench_local as rbl
from reference_generator import cards, command_line, grid_schema, policies, python_api, run_files
from reference_generator.docstrings import read_field_docs, read_parameter_docs
from reference_generator.pages import PAGES, write_reference
from robustbench_local.attacks import ATTACKS
from robustbench_local.certification import CERTIFICATES
from robustbench_local.cli.gate_outputs import format_document, judge_run
from robustbench_local.cli.json_events import EVENTS
from robustbench_local.config.cards import list_cards
from robustbench_local.config.gate_policy import Policy
from robustbench_local.defenses.recipes.recipe_registry import RECIPES
from robustbench_local.defenses.wrappers.wrapper_registry import WRAPPERS
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evidence_bundle.make_bundle import read_published_schema
from robustbench_local.evidence_bundle.record_checks import find_schema_problems
from robustbench_local.models.zoo import list_zoo
from robustbench_local.shard import Shard
from robustbench_local.store import RunStore
from robustbench_local.store.shard_record import SHARD_KEY, ShardRecord

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "write_page"),
    [
        ("attack", cards.write_attack_page),
        ("certificate", cards.write_certificate_page),
        ("defense", cards.write_defense_page),
    ],
)
def test_every_card_has_a_row_a_section_and_its_source(kind, write_page):
    page = write_page()
    for card in list_cards(kind):
        assert f"[`{card.name}`](#" in page
        assert f"\n### {card.name}\n" in page
        assert " ".join(card.source.split()).replace("|", "\\|").replace("<", "&lt;") in page


def test_every_zoo_model_has_a_section():
    page = cards.write_zoo_page()
    assert all(f"\n## {name}\n" in page for name in list_zoo())


@pytest.mark.parametrize("registry", [ATTACKS, CERTIFICATES, RECIPES, WRAPPERS], ids=lambda r: r.kind)
def test_every_parameter_of_every_method_is_described(registry):
    for name in registry:
        docs = read_parameter_docs(registry[name])
        fields = {field.name for field in dataclasses.fields(registry[name])} - {"threat"}
        assert fields <= set(docs), f"{name}: {sorted(fields - set(docs))}"


def test_every_command_and_option_is_there_with_its_meaning():
    page = command_line.write_command_page()
    for name, command in command_line.build_command_group().commands.items():
        assert f"\n## rbl {name}\n" in page
        for parameter in command.params:
            if parameter.name != "help":
                assert parameter.help, f"rbl {name} {parameter.name}"
                assert all(f"`{option}`" in page for option in parameter.opts)


def test_every_exit_code_of_an_error_is_explained():
    page = command_line.write_exit_code_page()
    assert all(f"`{code}`" in page for code in (0, 1, 2, 3, 4, 5, 70, 130))


@pytest.mark.parametrize(
    ("root", "write_page"), [(Grid, grid_schema.write_grid_page), (Policy, policies.write_policy_page)]
)
def test_every_key_of_a_file_is_described(root, write_page):
    page = write_page()
    for model in grid_schema.find_models(root):
        docs = read_field_docs(model)
        for name, field in model.model_fields.items():
            assert docs.get(name), f"{model.__name__}.{name} has no description"
            assert f"`{field.alias or name}`" in page


def test_every_key_of_the_verdicts_as_json_is_described_and_there(tmp_path):
    policy = tmp_path / "p.yaml"
    waiver = "{id: a, reason: r, owner: o, expiry: 2020-01-01}"
    gate = "{id: a, metric: clean_accuracy, min: 0}"
    policy.write_text(f"gates: [{gate}]\nwaivers: [{waiver}]\n", encoding="utf-8")
    run = make_run("rb").write_store(tmp_path / "run")
    document = judge_run(run, str(policy), None, fail_on=frozenset(), exit_zero=False)
    content = json.loads(format_document(document, "json"))
    lists = {f"{name}[].{key}" for name in ("gates", "waivers") for key in content[name][0]}
    assert set(policies.read_gate_keys()) == {*content, *lists}


REPEATED = {"metric": "resubmission_success", "threat": "linf-8", "tries": 10, "max": 0.5}


@pytest.fixture(scope="module")
def all_results(tmp_path_factory) -> list[dict]:
    """The shipped results, and those of runs with transfers, distances, corruptions and stickers."""
    folder = tmp_path_factory.mktemp("results")
    shipped = json.loads((ROOT / "reports" / "signs" / "results.json").read_text(encoding="utf-8"))
    runs = [
        rbl.Run(build_run(folder / "beyond", TRANSFER_SAMPLE)),
        rbl.Run(build_sticker_run(folder / "stickers")),
        rbl.Run(
            build_run(
                folder / "random", SampleRun(draws=100, abstains=True, gates=(REPEATED,), has_images=False)
            )
        ),
    ]
    return [shipped, *(run.results for run in runs)]


@pytest.fixture(scope="module")
def result_keys(all_results) -> set[str]:
    return set().union(*map(_list_keys, all_results))


def test_every_key_of_results_json_is_described(result_keys):
    assert result_keys - set(run_files.read_result_keys()) == set()


def test_results_of_all_kinds_are_as_the_published_schema_says(all_results, tmp_path):
    """Stops, twins, goals of targets, adaptive attacks and load tests are checked where their runs are."""
    run = build_run(tmp_path / "shard", SampleRun(images=8, has_images=False))
    with RunStore.create_or_open(run, resolved_yaml="schema: 1\n", identity={"grid": "sample"}) as store:
        store.set_meta(SHARD_KEY, ShardRecord(shard=Shard(2, 8), images=1, of=8).to_json())
    for results in (*all_results, rbl.Run(run).results):
        assert list(find_schema_problems(results)) == []
    wrong = {**all_results[0], "more": 1, "seed": "0"}
    wrong["cells"] = [{**wrong["cells"][0], "status": "finished", "more": 1}]
    problems = "\n".join(find_schema_problems(wrong))
    for place in ("$: ", "$.seed: ", "$.cells[0]: ", "$.cells[0].status: "):
        assert place in problems


def test_the_published_schema_has_the_described_keys_and_says_the_same():
    """Where this fails: docs/reference_generator/results_keys.yaml has the texts; the schema repeats them."""
    described = dict(_list_schema_texts(json.loads(read_published_schema())))
    assert described == run_files.read_result_keys()


def _list_schema_texts(schema: dict, path: str = "") -> Iterator[tuple[str, str]]:
    """The text of each key of a schema by its path."""
    for branch in (schema, *schema.get("anyOf", ())):
        for key, value in branch.get("properties", {}).items():
            here = f"{path}.{key}".lstrip(".")
            if "description" in value:
                yield here, value["description"]
            yield from _list_schema_texts(value, here)
        if "items" in branch:
            yield from _list_schema_texts(branch["items"], f"{path}[]")


def test_no_described_key_of_results_json_is_gone(result_keys):
    """But for goals, adaptive attacks, early stops, shards, twins, load tests and costs: the run has none."""
    absent = ("goals[]", "adaptive_steps[]", "stop.", "shard.", "twins[]", "load_tests[]")
    absent += ("trade_offs[].points[].dominated_by.", "run_costs[]", "batch_sizes[]")
    described = {key for key in run_files.read_result_keys() if not key.startswith(absent)}
    assert described - result_keys == set()


def _list_keys(results: dict) -> set[str]:
    """The keys of the first two levels, and those of the mappings that are not described as a whole."""
    keys = set(results)
    for name, content in results.items():
        if name in {"environment", "data", "models", "severity", "grid"}:
            continue
        entries = content if isinstance(content, list) else [content]
        head = f"{name}[]" if isinstance(content, list) else name
        keys |= {f"{head}.{key}" for entry in entries if isinstance(entry, dict) for key in entry}
    for cell in results["cells"]:
        for name in ("counts", "distance", "severity"):
            keys |= {f"cells[].{name}.{key}" for key in cell.get(name) or {}}
    for table in results["classes"]:
        keys |= {f"classes[].confusion.{key}" for key in table["confusion"]}
    for card in results["threat_models"]:
        for name in ("queries", "images"):
            keys |= {f"threat_models[].{name}.{key}" for key in card[name] or {}}
    rows = [row for table in results["classes"] for row in table["classes"]]
    lists = {
        "classes[].classes": rows,
        "classes[].classes[].attacks": [attack for row in rows for attack in row["attacks"]],
        "worst_case[].phases": [phase for worst in results["worst_case"] for phase in worst["phases"]],
        "gates.verdicts": results["gates"]["verdicts"],
        "trade_offs[].points": [point for one in results["trade_offs"] for point in one["points"]],
        "diagnostics.results": results["diagnostics"]["results"],
    }
    return keys | {f"{name}[].{key}" for name, entries in lists.items() for entry in entries for key in entry}


def test_every_column_and_every_public_name_is_there():
    page = run_files.write_outcomes_page()
    columns = (
        *run_files.OUTCOME_COLUMNS,
        *run_files.VIEW_CSV_COLUMNS,
        *run_files.CLASS_COLUMNS,
        *run_files.CONFUSION_COLUMNS,
    )
    assert all(f"`{name}`" in page for name in columns)
    python = python_api.write_python_page()
    assert all(name == "__version__" or f"robustbench_local.{name}" in python for name in rbl.__all__)


def test_every_object_of_json_lines_is_there_with_its_keys():
    page = run_files.write_json_lines_page()
    for event, keys in EVENTS.items():
        section = page.split(f"\n## {event}\n")[1].split("\n## ")[0]
        assert all(f"`{key}`" in section for key in keys if key != "*"), event
    assert "All keys of `results.json`." in page


def test_pages_are_written_once_and_stale_ones_removed(tmp_path):
    (tmp_path / "old.md").write_text("", encoding="utf-8")
    write_reference(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"index", *PAGES}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    write_reference(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
