"""The watch over the head of a cluster: on both sides of its limit, without a cluster."""

from __future__ import annotations

import socket
import threading

import pytest

from robustbench_local.evaluation.execution.cluster.head_watch import (
    MAX_FAILURES,
    HeadWatch,
    can_connect_to,
)


@pytest.mark.parametrize(("failures", "is_lost"), [(MAX_FAILURES - 1, False), (MAX_FAILURES, True)])
def test_a_head_is_lost_after_some_failures_in_a_row(failures, is_lost):
    answers = [True, *[False] * (MAX_FAILURES - 1), True, *[False] * failures]
    asked, reasons, ended = [], [], threading.Event()

    def can_connect(address):
        asked.append(address)
        if len(asked) > len(answers):
            ended.set()
            return True
        return answers[len(asked) - 1]

    def abandon(why):
        reasons.append(why)
        ended.set()

    with HeadWatch("h:1", abandon, can_connect=can_connect, pause_seconds=0.001):
        assert ended.wait(60)
    assert len(reasons) == is_lost
    assert set(asked) == {"h:1"}
    for why in reasons:
        assert why == "the head of the cluster at h:1 does not answer; start the cluster again"


def test_an_address_is_tried():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert can_connect_to(address)
    assert not can_connect_to(address)
