"""Successes that are searched on: which, what becomes of them, and that nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from robustbench_local.attacks.core.eight_bit_search import FinishingSearch
from robustbench_local.attacks.fgsm import FGSM
from robustbench_local.attacks.minimum_norm.fmn import FMN
from robustbench_local.attacks.pgd import PGD
from robustbench_local.attacks.square.square import Square
from robustbench_local.attacks.transfer.mi_fgsm import MIFGSM
from robustbench_local.classifier import Classifier
from robustbench_local.classifier.stochastic import RandomizedClassifier
from robustbench_local.data.dataset import Dataset
from robustbench_local.errors import InvariantError, UnreachableError
from robustbench_local.evaluation.harness import attack_job as cell
from robustbench_local.evaluation.harness import success_refinement
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.evaluation.harness.batches import run_batches
from robustbench_local.evaluation.harness.success_refinement import (
    CLEAR_MARGIN_SHARE,
    AttackedImages,
    _merge_results,
    find_unfinished_rows,
    finish_successes,
)
from robustbench_local.evaluation.harness.verify import (
    FRAGILE_MARGIN_SHARE,
    Predictions,
    VerificationResult,
    predict,
    verify,
)
from robustbench_local.randomness import RandomStream
from robustbench_local.store.records import count_outcomes
from robustbench_local.threats.threat_model import ThreatModel

COST = ("forward_passes", "backward_passes", "seconds")


class Curved(nn.Module):
    """A small network whose successes lie close behind a bent border."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(2)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 4))
            with torch.no_grad():
                self.layers[1].weight.mul_(4)

    def forward(self, images):
        return self.layers(images - 0.5)


@pytest.fixture(scope="module")
def curved() -> Classifier:
    return Classifier(Curved(), num_classes=4, name="curved")


