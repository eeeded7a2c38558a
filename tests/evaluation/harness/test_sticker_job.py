"""Signs with stickers before the camera: every look is kept, and the verdict follows from the looks."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from viewing_samples import (
    BLUE,
    GREEN,
    RED,
    SIDE_PIXELS,
    STICKER,
    TEST_VIEWS,
    CheatingControlAttack,
    ColourNetwork,
    OutsidePaintingAttack,
    PaintingAttack,
    RaisingAttack,
    find_view_predictions,
    make_colour_classifier,
    make_signs,
    make_sticker_job,
    run_job,
)

from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.cli.progress_text import format_cell_result
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.evaluate import evaluate
from robustbench_local.evaluation.grid.schema import Grid
from robustbench_local.evaluation.harness import sticker_job
from robustbench_local.evaluation.harness.job import AttackFailedError
from robustbench_local.evaluation.harness.outcome import hash_image
from robustbench_local.evaluation.harness.sticker_job import list_controls
from robustbench_local.evaluation.options import Options
from robustbench_local.evaluation.planning.planner import make_plan
from robustbench_local.run import run_grid
from robustbench_local.store import RunStore, count_outcomes
from robustbench_local.store.records import MIN_CLEAN_SHARE
from robustbench_local.threats.physical.printability import compute_non_printability, compute_total_variation
from robustbench_local.threats.physical.relighting import remove_lighting
from robustbench_local.threats.physical.sticker_mask import build_surface_masks
from robustbench_local.threats.threat_model import ThreatModel


@pytest.fixture
def classifier() -> Classifier:
    return make_colour_classifier()


@pytest.fixture(scope="module")
def batch():
    return run_job(make_sticker_job(make_colour_classifier()))


def test_every_condition_is_looked_at_in_the_same_views(batch):
    expected = {
        (position, condition, kind)
        for position in range(2)
        for condition, kind in [
            ("clean", "view"), ("sticker", "view"), ("random-colours", "view"), ("without-views", "view"),
            ("whole-sign", "view"), ("no-size", "view"), ("clean", "approach"), ("sticker", "approach"),
        ]
    }  # fmt: skip
    assert {(one.position, one.condition, one.kind) for one in batch.view_predictions} == expected
    lengths = {one.kind: len(one.predictions) for one in batch.view_predictions}
    assert lengths == {"view": TEST_VIEWS, "approach": 60}
    assert {(one.position, one.kind): len(one.distance) for one in batch.views} == {
        (position, kind): length for position in range(2) for kind, length in lengths.items()
    }
    assert all(0 < value <= 1 for one in batch.view_predictions for value in one.confidences)


def test_views_depend_on_seed_and_image_alone(classifier, batch):
    first = batch
    other = run_job(
        make_sticker_job(classifier, attack=PaintingAttack(views=9), threat=replace(STICKER, eps=0.1))
    )
    alone = run_job(make_sticker_job(classifier, data=make_signs().select_images([1])))
    assert first.views == other.views
    assert [one.predictions for one in first.view_predictions if one.condition == "clean"] == [
        one.predictions for one in other.view_predictions if one.condition == "clean"
    ]
    assert {one.yaw for one in alone.views} == {one.yaw for one in first.views if one.position == 1}
    assert (
        find_view_predictions(alone, 0, "random-colours").predictions
        == find_view_predictions(first, 1, "random-colours").predictions
    )
    assert run_job(make_sticker_job(classifier, data=make_signs(1), seed=6)).views != first.views


def test_batches_do_not_matter(classifier, batch):
    together, apart = batch, run_job(make_sticker_job(classifier), 9)
    assert set(together.view_predictions) == set(apart.view_predictions)
    assert [replace(row, seconds=0) for row in together.outcomes] == [
        replace(row, seconds=0) for row in apart.outcomes
    ]


def test_a_sign_is_broken_if_more_than_half_of_its_views_are(classifier, batch):
    for row in batch.outcomes:
        clean, seen = (
            find_view_predictions(batch, row.position, one).predictions for one in ("clean", "sticker")
        )
        right = [read for before, read in zip(clean, seen, strict=True) if before == RED]
        assert len(right) >= MIN_CLEAN_SHARE * TEST_VIEWS
        assert row.broken == (sum(read == GREEN for read in right) > len(right) / 2)
        assert row.adversarial_prediction == GREEN
        assert row.clean_prediction == RED
    assert all(row.broken and row.broken_8bit and row.status == "ok" for row in batch.outcomes)
    assert (
        run_job(make_sticker_job(classifier, data=make_signs(1), threat=replace(STICKER, eps=0.05)))
        .outcomes[0]
        .broken
        is False
    )


def test_controls_tell_the_sticker_from_chance_and_from_no_views(classifier):
    batch = run_job(make_sticker_job(classifier, data=make_signs(1)))
    hits = {
        condition: sum(read == GREEN for read in find_view_predictions(batch, 0, condition).predictions)
        for condition in ("clean", "no-size", "sticker", "random-colours", "without-views", "whole-sign")
    }
    assert hits["clean"] == hits["no-size"] == hits["without-views"] == 0
    assert (
        find_view_predictions(batch, 0, "no-size").confidences
        == find_view_predictions(batch, 0, "clean").confidences
    )
    assert hits["random-colours"] < hits["sticker"] <= hits["whole-sign"] == TEST_VIEWS


def test_a_sticker_of_no_size_is_the_clean_sign(classifier):
    batch = run_job(make_sticker_job(classifier, threat=replace(STICKER, eps=0.0)))
    for kind in ("view", "approach"):
        clean, seen = (find_view_predictions(batch, 1, condition, kind) for condition in ("clean", "sticker"))
        assert (seen.predictions, seen.confidences) == (clean.predictions, clean.confidences)
    assert not any(row.broken for row in batch.outcomes)
    assert batch.candidates.equal(make_signs().images)


def test_a_sign_that_is_misread_from_some_places_is_void(classifier):
    class Farsighted(ColourNetwork):
        def forward(self, images):
            logits = super().forward(images)
            dark = images.mean(dim=(1, 2, 3)) < 0.3
            return torch.where(dark[:, None], logits.flip(1), logits)

    batch = run_job(make_sticker_job(Classifier(Farsighted(), num_classes=3, name="farsighted")))
    (row, *_) = batch.outcomes
    share = sum(read == RED for read in find_view_predictions(batch, 0, "clean").predictions) / TEST_VIEWS
    assert 0 < share < MIN_CLEAN_SHARE
    assert (row.status, row.clean_correct, row.broken) == ("void", False, False)
    assert row.error == f"{100 * share:.1f}% of its clean views are classified correctly; 95% are needed"


def test_a_sign_that_is_misread_untouched_is_not_looked_at(classifier):
    data = make_signs()
    data.labels[1] = BLUE
    batch = run_job(make_sticker_job(classifier, data=data))
    assert [row.status for row in batch.outcomes] == ["ok", "clean-wrong"]
    assert {one.position for one in batch.view_predictions} == {0}
    assert set(batch.report_images) == {0}


def test_a_sticker_that_leaves_its_place_is_no_success(classifier):
    batch = run_job(make_sticker_job(classifier, attack=OutsidePaintingAttack(views=4)))
    for row in batch.outcomes:
        assert (row.status, row.broken, row.linf) == ("rejected", False, 0.0)
        assert row.error == "pixels outside the sticker's surface are changed"
        assert (
            find_view_predictions(batch, row.position, "sticker").predictions
            == find_view_predictions(batch, row.position, "clean").predictions
        )


def test_a_sign_whose_attack_raises_keeps_its_clean_reading_and_its_passes(classifier):
    batch = run_job(make_sticker_job(classifier, data=make_signs(3), attack=RaisingAttack(views=4)))
    assert [row.status for row in batch.outcomes] == ["ok", "error", "ok"]
    stranded = batch.outcomes[1]
    assert (stranded.clean_correct, stranded.clean_prediction, stranded.broken) == (True, RED, False)
    assert stranded.error == "ValueError: no colours left"
    assert stranded.forward_passes == 2  # the clean reading, and the attack's own look
    assert {one.position for one in batch.view_predictions} == {0, 2}


def test_a_control_that_breaks_a_rule_is_not_looked_at_and_says_so(classifier, batch):
    cheated = run_job(make_sticker_job(classifier, attack=CheatingControlAttack(views=4)))
    assert [row.status for row in cheated.outcomes] == ["ok", "ok"]
    assert [row.error for row in cheated.outcomes] == [
        None,
        "control without-views: pixels outside the sticker's surface are changed",
    ]
    assert find_view_predictions(cheated, 0, "without-views") == find_view_predictions(
        batch, 0, "without-views"
    )
    assert find_view_predictions(cheated, 1, "without-views").predictions == ()
    assert find_view_predictions(cheated, 1, "without-views").confidences == ()
    assert all(len(one.predictions) for one in cheated.view_predictions if one.condition != "without-views")
    assert [row.broken for row in cheated.outcomes] == [row.broken for row in batch.outcomes]


def test_no_control_of_a_sticker_that_breaks_a_rule_is_called_kept(classifier):
    batch = run_job(make_sticker_job(classifier, attack=OutsidePaintingAttack(views=4)))
    for condition in ("random-colours", "without-views", "whole-sign"):
        assert find_view_predictions(batch, 0, condition).predictions == ()


def test_answers_that_are_not_finite_are_kept_as_such():
    class Blind(ColourNetwork):
        def forward(self, images):
            logits = super().forward(images)
            return logits.masked_fill((logits.argmax(dim=1) == GREEN)[:, None], torch.nan)

    batch = run_job(make_sticker_job(Classifier(Blind(), num_classes=3, name="blind")))
    seen = find_view_predictions(batch, 0, "whole-sign")
    assert set(seen.predictions) == set(seen.confidences) == {None}
    assert not batch.outcomes[0].broken
    assert batch.outcomes[0].adversarial_prediction is None


def test_a_patch_stands_beside_the_sign_and_is_the_same_for_all(classifier):
    threat = ThreatModel(norm="patch", eps=0.3, targets=(GREEN,))
    batch = run_job(make_sticker_job(classifier, threat=threat))
    assert {one.condition for one in batch.view_predictions} == {
        "clean",
        "sticker",
        "random-colours",
        "without-views",
    }
    data = make_signs()
    assert batch.candidates.masked_select(data.masks).equal(data.images.masked_select(data.masks))
    assert not batch.candidates.equal(data.images)


def test_pictures_are_what_the_model_saw(batch):
    kept = batch.report_images[0]
    assert kept["photographs"].shape == (8, 3, SIDE_PIXELS, SIDE_PIXELS)
    assert kept["frames"].shape == (12, 3, SIDE_PIXELS, SIDE_PIXELS)
    assert kept["frame_numbers"].tolist()[::11] == [0, 59]
    seen = find_view_predictions(batch, 0, "sticker").predictions
    read = ColourNetwork()(torch.from_numpy(kept["photographs"]).float() / 255).argmax(dim=1).tolist()
    assert read == [seen[number] for number in kept["photograph_numbers"]]


@pytest.mark.parametrize(
    ("views", "threat", "names"),
    [
        (4, STICKER, ["no-size", "without-views", "whole-sign"]),
        (0, STICKER, ["no-size", "whole-sign"]),
        (4, replace(STICKER, eps=0.0), ["without-views", "whole-sign"]),
        (4, ThreatModel(norm="sticker", eps=1, transformation="poster"), ["no-size", "without-views"]),
        (4, ThreatModel(norm="patch", eps=0.1), ["without-views"]),
    ],
)
def test_only_controls_that_differ_from_the_attack_are_made(views, threat, names):
    found = list_controls(PaintingAttack(views=views), threat)
    assert [condition for condition, _, _ in found] == names
    assert all(attack.views == 0 for condition, attack, _ in found if condition == "without-views")
    painted = [(attack.steps, whole.eps) for condition, attack, whole in found if condition == "whole-sign"]
    assert painted in ([], [(100, 1.0)])


def test_evaluate_gives_the_share_of_views_and_every_look(classifier):
    result = evaluate(
        classifier, make_signs(), attack=PaintingAttack(views=4),
        norm="sticker", eps=0.4, transformation="rectangles",
        targets=["green"], test_views=TEST_VIEWS, seed=5,
    )  # fmt: skip
    table = result.view_predictions
    assert len(table) == 2 * (6 * TEST_VIEWS + 2 * 60)
    shown = table[table["kind"] == "view"].set_index(["condition", "position", "number"])["prediction"]
    right = shown["clean"] == RED
    hits = (shown["sticker"] == GREEN) & right
    assert (result.sticker_success.count, result.sticker_success.n) == (hits.sum(), right.sum())
    assert 0 < result.sticker_success.value <= 1
    assert "sticker_success=" in repr(result)
    cheated = evaluate(
        classifier, make_signs(), attack=CheatingControlAttack(views=4),
        norm="sticker", eps=0.4, transformation="rectangles",
        targets=["green"], test_views=TEST_VIEWS, seed=5,
    )  # fmt: skip
    assert len(cheated.view_predictions) == len(table) - TEST_VIEWS
    assert cheated.sticker_success == result.sticker_success
    assert not evaluate(
        classifier, make_signs(), attack="fgsm", norm="Linf", eps=0.1
    ).sticker_success.is_known
    with pytest.raises(ConfigError, match="evaluated on its own model only"):
        evaluate(
            classifier, make_signs(), attack=PaintingAttack(),
        norm="sticker", eps=0.4, transformation="rectangles",
            surrogate=make_colour_classifier(),
        )  # fmt: skip


GRID = {
    "schema": 1,
    "data": {"source": "signs", "split": "test", "limit": 40},
    "models": [{"id": "plain", "source": "zoo:signs-plain"}],
    "attacks": [
        {
            "card": "sticker-10",
            "limit": 1,
            "test_views": 8,
            "steps": 2,
            "views": 2,
            "place_steps": 1,
            "layout_steps": 1,
        }
    ],
    "gates": [{"metric": "sticker_success", "threat": "sticker-10", "max": 0.01}],
}


@pytest.mark.slow
def test_a_grid_with_a_sticker_runs_once_and_reports(tmp_path):
    run = run_grid(GRID, out=tmp_path / "run")
    (cell,) = run.results["cells"]
    assert (cell["status"], cell["n"], cell["measure"], cell["goal"]) == ("done", 1, "views", "targeted")
    assert cell["identity"]["test views"] == "8"
    planned = make_plan(Grid.model_validate(GRID), Options(), base_folder=tmp_path, is_dry_run=True).cells[0]
    assert 0 < cell["forward_passes"] <= planned.max_passes[0]
    assert cell["backward_passes"] <= planned.max_passes[1]
    before = (tmp_path / "run" / "run.db").read_bytes()
    assert run_grid(GRID, out=tmp_path / "run").is_complete
    with RunStore.open_readonly(tmp_path / "run") as store:
        assert len(store.read_view_predictions(cell["key"])) == 8
        told = format_cell_result(planned, count_outcomes(store.read_outcomes(cell["key"])))
        assert re.match(
            r"\d of \d signs? misclassified in most of their views(, 1 excluded)?, [\d,]+ passes", told
        )
        assert store.load_arrays(cell["key"]).keys() >= {"photographs", "frames", "original", "adversarial"}
    assert len(before) == (tmp_path / "run" / "run.db").stat().st_size
    assert [verdict.gate.metric for verdict in run.evaluate_gates().verdicts] == ["sticker_success"]
    assert "Stickers" in run.report().read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"card": "pgd50-linf-8", "test_views": 9}, "'pgd50-linf-8' has no views to test"),
        ({"card": "sticker-10", "transfer_from": "plain"}, "'sticker-10' is evaluated on its own model only"),
        ({"card": "sticker-10", "test_views": 0}, "test_views"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, entry, message):
    models = [*GRID["models"], {"id": "robust", "source": "zoo:signs-pgd-at"}]
    with pytest.raises(ConfigError, match=message):
        run_grid({**GRID, "models": models, "attacks": [entry]}, out=tmp_path / "run")


def run_alone(job, positions):
    with job.classifier.evaluation_mode():
        return job.run(positions)


def test_changes_are_measured_on_the_flat_sign(batch):
    data = make_signs()
    for row in batch.outcomes:
        flat = batch.candidates[row.position]
        change = (flat - data.images[row.position]).double().abs()
        assert row.l1 == pytest.approx(float(change.sum()))
        assert row.linf == pytest.approx(float(change.max()))
        assert row.adversarial_hash == hash_image(flat)
        assert row.original_hash != row.adversarial_hash


def test_the_first_class_is_a_class_that_an_attacker_may_want(classifier):
    signs = make_signs(1)
    blue = replace(signs, images=signs.images.flip(1), labels=torch.tensor([BLUE]))
    wanted = replace(STICKER, eps=0.9, targets=(RED,))
    job = make_sticker_job(classifier, data=blue, attack=PaintingAttack(views=0), threat=wanted)
    (row,) = run_alone(job, [0]).outcomes
    assert (row.adversarial_prediction, row.broken) == (RED, True)


class Spoiling(PaintingAttack):
    """Leaves the sign as it is, and spoils the model."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        classifier.module.is_spoiled = True
        return images


