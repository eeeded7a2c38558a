"""Streams: an image draws the same numbers whatever batch it is in (V8, V9)."""

from __future__ import annotations

import torch

from robustbench_local.randomness import RandomStream, derive_seed, sample_normal_at

IDS = tuple(f"photo-{number}.png" for number in range(7))
STREAM = RandomStream(3, IDS, "PGD()")


def test_a_seed_depends_on_every_part_its_type_and_the_order():
    seeds = {
        derive_seed(1, "a"), derive_seed("1", "a"), derive_seed("a", 1), derive_seed("1a"),
        derive_seed("1", "a", ""), derive_seed("ab", "c"), derive_seed("a", "bc"), derive_seed(),
    }  # fmt: skip
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_on_every_machine_and_in_every_version():
    assert derive_seed(0, "photo-0.png", "PGD()", 0) == 6832481746584956047


def test_draws_do_not_depend_on_order_or_company():
    whole = STREAM.sample_uniform((3, 4, 4), draw=0, device="cpu")
    shuffled = [4, 0, 6, 2]
    assert torch.equal(
        STREAM.select_images(shuffled).sample_uniform((3, 4, 4), draw=0, device="cpu"), whole[shuffled]
    )
    alone = RandomStream(3, IDS[5:6], "PGD()").sample_uniform((3, 4, 4), draw=0, device="cpu")
    assert torch.equal(alone, whole[5:6])
    assert torch.equal(STREAM.select_images(torch.tensor([5])).sample_normal((2,), draw=1, device="cpu"),
                       STREAM.sample_normal((2,), draw=1, device="cpu")[5:6])  # fmt: skip


def test_seed_attack_image_and_draw_each_give_other_numbers():
    def first(stream: RandomStream, draw: str | int = 0) -> float:
        return float(stream.sample_uniform((), draw=draw, device="cpu")[0])

    others = [
        first(STREAM),
        first(STREAM, 1),
        first(STREAM, "0/radius"),
        first(RandomStream(4, IDS, "PGD()")),
        first(RandomStream(3, IDS, "PGD(steps=2)")),
        first(RandomStream(3, IDS[1:], "PGD()")),
    ]
    assert len(set(others)) == len(others)


def test_uniform_and_normal_have_their_distributions():
    many = RandomStream(0, tuple(map(str, range(200))), "attack")
    uniform = many.sample_uniform((500,), draw="u", device="cpu", low=-2.0, high=4.0)
    assert uniform.shape == (200, 500)
    assert uniform.dtype == torch.float32
    assert -2.0 <= float(uniform.min()) < -1.99
    assert 3.99 < float(uniform.max()) <= 4.0
    assert abs(float(uniform.mean()) - 1.0) < 0.03
    normal = many.sample_normal((500,), draw="n", device="cpu")
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1.0) < 0.02
    # rows are independent of each other: correlations stay within 5 standard errors
    assert float((torch.corrcoef(normal) - torch.eye(200)).abs().max()) < 5 / 500**0.5


def test_no_draw_touches_the_global_generator():
    before = torch.get_rng_state()
    STREAM.sample_normal((3,), draw=0, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_group_has_one_seed_that_depends_on_all_its_images():
    assert STREAM.compute_batch_seed() == RandomStream(3, IDS, "PGD()").compute_batch_seed()
    assert STREAM.compute_batch_seed() != STREAM.select_images([0, 1, 2]).compute_batch_seed()
    assert STREAM.compute_batch_seed() != STREAM.select_images([1, 0, 2, 3, 4, 5, 6]).compute_batch_seed()
    assert STREAM.compute_batch_seed() != RandomStream(4, IDS, "PGD()").compute_batch_seed()


def test_numbered_draws_are_normal_and_independent():
    keys = STREAM.compute_keys("votes", "cpu")[:2].repeat_interleave(40)
    draws = torch.arange(40).repeat(2)
    found = sample_normal_at(keys, draws, 3001).double()
    assert found.shape == (80, 3001)
    assert abs(found.mean()) < 0.005
    assert abs(found.std() - 1) < 0.005
    assert abs((found**4).mean() - 3) < 0.05
    shares = [(found < place).double().mean() for place in (-2.0, -0.5, 1.0)]
    assert torch.allclose(torch.stack(shares), torch.tensor([0.02275, 0.30854, 0.84134]).double(), atol=2e-3)
    halves = (found[:, :1500] * found[:, 1501:]).mean()  # these two come from one counter
    assert abs(halves) < 0.01
    assert (torch.corrcoef(found) - torch.eye(80)).abs().max() < 0.1


def test_a_numbered_draw_depends_on_its_key_and_number_alone():
    keys, draws = STREAM.compute_keys("votes", "cpu"), torch.arange(7)
    whole = sample_normal_at(keys, draws, 12)
    assert torch.equal(sample_normal_at(keys[[5, 1]], draws[[5, 1]], 12), whole[[5, 1]])
    assert len(whole.unique()) == 7 * 12
    assert not torch.equal(sample_normal_at(keys, draws + 1, 12), whole)