@pytest.fixture(scope="module")
def photographs() -> Dataset:
    """150 8-bit images, labelled as the network reads them."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(40, 216, (150, 3, 4, 4), generator=generator).float() / 255
    with torch.no_grad():
        labels = Curved()(images).argmax(dim=1)
    ids = tuple(f"made/{row}" for row in range(150))
    return Dataset(images=images, labels=labels, ids=ids, class_names=("a", "b", "c", "d"), name="made")


def outcomes(classifier, data, attack, threat, *, surrogate=None, batch_size=64, workers=1):
    task = AttackJob(
        key="cell",
        classifier=classifier,
        data=data,
        attack=attack,
        threat=threat,
        seed=1,
        surrogate=surrogate,
    )
    batches = run_batches(task, batch_size=batch_size, workers=workers)
    rows = (row for batch in batches for row in batch.outcomes)
    return sorted(rows, key=lambda row: row.position)  # several workers end their batches in any order


def without_finishing(monkeypatch):
    monkeypatch.setattr(cell, "finish_successes", lambda _attacked, verified, _verify: verified)


LINF, SMALL = ThreatModel(norm="Linf", eps="3/255"), ThreatModel(norm="Linf", eps="1/255")
L2, L1 = ThreatModel(norm="L2", eps=0.06), ThreatModel(norm="L1", eps=0.35)
TARGETED = replace(LINF, targets=(1, 2))


@pytest.fixture(scope="module")
def finished(curved, photographs):
    """What PGD finds under LINF."""
    return outcomes(curved, photographs, PGD(), LINF)


@pytest.fixture(scope="module")
def unfinished(curved, photographs):
    """What it finds without a search on its successes."""
    with pytest.MonkeyPatch.context() as patch:
        without_finishing(patch)
        return outcomes(curved, photographs, PGD(), LINF)


def test_pgd_keeps_its_successes_in_8_bits_as_fgsm_does(curved, photographs, finished, unfinished):
    fgsm = count_outcomes(outcomes(curved, photographs, FGSM(), LINF))
    pgd, before = count_outcomes(finished), count_outcomes(unfinished)
    whole = count_outcomes(outcomes(curved, photographs, PGD(early_stop=False), LINF))
    assert fgsm.broken == fgsm.broken_8bit
    assert before.broken_8bit < 0.9 * before.broken  # it stopped too early, and not because of the model
    assert (pgd.broken, pgd.broken_8bit, pgd.fragile) == (before.broken, before.broken, 0)
    assert whole.broken_8bit == whole.broken == pgd.broken
    assert pgd.forward_passes < 1.1 * before.forward_passes


def list_cases():
    """Each attack under each threat model; the dearest pairs are slow."""
    for attack in (PGD(steps=8), Square(queries=60), FMN(steps=20), MIFGSM()):
        for threat in (LINF, SMALL, L2, L1, TARGETED):
            dear = isinstance(attack, FMN) and threat in (SMALL, L2, L1)
            dear = dear or (isinstance(attack, Square) and threat == L1)
            marks = [pytest.mark.slow] if dear else []
            yield pytest.param(attack, threat, id=f"{attack!r}-{threat.name}", marks=marks)


@pytest.mark.parametrize(("attack", "threat"), list(list_cases()))
def test_no_verdict_changes_and_what_needs_nothing_is_untouched(
    curved, photographs, attack, threat, monkeypatch
):
    if threat.norm not in attack.norms or (threat.targets and "targeted" not in attack.goals):
        pytest.skip("not for this attack")
    data = photographs.select_images(
        (~torch.isin(photographs.labels, torch.tensor(threat.targets))).nonzero().flatten()
    )
    after = outcomes(curved, data, attack, threat)
    without_finishing(monkeypatch)
    before = outcomes(curved, data, attack, threat)
    for old, new in zip(before, after, strict=True):
        assert (new.broken, new.clean_correct, new.status) == (old.broken, old.clean_correct, old.status)
        assert bool(new.broken_8bit) >= bool(old.broken_8bit)
        unfinished = old.broken and (not old.broken_8bit or (old.fragile and attack.measure == "ball"))
        if not unfinished:
            assert replace(new, seconds=0) == replace(old, seconds=0)  # passes, too
        if attack.measure == "distance":
            same = replace(new, broken_8bit=None, **dict.fromkeys(COST, 0))
            assert same == replace(old, broken_8bit=None, **dict.fromkeys(COST, 0))
        else:
            assert new.fragile <= old.fragile
    old, new = count_outcomes(before), count_outcomes(after)
    assert old.broken > 5
    assert new.broken_8bit >= old.broken_8bit + (old.broken_8bit < 0.9 * old.broken)


@pytest.mark.slow
@pytest.mark.parametrize("attack", [PGD(steps=8), Square(queries=60)], ids=repr)
def test_neither_batches_nor_workers_change_what_is_found(curved, photographs, attack):
    def found(rows):
        return [(row.adversarial_hash, row.broken_8bit, row.forward_passes) for row in rows]

    expected = found(outcomes(curved, photographs, attack, LINF))
    for options in ({"batch_size": 7}, {"batch_size": 150}, {"batch_size": 32, "workers": 2}):
        assert found(outcomes(curved, photographs, attack, LINF, **options)) == expected, options


def test_queries_are_not_exceeded(curved, photographs):
    rows = outcomes(curved, photographs, Square(queries=20), LINF)
    assert any(row.broken for row in rows)
    # one reading of the clean image, two of a candidate, and two of another one
    assert all(row.forward_passes <= 20 + 1 + (4 if row.broken else 1) for row in rows)


@pytest.mark.parametrize("lie", ["leaves the ball", "no success", "another shape"])
def test_a_candidate_that_fails_verification_is_thrown_away(
    curved, photographs, lie, unfinished, monkeypatch
):
    def lying(self, originals, labels, candidates, stream, **more):
        return {
            "leaves the ball": (originals + 0.5).clamp(0, 1),
            "no success": originals.clone(),
            "another shape": candidates * torch.nan,
        }[lie]

    monkeypatch.setattr(FinishingSearch, "finish_candidates", lying)
    after = outcomes(curved, photographs, PGD(), LINF)
    zero = dict.fromkeys(COST, 0)
    assert [replace(row, **zero) for row in after] == [replace(row, **zero) for row in unfinished]


def test_a_model_that_raises_while_a_success_is_searched_on_costs_that_image_alone(
    curved, photographs, finished, unfinished, monkeypatch
):
    whole, before = finished, unfinished
    finish = FinishingSearch.finish_candidates
    changed = [row for row, (old, new) in enumerate(zip(before, whole, strict=True)) if old.linf != new.linf]
    touchy = photographs.images[changed[1]]

    def raising(self, originals, *given, **more):
        if (originals == touchy).flatten(1).all(dim=1).any():
            raise ValueError("not today")
        return finish(self, originals, *given, **more)

    monkeypatch.setattr(FinishingSearch, "finish_candidates", raising)
    own = Classifier(curved.module, num_classes=4, name="own")
    after = outcomes(own, photographs, PGD(), LINF)
    assert len(changed) >= 3
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        wanted = old if row == changed[1] else whole[row]
        zero = dict.fromkeys((*COST, "margin"), 0)  # a margin's last digit is another one in another batch
        assert replace(new, **zero) == replace(wanted, **zero)
    assert [note for note in own.notes if "raised" in note] == [
        "raised while a success was searched on in 8 bits: not today"
    ]


def test_a_bug_of_the_search_is_not_hidden(curved, photographs, monkeypatch):
    def buggy(self, *given, **more):
        raise InvariantError("a bug")

    monkeypatch.setattr(FinishingSearch, "finish_candidates", buggy)
    with pytest.raises(InvariantError, match="a bug"):
        outcomes(curved, photographs, PGD(), LINF)


def lead(share):
    """A margin of so large a share of the logits' range, on the side of the first pixel."""

    def forward(images):
        first = images[:, 0, 0, 0]
        return torch.stack([0 * first, (first - 0.5).sign() * share, 0 * first - (1 - share)], dim=1)

    return Classifier(forward, num_classes=3, access="scores")


