"""What a cluster has: how many tasks fit, what differs on a node, and addresses that are none."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest

import robustbench_local as rbl
from robustbench_local.attacks.pgd import PGD
from robustbench_local.errors import ConfigError
from robustbench_local.evaluation.execution.cluster import connection, job_parts
from robustbench_local.evaluation.execution.cluster.cluster_settings import ClusterSettings
from robustbench_local.evaluation.execution.cluster.connection import (
    check_address,
    connect_to_cluster,
    list_nodes,
)
from robustbench_local.evaluation.execution.cluster.local_cluster import start_local_cluster
from robustbench_local.evaluation.execution.cluster.node_probe import probe_node
from robustbench_local.evaluation.execution.cluster.nodes import (
    CheckedNode,
    ClusterNode,
    NodeVersions,
    choose_gpus_per_task,
    count_task_slots,
    describe_devices,
)
from robustbench_local.evaluation.harness.attack_job import AttackJob
from robustbench_local.threats.threat_model import ThreatModel

VERSIONS = NodeVersions(python="3.11.7", torch="2.13.0", package="0.1.0", code="aa")


def make_node(cpus: float, gpus: float = 0) -> ClusterNode:
    return ClusterNode(id="ab" * 14, name="host", cpus=cpus, gpus=gpus, memory_gib=12)


@pytest.mark.parametrize(
    ("nodes", "gpus", "most", "slots"),
    [
        ([(4, 0), (2.5, 0)], 0.0, None, 6),
        ([(4, 0), (2, 0)], 0.0, 3, 3),
        ([(16, 4), (16, 0)], 1.0, None, 4),
        ([(16, 4)], 0.5, None, 8),
        ([(16, 4)], 1 / 3, None, 12),
        ([(2, 4)], 0.5, None, 2),
        ([(16, 3), (16, 3)], 2.0, None, 2),
        ([(16, 0.5)], 0.5, None, 0),
        ([], 0.0, None, 0),
    ],
)
def test_as_many_tasks_fit_as_cpus_and_gpus_allow(nodes, gpus, most, slots):
    assert count_task_slots([make_node(*node) for node in nodes], gpus, most) == slots


def test_a_task_takes_a_gpu_where_there_is_one_and_it_may():
    with_gpu, without = [make_node(4, 2)], [make_node(4)]
    assert choose_gpus_per_task(with_gpu, None, allows_gpus=True) == 1.0
    assert choose_gpus_per_task(with_gpu, None, allows_gpus=False) == 0.0
    assert choose_gpus_per_task(without, None, allows_gpus=True) == 0.0
    assert choose_gpus_per_task(with_gpu, 0.25, allows_gpus=True) == 0.25


def test_the_environment_names_what_the_tasks_compute_on():
    plain, with_gpu = make_node(4), replace(make_node(16, 8), accelerators=("A100",))
    other = replace(make_node(16, 8), accelerators=("H100",))
    assert describe_devices([plain, plain], 0.0) == "cpu on 2 nodes of Ray"
    assert describe_devices([with_gpu], 0.0) == "cpu on 1 node of Ray"
    assert describe_devices([plain, other, with_gpu], 0.5) == "cuda (A100, H100) on 2 nodes of Ray"
    assert describe_devices([make_node(4, 1)], 1.0) == "cuda on 1 node of Ray"


def test_the_kinds_of_gpus_of_a_node_are_read_from_ray():
    about = {"Alive": True, "NodeID": "a", "NodeManagerAddress": "10.0.0.1"}
    alive = about | {"Resources": {"CPU": 4.0, "GPU": 2.0, "accelerator_type:L4": 1.0, "memory": 2**31}}
    context = SimpleNamespace(get_node_id=lambda: "a")
    ray = SimpleNamespace(
        nodes=lambda: [alive, about | {"Alive": False, "Resources": {}}], get_runtime_context=lambda: context
    )
    (node,) = list_nodes(ray)
    assert (node.accelerators, node.gpus, node.memory_gib) == (("L4",), 2.0, 2.0)


def test_blocks_of_images_that_were_not_used_for_longest_leave_the_store(monkeypatch, linear, data):
    monkeypatch.setattr(job_parts, "BLOCK_BYTES", 10 * 4 * 48)  # ten images of 3x4x4
    monkeypatch.setattr(job_parts, "MAX_KEPT_BYTES", 2 * 10 * 4 * 48)
    puts = []
    packer = job_parts.JobPacker(lambda value: puts.append(value) or len(puts), None)
    attack, threat = PGD(steps=1), ThreatModel(norm="Linf", eps=0.02)
    job = AttackJob(key="k", classifier=linear, data=data, threat=threat, seed=1, attack=attack)
    assert packer.pack_images(job, [0, 11]).blocks == (1, 2)
    assert packer.pack_images(job, [3]).blocks == (1,)
    assert packer.pack_images(job, [25]).blocks == (3,)  # the second is out
    assert packer.pack_images(job, [4]).blocks == (1,)
    assert packer.pack_images(job, [12]).blocks == (4,)


def test_every_difference_of_a_node_is_named():
    assert VERSIONS.list_differences(NodeVersions(**vars(VERSIONS) | {"python": "3.11.9"})) == []
    other = NodeVersions(python="3.12.1", torch="2.12.0", package="0.1.0")
    assert VERSIONS.list_differences(other) == [
        "Python 3.11 here, 3.12 there",
        "torch 2.13.0 here, 2.12.0 there",
        "its code aa here, none there",
    ]
    assert VERSIONS.list_differences(NodeVersions(problem="no such package")) == ["no such package"]
    line = str(CheckedNode(node=make_node(4, 0.5), versions=VERSIONS))
    assert line == "host (abababab): 4 CPUs, 0.5 GPUs, 12.0 GiB, Python 3.11.7, torch 2.13.0, code aa"


def test_a_node_describes_itself_and_why_it_cannot_work():
    own = probe_node(("robustbench_local.counted_nouns",))
    assert own["problem"] == ""
    assert len(own["code"]) == 12
    assert own["torch"]
    assert (
        "robustbench_local cannot be used: InvariantError"
        in probe_node(("robustbench_local.none",))["problem"]
    )


def test_the_options_of_ray_become_settings():
    assert ClusterSettings.from_options(rbl.Options(workers=3)) is None
    settings = ClusterSettings.from_options(rbl.Options(executor="ray", workers=3, device="cpu"))
    assert settings == ClusterSettings(max_tasks=3, allows_gpus=False)
    assert ClusterSettings.from_options(rbl.Options(executor="ray", device="cuda")).gpus_per_task == 1.0
    assert ClusterSettings.from_options(rbl.Options(executor="ray", gpus_per_task=0.5)).gpus_per_task == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "rya"}, "no executor 'rya'. Did you mean ray"),
        ({"address": "auto"}, "address is an option of Ray. Add"),
        ({"gpus_per_task": 1.0}, "gpus_per_task is an option of Ray"),
        ({"executor": "ray", "gpus_per_task": 1.5}, "gpus_per_task is 1.5"),
        ({"executor": "ray", "gpus_per_task": -1.0}, "gpus_per_task is -1.0"),
        ({"executor": "ray", "gpus_per_task": float("nan")}, "gpus_per_task is nan"),
        ({"executor": "ray", "gpus_per_task": float("inf")}, "gpus_per_task is inf"),
        ({"executor": "ray", "gpus_per_task": "1"}, "gpus_per_task is '1'"),
    ],
)
def test_options_of_ray_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        rbl.Options(**options)


def test_addresses_are_tried_before_anything_is_loaded():
    for none_needed in (None, "auto", "local"):
        check_address(none_needed)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    for address, message in (
        (f"127.0.0.1:{port}", "no cluster answers at 127.0.0.1"),
        ("ray://head:10001", "client are not supported"),
        ("head", "'head' is no address"),
        ("head:99999", "is no address"),
        (":6379", "is no address"),
        ("head:port", "is no address"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_address(address)


class FakeRay:
    """Ray whose first starts fail; it looks at its own switches when it starts."""

    def __init__(self, failures):
        self.failures, self.starts, self.shutdowns = failures, [], 0
        constants = SimpleNamespace(ENABLE_RAY_CLUSTER=True)
        utils = SimpleNamespace(get_dashboard_dependency_error=lambda: None)
        self._private = SimpleNamespace(ray_constants=constants, utils=utils)

    def init(self, **options):
        switches = self._private.ray_constants.ENABLE_RAY_CLUSTER, self._private.utils
        self.starts.append((options, switches[0], switches[1].get_dashboard_dependency_error()))
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the current node timed out during startup")

    def shutdown(self):
        self.shutdowns += 1


@pytest.mark.parametrize(("failures", "starts"), [(0, 1), (2, 3), (3, 3)])
def test_a_local_cluster_stays_on_the_loopback_address_and_is_started_three_times_at_most(failures, starts):
    ray = FakeRay(failures)
    with pytest.raises(RuntimeError) if failures == 3 else nullcontext():
        start_local_cluster(ray, ClusterSettings(max_tasks=3))
    assert (len(ray.starts), ray.shutdowns) == (starts, min(failures, 3))
    options, takes_outer_address, no_dashboard = ray.starts[-1]
    assert options["num_cpus"] == 3
    assert options["_node_ip_address"] == options["dashboard_host"] == "127.0.0.1"
    assert not takes_outer_address
    assert isinstance(no_dashboard, ImportError)
    assert ray._private.ray_constants.ENABLE_RAY_CLUSTER
    assert ray._private.utils.get_dashboard_dependency_error() is None


def test_a_ray_without_these_switches_starts_too():
    ray = FakeRay(0)
    ray._private = SimpleNamespace(ray_constants=SimpleNamespace(), utils=None)
    ray.init = lambda **options: ray.starts.append(options)
    start_local_cluster(ray, ClusterSettings(max_tasks=1))
    assert len(ray.starts) == 1


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"gcs_client.cc: InvalidAuthToken: missing", "it wants another token, or one at all. Copy ~/.ray"),
        (b"", "Failed to connect. See ray status"),
    ],
)
def test_a_cluster_that_refuses_this_process_is_said_to(monkeypatch, written, reason):
    def refuse(*_, **__):
        os.write(2, written)
        raise ConnectionError("Failed to connect")

    ray = SimpleNamespace(init=refuse, is_initialized=lambda: False, shutdown=lambda: None)
    monkeypatch.setattr(connection, "import_ray", lambda: ray)
    with pytest.raises(ConfigError, match=reason), connect_to_cluster(ClusterSettings(address="auto")):
        pass
