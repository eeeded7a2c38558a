"""Goals of a grid: from some classes to others, each target alone, one goal for every attack."""

from __future__ import annotations

import numpy as np
import pytest

import robustbench_local as rbl
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.grid.card_lookup import find_cards_per_target, find_method_cards
from robustbench_local.evaluation.grid.schema import load_grid
from robustbench_local.evaluation.planning.goal import describe_goals, override_goal
from robustbench_local.run import prepare_run
from robustbench_local.store.run_store import RunStore

SIGNS = {
    "data": {"source": "signs", "limit": 43},
    "models": [{"id": "plain", "source": "zoo:signs-plain"}],
}


def grid(*attacks, **more):
    return load_grid({**SIGNS, **more, "attacks": list(attacks)})[0]


def plan(*attacks, **more):
    return prepare_run(
        grid(*attacks), out="unused", options=rbl.Options(device="cpu", **more), is_dry_run=True
    )[0]


class TestEachTarget:
    def test_the_goal_itself_comes_first_then_each_class_alone_for_every_radius(self):
        cards = find_cards_per_target(
            "fgsm-linf-8", {"eps": ["2/255", "8/255"], "targets": ["Yield", 3], "sources": [14]}
        )
        assert [(card.threat.eps * 255, card.threat.targets) for card in cards] == [
            (2, ("Yield", 3)), (2, ("Yield",)), (2, (3,)),
            (8, ("Yield", 3)), (8, ("Yield",)), (8, (3,)),
        ]  # fmt: skip
        assert len({card.name for card in cards}) == 6
        assert {card.threat.sources for card in cards} == {(14,)}

    def test_the_stop_card_gives_nine_cells_on_the_same_images(self):
        made = plan({"card": "stop-to-speed-limit-linf-8", "each_target": True})
        assert [cell.record.targets for cell in made.cells] == [
            (0, 1, 2, 3, 4, 5, 7, 8), (0,), (1,), (2,), (3,), (4,), (5,), (7,), (8,),
        ]  # fmt: skip
        assert len({tuple(cell.positions.tolist()) for cell in made.cells}) == 1
        assert len({cell.record.key for cell in made.cells}) == 9

    @pytest.mark.parametrize("card", ["fgsm-linf-8", "certify-ibp-linf-1"])
    def test_a_goal_without_two_targets_has_none_to_try_alone(self, card):
        with pytest.raises(ConfigError, match="has no two target classes"):
            find_cards_per_target(card, {})

    def test_the_choice_is_written_down(self):
        one = grid({"card": "stop-to-speed-limit-linf-8", "each_target": True})
        assert one.dump_resolved()["attacks"][0]["each_target"] is True


class TestConfine:
    def test_every_attack_gets_the_goal_and_certificates_and_corruptions_only_the_sources(self):
        confined = override_goal(grid("fgsm-linf-8", "certify-ibp-linf-1", "fog-3"), ["Stop"], ["Yield"])
        assert [entry.overrides for entry in confined.attacks] == [
            {"sources": ["Stop"], "targets": ["Yield"]},
            {"sources": ["Stop"]},
            {"sources": ["Stop"]},
        ]

    def test_what_is_not_said_stays_with_the_card(self):
        stop = grid({"card": "stop-to-speed-limit-linf-8", "steps": 3, "limit": 5})
        (entry,) = override_goal(stop, [], ["Yield"]).attacks
        (card,) = find_method_cards(entry.card, entry.overrides)
        assert (card.threat.sources, card.threat.targets) == (("Stop",), ("Yield",))
        assert (card.parameters["steps"], entry.limit) == (3, 5)
        assert override_goal(stop, [], []) is stop

    def test_one_target_has_no_others_to_be_tried_beside(self):
        stop = grid({"card": "stop-to-speed-limit-linf-8", "each_target": True})
        assert override_goal(stop, [], ["Yield"]).attacks[0].each_target is False
        assert override_goal(stop, [], ["Yield", "Stop"]).attacks[0].each_target is True

    def test_the_plan_names_the_classes_so_that_an_id_off_by_one_is_seen(self):
        # 12 is what a list counted from 1 calls the sign that is number 13 here
        confined = plan("fgsm-linf-8", sources=[14], targets=[12])
        assert list(describe_goals(confined.cells)) == ["14 Stop -> 12 Priority road"]
        assert confined.cells[0].record.attack == "fgsm-linf-8[targets=12,sources=14]"
        only = plan("fgsm-linf-8", sources=["stop"])
        assert list(describe_goals(only.cells)) == ["only images of 14 Stop"]

    def test_a_goal_that_is_part_of_another_is_not_told_again(self):
        made = plan({"card": "stop-to-speed-limit-linf-8", "each_target": True}, "fgsm-linf-8")
        (line,) = describe_goals(made.cells)
        assert line.startswith("14 Stop -> any of 0 Speed limit (20km/h), 1 Speed limit (30km/h)")

    @pytest.mark.parametrize(
        ("goal", "words"),
        [
            ({"sources": [43]}, "there is no class 43: the classes are 0 to 42"),
            ({"targets": ["-1"]}, "there is no class '-1'"),
            ({"targets": ["Yeild"]}, "Did you mean Yield"),
            ({"sources": ["Speed limit"]}, "ambiguous: 0 Speed limit"),
        ],
    )
    def test_a_class_that_does_not_exist_is_one_line(self, goal, words):
        with pytest.raises(ConfigError) as caught:
            plan("fgsm-linf-8", **goal)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_confined_run_attacks_only_these_images_and_counts_only_these_targets(workplace):
    counts = np.bincount(np.load("digits.npz")["y"], minlength=10)
    source, target = (int(label) for label in counts.argsort()[::-1][:2])
    run = rbl.run_grid(
        "grid.yaml",
        out="runs/pair",
        options=rbl.Options(sources=[source], targets=[str(target)], batch_size=16),
    )
    assert run.is_complete
    with RunStore.open_readonly(run.directory) as store:
        cells = store.read_cells()
        rows = [row for cell in cells for row in store.read_outcomes(cell.key)]
    assert {(cell.sources, cell.targets) for cell in cells} == {((source,), (target,))}
    assert {row.label for row in rows} == {source}
    assert len(rows) == len(cells) * counts[source]
    assert {row.adversarial_prediction for row in rows if row.broken} <= {target}