@pytest.mark.parametrize(
    ("share", "unfinished"), [(0.99 * FRAGILE_MARGIN_SHARE, True), (1.01 * FRAGILE_MARGIN_SHARE, False)]
)
def test_a_success_is_searched_on_where_its_margin_is_noise(share, unfinished):
    images, labels = torch.full((1, 1, 1, 2), 126 / 255), torch.zeros(1, dtype=torch.int64)
    candidates = images + 2.1 / 255
    verified = verify(lead(share), images, labels, candidates, LINF)
    assert verified.broken.tolist() == [True]
    assert verified.broken_8bit == (True,)
    assert verified.predictions.fragile.tolist() == [unfinished]
    assert find_unfinished_rows(verified, LINF, "ball").tolist() == [0] * unfinished
    assert find_unfinished_rows(verified, LINF, "distance").tolist() == []
    spatial = ThreatModel(norm="spatial", eps=30)
    assert find_unfinished_rows(verified, spatial, "ball").tolist() == []


def test_the_search_goes_on_until_another_pass_still_finds_the_margin_clear():
    assert 1.5 * FRAGILE_MARGIN_SHARE < CLEAR_MARGIN_SHARE < 3 * FRAGILE_MARGIN_SHARE
    reading = predict(
        lead(CLEAR_MARGIN_SHARE), torch.full((1, 1, 1, 2), 0.6), torch.zeros(1, dtype=torch.int64)
    )
    assert reading.fragile.tolist() == [False]


