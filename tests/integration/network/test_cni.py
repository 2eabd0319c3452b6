"""The agent's pods on CNI plugins: those of Debian's containernetworking-plugins, and ones that fail on purpose."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.network.cni.network import CniNetwork
from netplugin.protocol import HostPort, NetworkError, Sandbox
from sampan.loop.clock import FakeClock
from tests.support.netns import ip, private_network, process_with_network, reaches, run

pytestmark = pytest.mark.net

PLUGINS = Path("/usr/lib/cni")


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    if not (PLUGINS / "bridge").exists():
        pytest.skip("containernetworking-plugins is not installed")
    with private_network():
        yield


@pytest.fixture
def pids() -> Iterator[list[int]]:
    with process_with_network() as one, process_with_network() as two:
        yield [one, two]


class Room:
    """Folders for a CniNetwork, and the network."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf, self.plugins, self.clock = root / "net.d", root / "bin", FakeClock()
        self.conf.mkdir()
        self.plugins.mkdir()
        self.log = root / "log"
        self.log.touch()
        self.network = self.again()

    def again(self) -> CniNetwork:
        return CniNetwork(self.conf, [self.plugins, PLUGINS], self.root / "state", self.clock)

    def configure(self, *plugins: dict[str, Any], version: str = "1.0.0") -> None:
        (self.conf / "10-pods.conflist").write_text(json.dumps(
            {"cniVersion": version, "name": "pods", "plugins": list(plugins)}))

    def bridge(self) -> dict[str, Any]:
        return {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True,
                "capabilities": {"ipRanges": True},
                "ipam": {"type": "host-local", "dataDir": str(self.root / "ipam"), "routes": [{"dst": "0.0.0.0/0"}]}}

    def plugin(self, name: str, body: str) -> dict[str, Any]:
        """A plugin of the test's own, which logs what it is asked."""
        path = self.plugins / name
        path.write_text("#!/bin/sh\ninput=$(cat)\n"
                        f'echo "$CNI_COMMAND {name} $CNI_NETNS $input" >> {self.log}\n{body}\n')
        path.chmod(0o755)
        return {"type": name}

    def addresses(self) -> list[str]:
        return sorted(path.name for path in (self.root / "ipam" / "pods").glob("10.*"))

    def calls(self) -> list[str]:
        return [" ".join(line.split()[:2]) for line in self.log.read_text().splitlines()]


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def sandbox(number: int, pid: int, *ports: HostPort) -> Sandbox:
    return Sandbox(f"{number:012x}" + "ab" * 26, pid, "default", f"pod-{number}", f"uid-{number}", ports)


PASS_ON = """[ "$CNI_COMMAND" != ADD ] || echo "$input" | jq .prevResult"""
FAIL = """[ "$CNI_COMMAND" = DEL ] && exit 0
echo '{"cniVersion":"1.0.0","code":11,"msg":"not now","details":"come again"}'; exit 1"""


async def test_pods_on_bridge_host_local_and_portmap(room: Room, pids: list[int]) -> None:
    room.configure(room.bridge(), {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True})
    await room.network.setup("10.43.5.0/24")
    one = await room.network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    two = await room.network.attach(sandbox(2, pids[1]))
    assert [one.ip, two.ip, one.gateway] == ["10.43.5.2", "10.43.5.3", "10.43.5.1"]
    assert one.mac in ip("link show eth0", pids[0])
    assert "master cni0" in ip(f"link show {one.interface}")
    assert reaches(pids[0], two.ip)
    assert reaches(pids[1], "127.0.0.1")  # loopback is the runtime's to bring up
    assert "10.43.5.2:80" in run(["iptables-save", "-t", "nat"])
    assert await room.network.attach(sandbox(1, pids[0], HostPort(8000, 80))) == one
    # Somebody takes the link away: attached again, the pod has one.
    ip("link del eth0", pids[0])
    again = await room.network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    assert reaches(pids[0], two.ip)
    # Another process, which knows only the files, and a configuration that has gone since.
    (room.conf / "10-pods.conflist").unlink()
    later = room.again()
    assert await later.attachment(sandbox(1, 0).id) == again
    for number in (1, 2, 2):
        await later.detach(sandbox(number, 0).id)
    assert room.addresses() == []
    assert f"{again.ip}:80" not in run(["iptables-save", "-t", "nat"])
    assert await later.attachment(sandbox(1, 0).id) is None


