"""sampan-netplugin as a runtime calls it: a process, the environment, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from netplugin.network import NodeNetwork
from tests.support.netns import ip, private_network, process_with_network, reaches, run

pytestmark = pytest.mark.net


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with private_network():
        yield


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with process_with_network() as one, process_with_network() as two:
        yield [one, two]


class Plugin:
    """Calls the executable; `config` is the network's configuration."""

    def __init__(self, state: Path, **config: Any) -> None:
        self.config = {"cniVersion": "1.1.0", "name": "pods", "type": "sampan-netplugin", "stateDir": str(state),
                       **config}

    def __call__(self, command: str, container: str = "", pid: int = 0, interface: str = "eth0", *,
                 code: int = 0, **config: Any) -> Any:
        """The result; `code`: the error that is expected."""
        environment = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": interface,
                       "CNI_NETNS": f"/proc/{pid}/ns/net" if pid else "", "CNI_PATH": "/opt/cni/bin",
                       "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"}
        done = subprocess.run([sys.executable, "-m", "netplugin.cni.main"], input=json.dumps({**self.config, **config}),
                              env={**os.environ, **environment}, text=True, capture_output=True, check=False,
                              timeout=60)
        assert (done.returncode != 0) == bool(code), done.stdout + done.stderr
        answer = json.loads(done.stdout) if done.stdout else None
        if code:
            assert answer["code"] == code, answer
        return answer


def state(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "sampan").glob("10.*"))


def test_the_first_ones_at_once_make_one_network(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.1.0/24")
    with ThreadPoolExecutor(2) as pool:
        added = [pool.submit(plugin, "ADD", f"c{pid}", pid) for pid in pids]
        assert len({one.result()["ips"][0]["address"] for one in added}) == 2
    for table in ("nat", "filter"):
        rules = run(["iptables", "-t", table, "-S"]).splitlines()
        assert len(rules) == len(set(rules))


def test_a_container_s_life(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.7.0/24", clusterCIDR="10.42.0.0/16")
    assert plugin("STATUS") is None
    one, two = plugin("ADD", "c1", pids[0]), plugin("ADD", "c2", pids[1])
    assert [one["ips"][0]["address"], two["ips"][0]["address"]] == ["10.42.7.2/24", "10.42.7.3/24"]
    assert one["interfaces"][2] == {"name": "eth0", "mac": "0a:58:0a:2a:07:02", "sandbox": f"/proc/{pids[0]}/ns/net"}
    assert one["interfaces"][one["ips"][0]["interface"]]["name"] == "eth0"
    for interface in one["interfaces"][:2]:
        assert interface["mac"] in ip(f"link show {interface['name']}")
    assert reaches(pids[0], "10.42.7.3")
    assert "SAMPAN-POSTROUTING" in run(["iptables-save"])
    plugin("CHECK", "c1", pids[0], prevResult=one)
    plugin("ADD", "c1", pids[0], code=999)  # the interface is there already
    ip("link del eth0", pids[0])
    plugin("CHECK", "c1", pids[0], prevResult=one, code=999)
    plugin("CHECK", "c9", pids[0], prevResult=one, code=3)
    for _ in range(2):
        plugin("DEL", "c1")  # neither a namespace nor, the second time, anything else
    assert state(tmp_path) == ["10.42.7.3"]
    plugin("DEL", "c2", pids[1])
    assert state(tmp_path) == []
    assert "smp" not in ip("link")


def test_port_mappings(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.7.0/24")
    mappings = {"portMappings": [{"hostPort": 8000, "containerPort": 80, "protocol": "tcp"}]}
    plugin("ADD", "c1", pids[0], runtimeConfig=mappings)
    assert "--dport 8000" in run(["iptables-save"])
    plugin("DEL", "c1")
    assert "--dport 8000" not in run(["iptables-save"])


def test_garbage_is_collected(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.7.0/24")
    plugin("ADD", "c1", pids[0])
    plugin("ADD", "c2", pids[1])
    plugin("ADD", "c2", pids[1], "net1")
    Plugin(tmp_path, podCIDR="10.42.7.0/24", name="others")("GC", **{"cni.dev/valid-attachments": []})
    assert len(state(tmp_path)) == 3
    plugin("GC", **{"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "net1"}]})
    assert state(tmp_path) == ["10.42.7.4"]
    assert "net1" in ip("link", pids[1])
    assert "eth0" not in ip("link", pids[1])


def test_a_failed_add_leaves_nothing(tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.7.0/30")
    plugin("ADD", "c1", 999999999, code=3)
    with process_with_network() as one, process_with_network() as two:
        plugin("ADD", "c1", one)
        plugin("ADD", "c2", two, code=11)
    assert state(tmp_path) == ["10.42.7.2"]


async def test_beside_an_agent_it_shares_addresses_and_network(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path)
    plugin("STATUS", code=50)
    agent = NodeNetwork(tmp_path, cluster_cidr="10.42.0.0/16")
    await agent.setup("10.42.7.0/24")
    before = run(["iptables-save", "-t", "nat"])
    assert plugin("STATUS") is None
    added = plugin("ADD", "c1", pids[0])
    assert added["ips"][0]["address"] == "10.42.7.2/24"
    told: list[str] = []
    agent.on_lost(told.append)
    await agent.reconcile([])  # the agent leaves others' containers alone
    plugin("CHECK", "c1", pids[0], prevResult=added)
    ip("link del sampan0")
    await agent.heal()
    assert reaches(pids[0], "10.42.7.1")
    plugin("DEL", "c1")
    assert told == []
    assert [line for line in run(["iptables-save", "-t", "nat"]).splitlines() if line[:1] == "-"] == [
        line for line in before.splitlines() if line[:1] == "-"]
    await agent.close()


def test_wiped_rules_come_back_with_the_next_container(tmp_path: Path, pids: list[int]) -> None:
    plugin = Plugin(tmp_path, podCIDR="10.42.7.0/24")
    plugin("ADD", "c1", pids[0])
    run(["iptables", "-t", "nat", "-F"])
    ip("link del sampan0")
    plugin("ADD", "c2", pids[1])
    assert reaches(pids[1], "10.42.7.2")
    assert "-j MASQUERADE" in run(["iptables-save"])