def test_where_the_ball_holds_only_the_original_no_pass_is_spent(curved, photographs):
    threat = ThreatModel(norm="Linf", eps=0.9 / 255)
    rows = outcomes(curved, photographs, PGD(steps=5), threat)
    broken = [row for row in rows if row.broken]
    assert broken
    assert {row.broken_8bit for row in broken} == {False}
    assert all(row.forward_passes <= 1 + 6 + 2 for row in broken if not row.fragile)


def test_where_the_ball_holds_no_8bit_image_the_verdict_is_none(curved, photographs):
    off_grid = replace(photographs, images=photographs.images + 0.5 / 255)
    rows = outcomes(curved, off_grid, PGD(steps=5), ThreatModel(norm="Linf", eps=0.4 / 255))
    assert {row.broken_8bit for row in rows if row.broken} == {None}


def test_a_transfer_asks_its_surrogate_and_never_the_model(curved, photographs, monkeypatch):
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        near = Curved()
        for each in near.parameters():
            each.data += 0.1 * each.std() * torch.randn_like(each)
    surrogate = Classifier(near, num_classes=4, name="surrogate")
    judge = Classifier(lambda images: curved.module(images).detach(), num_classes=4, name="judge")
    after = outcomes(judge, photographs, PGD(), LINF, surrogate=surrogate)
    without_finishing(monkeypatch)
    before = outcomes(judge, photographs, PGD(), LINF, surrogate=surrogate)
    assert [row.broken for row in after] == [row.broken for row in before]
    old, new = count_outcomes(before), count_outcomes(after)
    assert old.broken_8bit < new.broken_8bit <= new.broken
    assert new.backward_passes > old.backward_passes


def make_result(broken, eight, fragile, offset=0.0):
    """A verification of made-up images; what an image has of its own is its number and an offset."""
    numbers = torch.arange(len(broken)) + offset
    return VerificationResult(
        candidates=numbers.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone(),
        rejection_reasons=(None,) * len(broken),
        predictions=Predictions(
            prediction=numbers.long() + 10,
            correct=~torch.tensor(broken),
            margin=-numbers.float(),
            fragile=torch.tensor(fragile),
            rejected=torch.zeros(len(broken), dtype=torch.bool),
            draw_predictions=torch.zeros(len(broken), 0, dtype=torch.int64),
            draw_correct=torch.zeros(len(broken), 0, dtype=torch.bool),
        ),
        broken=torch.tensor(broken),
        broken_8bit=tuple(eight),
        linf=numbers + 0.1,
        l2=numbers + 0.2,
        l1=numbers + 0.3,
        l0=numbers + 0.4,
        draws=numbers + 0.5,
        successful_draws=numbers + 0.6,
    )


@pytest.mark.parametrize(
    ("eight", "fragile", "unfinished"),
    [
        (False, False, "both"),
        (True, False, ""),
        (None, False, ""),
        (True, True, "ball"),
        (None, True, "ball"),
    ],
)
def test_what_is_searched_on(eight, fragile, unfinished):
    verified = make_result([False, True], [None, eight], [True, fragile])
    for measure in ("ball", "distance"):
        rows = find_unfinished_rows(verified, LINF, measure)
        assert rows.tolist() == [1] * (unfinished in {"both", measure})
        assert rows.dtype == torch.int64