async def test_the_chain_passes_results_on_and_is_undone_in_reverse(room: Room, pids: list[int]) -> None:
    room.configure(room.bridge(), room.plugin("second", PASS_ON), room.plugin("third", PASS_ON))
    await room.network.setup("10.43.5.0/24")
    got = await room.network.attach(sandbox(1, pids[0]))
    asked = [json.loads(line.split(maxsplit=3)[3]) for line in room.log.read_text().splitlines()]
    assert [one["prevResult"]["ips"][0]["address"] for one in asked] == [f"{got.ip}/24"] * 2
    await room.network.detach(sandbox(1, 0).id)
    assert room.calls() == ["ADD second", "ADD third", "DEL third", "DEL second"]


async def test_a_failed_add_is_undone_and_told(room: Room, pids: list[int]) -> None:
    room.configure(room.bridge(), room.plugin("second", FAIL))
    await room.network.setup("10.43.5.0/24")
    with pytest.raises(NetworkError, match=r'plugin type="second" name="pods" failed \(add\): not now; come again'):
        await room.network.attach(sandbox(1, pids[0]))
    assert room.addresses() == []
    assert room.calls() == ["ADD second", "DEL second"]
    assert await room.network.attachment(sandbox(1, 0).id) is None


async def test_a_sandbox_that_is_gone_is_undone_by_reconcile(room: Room, pids: list[int]) -> None:
    room.configure(room.bridge(), room.plugin("second", PASS_ON))
    await room.network.setup("10.43.5.0/24")
    with process_with_network() as pid:
        await room.network.attach(sandbox(1, pid))
    # By now another process may have its number: that one's links must not be taken.
    state = room.root / "state" / f"{sandbox(1, 0).id}.json"
    state.write_text(state.read_text().replace(f"/proc/{pid}/ns/net", f"/proc/{pids[0]}/ns/net"))
    await room.network.reconcile([])
    assert len(room.addresses()) == 1  # fresh: the list may be older
    await room.clock.advance(61)
    await room.network.reconcile([])
    assert room.addresses() == []
    assert "DEL second  {" in room.log.read_text()  # no namespace is named


async def test_what_is_missing_is_said(room: Room, pids: list[int]) -> None:
    with pytest.raises(NetworkError, match="there is no file"):
        await room.network.setup("10.43.5.0/24")
    room.configure({"type": "nonsense"})
    with pytest.raises(NetworkError, match='failed to find plugin "nonsense"'):
        await room.network.setup("10.43.5.0/24")
    room.configure(room.plugin("silent", "exit 0"))
    await room.network.setup("10.43.5.0/24")
    with pytest.raises(NetworkError, match="gave no result"):
        await room.network.attach(sandbox(1, pids[0]))
    room.configure(room.plugin("crash", "echo boom >&2; exit 3"))
    with pytest.raises(NetworkError, match="boom"):
        await room.network.attach(sandbox(1, pids[0]))


async def test_status_and_garbage_collection_where_plugins_know_them(room: Room) -> None:
    room.configure(room.plugin("first", "exit 0"), version="1.1.0")
    await room.network.setup("10.43.5.0/24")
    await room.network.reconcile([])
    assert room.calls() == ["STATUS first", "GC first"]
    assert '"cni.dev/valid-attachments": []' in room.log.read_text()
    room.configure(room.plugin("first", FAIL), version="1.1.0")
    with pytest.raises(NetworkError, match="not now"):
        await room.network.setup("10.43.5.0/24")
    await room.network.reconcile([])  # that garbage is not collected is no reason to stop


async def test_our_own_plugin_is_one_too(room: Room, pids: list[int]) -> None:
    script = room.plugins / "sampan-netplugin"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -m netplugin.cni.main\n")
    script.chmod(0o755)
    room.configure({"type": "sampan-netplugin", "podCIDR": "10.43.6.0/24", "stateDir": str(room.root / "ipam"),
                    "capabilities": {"portMappings": True}}, version="1.1.0")
    await room.network.setup("10.43.6.0/24")
    one = await room.network.attach(sandbox(1, pids[0], HostPort(8000, 80)))
    await room.network.attach(sandbox(2, pids[1]))
    assert reaches(pids[1], one.ip)
    assert await room.network.attach(sandbox(1, pids[0], HostPort(8000, 80))) == one
    await room.network.teardown()
    assert not list((room.root / "ipam" / "sampan").glob("10.*"))