def test_views_are_predicted_by_a_copy_that_saw_no_attack():
    class Spoilt(ColourNetwork):
        is_spoiled = False

        def forward(self, images):
            answers = super().forward(images)
            return answers.roll(1, 1) if self.is_spoiled else answers

    classifier = Classifier(Spoilt(), num_classes=3, name="spoilt")
    job = make_sticker_job(classifier, data=make_signs(1), attack=Spoiling(views=0), threat=STICKER)
    found = run_alone(job, [0])
    assert set(find_view_predictions(found, 0, "sticker").predictions) == {RED}
    assert found.outcomes[0].broken is False


class Drawing(RandomizedClassifier):
    identity = "drawing"

    def sample(self, images, numbers):
        return self.inner(images)


def test_a_sign_that_is_misread_costs_the_draws_of_a_verdict(classifier):
    wrong = replace(make_signs(1), labels=torch.tensor([BLUE]))
    job = make_sticker_job(Drawing(classifier, draws=2, verdict_draws=5), data=wrong)
    (row,) = run_alone(job, [0]).outcomes
    assert (row.status, row.forward_passes) == ("clean-wrong", 5)


def test_an_attack_that_raises_has_its_own_time(classifier, monkeypatch):
    clock = iter([100.0, 102.5])
    monkeypatch.setattr(sticker_job.time, "perf_counter", lambda: next(clock))
    job = make_sticker_job(classifier, attack=RaisingAttack(views=4))
    with pytest.raises(AttackFailedError) as caught:
        run_alone(job, [1])
    assert caught.value.outcome.seconds == 2.5