@pytest.mark.parametrize(
    ("old", "new", "is_better"),
    [
        ((False, False), (True, False), True),
        ((False, True), (True, False), True),
        ((True, True), (True, False), True),
        ((False, True), (False, False), True),
        ((False, False), (False, False), False),
        ((True, False), (True, False), False),
        ((True, False), (True, True), False),
        ((True, True), (False, False), False),  # better in one, worse in the other
        ((False, False), (True, True), False),
        ((None, True), (None, False), True),
    ],
)
@pytest.mark.parametrize("broken", [True, False])
def test_a_candidate_is_replaced_by_one_that_is_better_and_no_worse(old, new, is_better, broken):
    """Of three images the third and the first are searched on; only the third one's result is in question."""
    first = make_result([True, True, True], [True, True, old[0]], [False, False, old[1]])
    second = make_result([broken, True], [new[0], True], [new[1], False], offset=5.0)
    merged = _merge_results(first, second, torch.tensor([2, 0]), "ball")
    taken = is_better and broken
    expected = [0.0, 1.0, 5.0 if taken else 2.0]
    assert merged.candidates[:, 0, 0, 0].tolist() == expected
    assert merged.linf.tolist() == pytest.approx([one + 0.1 for one in expected])
    assert merged.l2.tolist() == pytest.approx([one + 0.2 for one in expected])
    assert merged.l1.tolist() == pytest.approx([one + 0.3 for one in expected])
    assert merged.l0.tolist() == pytest.approx([one + 0.4 for one in expected])
    assert merged.draws.tolist() == pytest.approx([one + 0.5 for one in expected])
    assert merged.successful_draws.tolist() == pytest.approx([one + 0.6 for one in expected])
    assert merged.predictions.prediction.tolist() == [int(one) + 10 for one in expected]
    assert merged.predictions.margin.tolist() == [-one for one in expected]
    assert merged.predictions.fragile.tolist() == [False, False, new[1] if taken else old[1]]
    assert merged.broken_8bit == (True, True, new[0] if taken else old[0])
    assert merged.broken.tolist() == [True, True, True]


@pytest.mark.parametrize(
    ("old", "broken", "new", "merged"),
    [
        (False, True, True, True),
        (False, False, True, False),
        (False, True, False, False),
        (False, True, None, False),
    ],
)
def test_a_distance_keeps_its_candidate_and_takes_the_verdict_in_8_bits(old, broken, new, merged):
    first = make_result([True, True], [old, None], [True, False])
    second = make_result([broken], [new], [False], offset=5.0)
    found = _merge_results(first, second, torch.tensor([0]), "distance")
    assert found.broken_8bit == (merged, None)
    assert torch.equal(found.candidates, first.candidates)
    assert found.predictions is first.predictions


@dataclass(frozen=True, kw_only=True)
class Averaging(PGD):
    eot_samples: int = 3


class Finishing(FinishingSearch):
    """Notes what it is asked for, and answers with candidates that are moved by what a test says."""

    calls: ClassVar[list] = []
    moves: ClassVar[list] = []

    def finish_candidates(self, originals, labels, candidates, stream, *, rows, in_8bit, queries_left, masks):
        left = None if queries_left is None else queries_left.tolist()
        self.calls.append(
            (rows.tolist(), in_8bit.tolist(), left, self.eot_samples, self.is_blind, stream.ids)
        )
        return candidates + self.moves.pop(0)


def finish(
    monkeypatch,
    curved,
    photographs,
    verified,
    moves,
    *,
    attack=None,
    threat=LINF,
    left=None,
    blind=False,
    masks=None,
    search=Finishing,
    add_note=lambda _: None,
    add_pass_counter=lambda _: None,
):
    Finishing.calls, Finishing.moves = [], list(moves)
    monkeypatch.setattr(success_refinement, "FinishingSearch", search)
    count, asked = len(verified.broken), []
    data = photographs.select_images(range(count))
    attacked = AttackedImages(
        attack=attack or PGD(),
        attacked_model=curved,
        is_transfer=blind,
        queries_left=left,
        images=data.images,
        labels=data.labels,
        masks=masks,
        threat=threat,
        stream=RandomStream(1, data.ids, "any"),
        add_note=add_note,
        add_pass_counter=add_pass_counter,
    )

    def verify_rows(rows, candidates):
        asked.append((rows.tolist(), len(candidates)))
        return make_result([True] * len(rows), [True] * len(rows), [False] * len(rows), offset=50.0)

    return finish_successes(attacked, verified, verify_rows), Finishing.calls, asked


