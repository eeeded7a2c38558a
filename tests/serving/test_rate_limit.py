"""Each client has its own bucket, which fills up again."""

from __future__ import annotations

from robustbench_local.serving import rate_limit
from robustbench_local.serving.rate_limit import RateLimiter


def test_a_client_may_send_a_burst_and_then_at_its_rate():
    now = [0.0]
    limiter = RateLimiter(rate=2.0, burst=3, read_clock=lambda: now[0])
    assert [limiter.take_token("a") for _ in range(5)] == [0, 0, 0, 1, 1]
    assert limiter.take_token("b") == 0
    now[0] = 0.5
    assert [limiter.take_token("a") for _ in range(2)] == [0, 1]
    now[0] = 100.0
    assert [limiter.take_token("a") for _ in range(4)] == [0, 0, 0, 1]


def test_a_slow_rate_says_how_long_to_wait():
    limiter = RateLimiter(rate=0.1, burst=1, read_clock=lambda: 0.0)
    assert [limiter.take_token("a") for _ in range(2)] == [0, 10]


def test_without_a_rate_nobody_is_refused_and_clients_are_forgotten(monkeypatch):
    limiter = RateLimiter(rate=0.0, burst=1)
    assert {limiter.take_token("a") for _ in range(10)} == {0}
    monkeypatch.setattr(rate_limit, "MAX_CLIENTS", 2)
    limiter = RateLimiter(rate=1.0, burst=1, read_clock=lambda: 0.0)
    assert [limiter.take_token(name) for name in "abca"] == [0, 0, 0, 0]
    assert limiter.take_token("c") == 1
