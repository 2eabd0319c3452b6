"""Samples of pods, what becomes of them in metrics and in the summary."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric

from agent.cgroups.tree import Hierarchies
from agent.engine.protocol import Container
from agent.stats import pods
from agent.stats.cgroup import Use
from agent.stats.sample import (
    ContainerSample,
    PodBoxes,
    PodSample,
    Sample,
    Sampler,
    Traffic,
    log_size,
    parse_traffic,
)
from agent.stats.summary import Disk, NodeUse, Rates, summary
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEV = """Inter-|   Receive                 |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0
  eth0:    1296      16    1    2    0     0          0         0      906      11    3    4    0     0
"""


def pod(name: str = "web") -> core_v1.Pod:
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, namespace="default", uid=f"uid-{name}"),
                       spec=core_v1.PodSpec(containers=[core_v1.Container(name="app")]))


def box(name: str = "k8s_app_web") -> Container:
    return Container("id-1", f"/{name}", "web:1", "sha256:1", {}, "running", pid=7, started_at=NOW)


def sample(cpu: float = 2.0, time: datetime = NOW) -> Sample:
    app = ContainerSample("app", box(), Use("/kubepods/pod1/box", cpu=cpu, working_set=50, memory=60, rss=40), 123)
    return Sample(time, [PodSample(pod(), Use("/kubepods/pod1", cpu=cpu + 1, working_set=55), [app],
                                   [Traffic("eth0", 1, 2, 3, 4, 5, 6, 7, 8)])])


def found(metrics: Sequence[Metric], sample: str, /, **labels: str) -> float:
    values = [item.value for metric in metrics for item in metric.samples
              if item.name == sample and all(item.labels.get(key) == value for key, value in labels.items())]
    assert len(values) == 1, (sample, values)
    return values[0]


def test_interfaces_but_loopback() -> None:
    assert parse_traffic(DEV) == [Traffic("eth0", 1296, 16, 1, 2, 906, 11, 3, 4)]


@given(st.text(alphabet="lo01: \n", max_size=100))
def test_whatever_the_table_says_nothing_breaks(text: str) -> None:
    assert all(item.interface != "lo" for item in parse_traffic(text))


def test_as_cadvisor_tells_it() -> None:
    metrics = list(pods.cadvisor(sample()))
    app = {"container": "app", "image": "web:1", "name": "k8s_app_web", "namespace": "default", "pod": "web",
           "id": "/kubepods/pod1/box"}
    assert found(metrics, "container_cpu_usage_seconds_total", **app) == 2.0
    assert found(metrics, "container_memory_working_set_bytes", **app) == 50
    assert found(metrics, "container_memory_working_set_bytes", container="", image="", pod="web") == 55
    assert found(metrics, "container_network_receive_bytes_total", pod="web", interface="eth0") == 1
    assert found(metrics, "container_network_transmit_packets_dropped_total", pod="web") == 8
    assert found(metrics, "container_start_time_seconds", pod="web") == NOW.timestamp()
    names = [metric.name for metric in metrics]
    assert len(names) == len(set(names))


def test_as_autoscalers_want_it() -> None:
    metrics = list(pods.resource(sample(), 99.0, 1000))
    assert found(metrics, "container_cpu_usage_seconds_total", container="app", pod="web") == 2.0
    assert found(metrics, "pod_cpu_usage_seconds_total", pod="web") == 3.0
    assert found(metrics, "node_cpu_usage_seconds_total") == 99.0
    assert found(metrics, "node_memory_working_set_bytes") == 1000


def node() -> NodeUse:
    disk = Disk(1000, 400, 10, 4)
    return NodeUse("node-1", NOW, 100.0, 2000, 500, 1700, disk, disk, parse_traffic(DEV), "eth0", 9, 100)


def test_the_summary() -> None:
    rates = Rates()
    first = summary(sample(), node(), rates)
    assert "usageNanoCores" not in first["pods"][0]["containers"][0]["cpu"]
    later = summary(sample(cpu=3.0, time=NOW + timedelta(seconds=10)), node(), rates)
    app = later["pods"][0]["containers"][0]
    assert app["cpu"] == {"time": "2026-01-01T00:00:10Z", "usageCoreNanoSeconds": 3_000_000_000,
                          "usageNanoCores": 100_000_000}
    assert app["memory"]["workingSetBytes"] == 50
    assert app["logs"]["usedBytes"] == 123
    assert later["pods"][0]["podRef"] == {"name": "web", "namespace": "default", "uid": "uid-web"}
    assert later["pods"][0]["network"]["rxBytes"] == 1
    assert later["node"]["memory"]["workingSetBytes"] == 1500
    assert later["node"]["fs"]["usedBytes"] == 600
    assert later["node"]["network"]["name"] == "eth0"
    brief = summary(sample(), node(), rates, only_cpu_and_memory=True)
    assert brief["node"].keys() == {"nodeName", "startTime", "cpu", "memory"}
    assert "network" not in brief["pods"][0]


def test_rates_forget_what_is_gone_and_what_was_long_ago() -> None:
    rates = Rates()
    assert rates.nano_cores({"a": 1.0, "b": 1.0}, NOW) == {}
    assert rates.nano_cores({"a": 2.0}, NOW + timedelta(seconds=2)) == {"a": 500_000_000}
    assert rates.nano_cores({"a": 3.0, "b": 9.0}, NOW + timedelta(seconds=4)) == {"a": 500_000_000}
    assert rates.nano_cores({"a": 3.0, "b": 9.0}, NOW + timedelta(seconds=4)) == {"a": 500_000_000}  # for another
    assert rates.nano_cores({"a": 0.5}, NOW + timedelta(seconds=9)) == {}  # it was made anew
    assert rates.nano_cores({"a": 5.0}, NOW + timedelta(hours=1)) == {}


class Source:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def boxes(self) -> Sequence[PodBoxes]:
        self.asked += 1
        return [PodBoxes(pod(), None, {"app": Container("x", "x", "i", "i", {}, "running", pid=1 << 30)}),
                PodBoxes(pod("idle"), None, {})]


async def test_one_look_serves_all_who_ask_at_once(tmp_path: Path) -> None:
    clock, source = FakeClock(), Source()
    sampler = Sampler(source, Hierarchies(2, {"unified": tmp_path}), clock)
    first, second = await asyncio.gather(sampler.sample(), sampler.sample())
    assert first is second
    assert source.asked == 1
    assert [item.containers for item in first.pods] == [[], []]  # its process has ended meanwhile
    await clock.advance(2.0)
    await sampler.sample()
    assert source.asked == 2


def test_the_size_of_a_log_with_its_rotated_parts(tmp_path: Path) -> None:
    for name, size in (("a-json.log", 10), ("a-json.log.1", 20), ("other", 40)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert log_size(str(tmp_path / "a-json.log")) == 30
    assert log_size("") == log_size("/nonexistent/log") == 0


@pytest.mark.parametrize("kind", ["cadvisor", "resource"])
def test_no_pods_no_samples(kind: str) -> None:
    metrics = list(pods.cadvisor(Sample(NOW, []))) if kind == "cadvisor" else list(pods.resource(Sample(NOW, []), 0, 0))
    assert not [item for metric in metrics for item in metric.samples if item.labels]