def test_nothing_is_searched_where_nothing_is_unfinished(monkeypatch, curved, photographs):
    verified = make_result([True, False], [True, None], [False, True])
    found, calls, asked = finish(monkeypatch, curved, photographs, verified, [])
    assert found is verified
    assert (calls, asked) == ([], [])


def test_rows_are_searched_in_8_bits_and_then_for_their_margin(monkeypatch, curved, photographs):
    """Image 1 fails in 8 bits; 2 does, and is fragile; 3 is fragile alone. The first search moves image 1."""
    verified = make_result([True] * 4, [True, False, False, True], [False, False, True, True])
    first = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1, 1)
    found, calls, asked = finish(monkeypatch, curved, photographs, verified, [first, 1.0])
    ids = photographs.ids
    assert calls == [
        ([1, 2, 3], [True, True, True], None, 1, False, ids[1:4]),
        ([2, 3], [False, False], None, 1, False, ids[2:4]),
    ]
    assert asked == [([1, 2, 3], 3)]
    assert found.broken_8bit == (True, True, True, True)
    assert found.predictions.fragile.tolist() == [False] * 4


def test_a_search_that_moves_nothing_is_not_verified(monkeypatch, curved, photographs):
    verified = make_result([True, True], [False, False], [False, True])
    found, calls, asked = finish(monkeypatch, curved, photographs, verified, [0.0, 0.0])
    assert found is verified
    assert [call[0] for call in calls] == [[0, 1], [1]]
    assert asked == []


def test_a_distance_is_searched_in_8_bits_alone(monkeypatch, curved, photographs):
    verified = make_result([True, True], [False, True], [True, True])
    _, calls, asked = finish(monkeypatch, curved, photographs, verified, [1.0], attack=FMN())
    assert [call[:2] for call in calls] == [([0], [True])]
    assert asked == [([0], 1)]


def test_a_ball_without_a_choice_of_levels_is_searched_for_the_margin_alone(monkeypatch, curved, photographs):
    verified = make_result([True, True], [False, False], [False, True])
    tiny = ThreatModel(norm="Linf", eps=0.5 / 255)
    _, calls, asked = finish(monkeypatch, curved, photographs, verified, [1.0], threat=tiny)
    assert [call[:2] for call in calls] == [([1], [False])]
    assert asked == [([1], 1)]


def test_a_search_spends_the_queries_that_are_left_and_looks_as_the_attack_did(
    monkeypatch, curved, photographs
):
    verified = make_result([True] * 3, [True, False, False], [False] * 3)
    left = torch.tensor([7, 8, 9])
    _, calls, _ = finish(monkeypatch, curved, photographs, verified, [1.0], left=left, blind=True)
    assert calls == [([1, 2], [True, True], [8, 9], 1, True, photographs.ids[1:3])]
    _, calls, _ = finish(monkeypatch, curved, photographs, verified, [1.0], attack=Averaging())
    assert calls[0][3] == 3