class Asking(PaintingAttack):
    """Takes one gradient for each sticker that it makes."""

    def perturb(self, classifier, images, labels, threat, stream, masks=None):
        classifier.compute_gradient(images, lambda logits: logits[:, 0])
        return super().perturb(classifier, images, labels, threat, stream, masks)


def test_passes_are_those_of_the_attack_its_controls_and_all_views(classifier):
    job = make_sticker_job(classifier, data=make_signs(1), attack=Asking(views=0))
    (row,) = run_alone(job, [0]).outcomes
    made = 1 + len(list_controls(job.attack, job.threat))
    views = (made + 2) * TEST_VIEWS + 2 * 60
    assert row.backward_passes == made
    assert row.forward_passes == made + views + 2  # the clean sign and the flat one


def test_ink_is_measured_where_the_sticker_is(batch):
    data = make_signs()
    surfaces = build_surface_masks(data.images, data.masks)
    worn = (batch.candidates != data.images).any(dim=1, keepdim=True)
    printed = remove_lighting(batch.candidates, data.images, surfaces)
    for name, measure in (
        ("total_variation", compute_total_variation),
        ("non_printability", compute_non_printability),
    ):
        for position, value in enumerate(measure(printed, worn).tolist()):
            assert float(batch.report_images[position][name]) == pytest.approx(value)
