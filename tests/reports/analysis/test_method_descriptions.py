"""What was tried: in words, with every number, from the run's own records."""

from __future__ import annotations

from dataclasses import replace

from sample_stickers import SampleStickers, build_sticker_run

from robustbench_local.reports.analysis.method_descriptions import (
    DRAWN_SIGNS_NOTE,
    build_method_descriptions,
    describe_images,
)
from robustbench_local.reports.sections.method_section import METHOD
from robustbench_local.reports.sections.report_data import read_report_data
from robustbench_local.store import RunStore


def trial(evidence, name: str):
    return next(one for one in build_method_descriptions(evidence) if one.name == name)


def test_every_attack_is_there_once_with_goal_sight_and_settings(content):
    evidence = content.evidence
    assert [one.name for one in content.get_content(METHOD)] == list(
        dict.fromkeys(cell.record.attack for cell in evidence.cells)
    )
    aimed = trial(evidence, "stop-to-speed-limit")
    assert aimed.goal == "Stop misclassified as one of 8 target classes"
    assert aimed.attacker_knowledge == "the attacker knows: the model and its gradients"
    cell = next(cell for cell in evidence.cells if cell.record.attack == "pgd50-linf-8")
    given = {"method": "pgd", "steps": 50, "restarts": 1, "step_size": None, "random_start": True,
             "early_stop": False, "loss": "ce", "share": 0.123456}  # fmt: skip
    changed = replace(cell, record=replace(cell.record, parameters=given))
    (shown,) = build_method_descriptions(replace(evidence, cells=(changed,)))
    assert shown.goal == "any wrong class"
    assert (
        shown.settings == "method pgd, 50 steps, 1 start, random start, no early stop, loss ce, share 0.1235"
    )


def test_cards_speak_for_themselves_where_the_run_knows_them(content):
    cell = content.evidence.cells[0]
    name = cell.record.card
    card = {"description": "Steps  along\n the <b>gradient</b>.", "source": "A paper, 2018"}
    evidence = replace(content.evidence, card_texts={name: card})
    assert trial(evidence, name).card_description == "Steps along the <b>gradient</b>."

    def about(**changes):
        changed = replace(cell, record=replace(cell.record, **changes))
        (shown,) = build_method_descriptions(replace(evidence, cells=(changed,)))
        return shown.card_description, shown.attacker_knowledge

    words = "Steps along the <b>gradient</b>."
    other = f"Changed from the card {name}, whose description is: {words}"
    known = "the attacker knows: the model and its gradients"
    assert about(attack=f"{name}[steps=3]") == (other, known)
    assert about(attack=f"{name}[naive]", knowledge="naive") == (
        words,
        "the attacker knows: everything except the defense",
    )
    carried = {"knowledge": "transfer", "surrogate": "small"}
    assert about(attack=f"{name}[from=small]", **carried) == (
        words,
        "crafted on small, without access to the model",
    )
    assert about(attack="pgd-linf-3", parameters={"method": name}) == (words, known)
    text = "\n".join(METHOD.to_markdown(build_method_descriptions(evidence), evidence))
    assert "Steps along the &lt;b&gt;gradient&lt;/b&gt;. " in text
    assert "A paper, 2018." in text
    assert f"Seed {evidence.seed}." in text


def test_views_are_told_with_their_units(tmp_path):
    with RunStore.open_readonly(
        build_sticker_run(tmp_path / "run", SampleStickers(models=("signs-plain",)))
    ) as store:
        content = read_report_data(store)
    (cell,) = content.evidence.cells
    ranges = {"distance": [16.0, 64.0], "yaw": 45.0, "gain": [0.6, 1.4], "jpeg": [60.0, 95.0]}
    record = replace(cell.record, parameters={"views": 32, "ranges": ranges}, identity={"test views": "200"})
    (shown,) = build_method_descriptions(replace(content.evidence, cells=(replace(cell, record=record),)))
    assert shown.settings == "32 fresh views a step"
    assert shown.views == (
        "sign 16\N{EN DASH}64 px large, turned sideways by up to 45°, brightness \N{MULTIPLICATION SIGN} "
        "0.6\N{EN DASH}1.4, JPEG quality 60\N{EN DASH}95; evaluated over 200 held-out views of each sign"
    )


def test_images_are_said_to_be_drawn_only_where_they_are(content):
    data = {"name": "signs", "split": "test", "n": 4, "image_shape": [3, 32, 32], "drawn": True}
    told = describe_images(data)
    assert told.startswith("signs; split test; 4 images of 3 \N{MULTIPLICATION SIGN} 32")
    assert told.endswith(DRAWN_SIGNS_NOTE)
    assert DRAWN_SIGNS_NOTE not in describe_images({**data, "drawn": False, "notes": ["stretched"]})
    assert describe_images({}) == ""
    assert DRAWN_SIGNS_NOTE not in "\n".join(
        METHOD.to_markdown(content.get_content(METHOD), content.evidence)
    )