def test_only_what_moved_is_verified_and_only_what_stays_fragile_is_searched_again(
    monkeypatch, curved, photographs
):
    """All three fail in 8 bits and are fragile; the first moves by one value, the second only at last."""
    verified = make_result([True] * 3, [False] * 3, [True] * 3)
    first, again = torch.zeros(3, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    first[0, 0, 1, 0] = again[0, 0, 0, 1] = 1.0
    _, calls, asked = finish(monkeypatch, curved, photographs, verified, [first, again])
    assert [call[:2] for call in calls] == [([0, 1, 2], [True] * 3), ([1, 2], [False] * 2)]
    assert asked == [([0, 1], 2)]


def test_a_mask_without_a_choice_of_levels_is_searched_for_the_margin_alone(monkeypatch, curved, photographs):
    verified = make_result([True] * 3, [False] * 3, [False, False, True])
    masks = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    masks[1] = True
    masked = replace(LINF, region="mask")
    _, calls, _ = finish(monkeypatch, curved, photographs, verified, [1.0], threat=masked, masks=masks)
    assert [call[:2] for call in calls] == [([1, 2], [True, False])]


class FailingOnRow(Finishing):
    """Raises on an image, and moves all others."""

    row: ClassVar[int] = 3
    error: ClassVar[Exception] = ValueError("not today")

    def finish_candidates(self, originals, labels, candidates, stream, *, rows, **more):
        self.calls.append(rows.tolist())
        if self.row in rows.tolist():
            raise self.error
        return candidates + 1


def test_an_image_on_which_the_model_raises_is_found_by_halves(monkeypatch, curved, photographs):
    verified, notes = make_result([True] * 5, [False] * 5, [False] * 5), []
    found, calls, asked = finish(
        monkeypatch, curved, photographs, verified, [], search=FailingOnRow, add_note=notes.append
    )
    assert calls == [[0, 1, 2, 3, 4], [0, 1], [2, 3, 4], [2], [3, 4], [3], [4]]
    assert [rows for rows, _ in asked] == [[0, 1], [2], [4]]
    assert found.broken_8bit == (True, True, True, False, True)
    assert notes == ["raised while a success was searched on in 8 bits: not today"]


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), UnreachableError("gone")])
def test_memory_and_an_unreachable_service_are_no_fault_of_an_image(
    monkeypatch, curved, photographs, count, error
):
    monkeypatch.setattr(FailingOnRow, "row", 0)
    monkeypatch.setattr(FailingOnRow, "error", error)
    verified = make_result([True] * count, [False] * count, [False] * count)
    with pytest.raises(type(error)):
        finish(monkeypatch, curved, photographs, verified, [], search=FailingOnRow)
    assert Finishing.calls == [list(range(count))]


class Noisy(RandomizedClassifier):
    identity = "noisy"

    def sample(self, images, numbers):
        return self.inner(images)


@pytest.mark.parametrize(("draws", "verdict_draws", "eot_samples"), [(2, 1, 1), (5, 5, 1), (1, 5, 3)])
def test_a_model_that_averages_by_itself_is_not_averaged_again(
    monkeypatch, curved, photographs, draws, verdict_draws, eot_samples
):
    noisy = Noisy(curved, draws=draws, verdict_draws=verdict_draws)
    verified = make_result([True], [False], [False])
    _, calls, _ = finish(monkeypatch, noisy, photographs, verified, [1.0], attack=Averaging())
    assert calls[0][3] == eot_samples


def test_a_transformation_leaves_nothing_to_search_on():
    verified = make_result([True], [False], [True])
    rows = find_unfinished_rows(verified, ThreatModel(norm="spatial", eps=10), "ball")
    assert (rows.tolist(), rows.dtype) == ([], torch.int64)


def test_a_search_gets_the_images_of_its_rows_and_its_passes_are_counted(monkeypatch, curved, photographs):
    seen, counters = [], []

    class Looking(Finishing):
        def finish_candidates(self, originals, labels, candidates, stream, *, rows, masks, **more):
            seen.append((originals, labels, masks, self.access, self.clear_margin_share))
            self.classifier(originals, rows)
            return candidates

    masks = torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    masks[1], masks[2, 0, 0] = True, True
    masked = replace(LINF, region="mask")
    verified = make_result([True] * 3, [True, False, False], [False] * 3)
    with curved.evaluation_mode():
        finish(
            monkeypatch, curved, photographs, verified, [], threat=masked, masks=masks, search=Looking,
            add_pass_counter=counters.append,
        )  # fmt: skip
    ((originals, labels, given, access, share),) = seen
    assert torch.equal(originals, photographs.images[1:3])
    assert torch.equal(labels, photographs.labels[1:3])
    assert torch.equal(given, masks[1:3])
    assert (access, share) == ("gradients", CLEAR_MARGIN_SHARE)
    assert [counter.forward_passes.tolist() for counter in counters] == [[0, 1, 1]]
