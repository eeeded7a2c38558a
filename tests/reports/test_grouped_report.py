"""A run whose images come in groups: every interval of an accuracy is over groups, in every form."""

from __future__ import annotations

import pytest
from sample_run import SampleRun, build_run
from sample_transfers import TRANSFER_SAMPLE

from robustbench_local.reports.analysis.gates import judge_store
from robustbench_local.reports.analysis.read_run import read_evidence
from robustbench_local.reports.summary import headline
from robustbench_local.reports.writers.results_json import load_results
from robustbench_local.store import RunStore
from robustbench_local.store.image_groups import GROUPS_KEY

GROUP_SIZE = 8


REJECTING_AND_RANDOM = SampleRun(has_images=False, abstains=True, draws=100)


@pytest.fixture(scope="module", params=[REJECTING_AND_RANDOM, TRANSFER_SAMPLE], ids=["attacks", "beyond"])
def stores(request, tmp_path_factory):
    """The run twice: with independent images, and in groups of eight in a row."""
    run = build_run(tmp_path_factory.mktemp("grouped") / "run", request.param)
    with RunStore.open_readonly(run) as store:
        identity = store.read_identity()
        names = {row.image for cell in store.read_cells() for row in store.read_outcomes(cell.key)}
        before = load_results(store)
    groups = {image: f"g{position // GROUP_SIZE}" for position, image in enumerate(sorted(names))}
    with RunStore.create_or_open(
        run, resolved_yaml=(run / "run.yaml").read_text(), identity=identity
    ) as store:
        store.set_meta(GROUPS_KEY, groups)
        yield before, store


def _list_shares(content, path=""):
    if isinstance(content, dict):
        if {"value", "low", "high", "n"} <= set(content) and content["n"]:
            yield path, content
        for key, value in content.items():
            yield from _list_shares(value, f"{path}.{key}")
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _list_shares(value, f"{path}[{number}]")


def test_every_share_of_images_is_over_groups(stores):
    before, store = stores
    independent, grouped = dict(_list_shares(before)), dict(_list_shares(load_results(store)))
    assert len(grouped) > 20
    for path, share in grouped.items():
        assert share.get("groups"), path
        assert (share["value"], share["n"]) == (independent[path]["value"], independent[path]["n"]), path
        if "worst_class" not in path and ".mean" not in path:
            assert share["low"] <= independent[path]["low"] + 1e-9, path
            assert share["high"] >= independent[path]["high"] - 1e-9, path


def test_comparisons_are_over_groups(stores):
    before, store = stores
    for pair, independent in zip(load_results(store)["comparisons"], before["comparisons"], strict=True):
        assert pair["n"] == independent["n"]
        assert pair["p_value"] >= independent["p_value"] - 1e-9
    sentences = headline.describe_comparisons(read_evidence(store))
    assert all("exact McNemar" not in sentence for sentence in sentences)


def test_the_answer_and_gates_say_how_many_groups(stores):
    _, store = stores
    evidence = read_evidence(store)
    assert " groups)" in headline.describe_answer(evidence)
    gate = {"metric": "robust_accuracy", "threat": "linf-8", "min": 0.0, "trust": "ignore"}
    verdicts = judge_store(store, [gate]).verdicts
    assert verdicts
    assert all(verdict.estimate.groups and "groups)" in verdict.reason for verdict in verdicts)
