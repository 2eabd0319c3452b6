from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netplugin.ipam import Ipam, next_free
from netplugin.protocol import AddressesExhausted, HostPort, NetworkError, Sandbox

SUBNET = IPv4Network("10.42.3.0/24")
TINY = IPv4Network("10.42.3.0/29")  # .2 to .6 for pods


def box(name: str, *ports: HostPort) -> Sandbox:
    return Sandbox(name, 1, "default", name, f"uid-{name}", ports)


def test_addresses_go_round_so_that_none_is_reused_at_once(tmp_path: Path) -> None:
    ipam = Ipam(tmp_path)
    first = ipam.allocate(TINY, box("a")).ip
    ipam.release("a")
    given_out = []
    for number in range(5):
        given_out.append(ipam.allocate(TINY, box(f"b{number}")).ip)
        ipam.release(f"b{number}")
    assert str(first) == "10.42.3.2"
    assert [str(ip) for ip in given_out] == [f"10.42.3.{number}" for number in (3, 4, 5, 6, 2)]


def test_a_sandbox_has_one_address(tmp_path: Path) -> None:
    lease = Ipam(tmp_path).allocate(SUBNET, box("a", HostPort(80, 8080), HostPort(53, 53, "UDP", "127.0.0.1")))
    assert Ipam(tmp_path).allocate(SUBNET, box("a")) == lease  # also for a later process
    assert Ipam(tmp_path).leases() == [lease]
    moved = Ipam(tmp_path).allocate(IPv4Network("10.42.9.0/24"), box("a"))
    assert str(moved.ip) == "10.42.9.2"
    assert Ipam(tmp_path).leases() == [moved]


def test_nobody_else_may_hold_the_lock(tmp_path: Path) -> None:
    Ipam(tmp_path).allocate(SUBNET, box("a"))
    assert (tmp_path / "sampan").stat().st_mode & 0o777 == 0o700


def test_exhaustion_and_release(tmp_path: Path) -> None:
    ipam = Ipam(tmp_path)
    for number in range(5):
        ipam.allocate(TINY, box(f"{number}"))
    with pytest.raises(AddressesExhausted, match="all 5 are in use"):
        ipam.allocate(TINY, box("one more"))
    ipam.release("3")
    ipam.release("nobody")
    assert str(ipam.allocate(TINY, box("one more")).ip) == "10.42.3.5"
    ipam.clear()
    assert ipam.leases() == []


def test_what_a_crash_leaves_is_swept(tmp_path: Path) -> None:
    ipam = Ipam(tmp_path)
    ipam.allocate(SUBNET, box("a"))
    (tmp_path / "sampan" / ".new-10.42.3.9").write_text("half a f")
    assert [lease.sandbox_id for lease in ipam.leases()] == ["a"]
    assert not (tmp_path / "sampan" / ".new-10.42.3.9").exists()


def test_a_taken_address_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ipam = Ipam(tmp_path)
    lease = ipam.allocate(SUBNET, box("a"))
    monkeypatch.setattr("netplugin.ipam.next_free", lambda *_: lease.ip)
    with pytest.raises(NetworkError):
        ipam.allocate(SUBNET, box("b"))
    assert ipam.leases() == [lease]


def test_newer_and_broken_files_are_refused(tmp_path: Path) -> None:
    ipam = Ipam(tmp_path)
    ipam.allocate(SUBNET, box("a"))
    (tmp_path / "sampan" / "10.42.3.2").write_text("nonsense")
    with pytest.raises(NetworkError, match=r"10\.42\.3\.2 is no address file"):
        ipam.leases()
    (tmp_path / "sampan" / "version").write_text("2\n")
    with pytest.raises(NetworkError, match="version '2'"):
        ipam.leases()


def test_two_processes_never_share_an_address(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ipaddress import IPv4Network;"
        "from netplugin.ipam import Ipam; from netplugin.protocol import Sandbox\n"
        "for number in range(20):\n"
        "    box = Sandbox(f'{sys.argv[2]}-{number}', 1, '', '', '')\n"
        f"    Ipam(Path(sys.argv[1])).allocate(IPv4Network('{SUBNET}'), box)\n")
    workers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(worker)]) for worker in range(4)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0, 0]
    leases = Ipam(tmp_path).leases()
    assert len(leases) == len({lease.ip for lease in leases}) == 80


@given(st.integers(20, 30), st.data())
def test_next_free_is_free_and_never_reserved(prefix: int, data: st.DataObject) -> None:
    subnet = IPv4Network(("10.64.0.0", prefix))
    offsets = st.integers(0, subnet.num_addresses - 1)
    taken = {subnet[offset] for offset in data.draw(st.sets(offsets, max_size=60))}
    last = data.draw(st.none() | offsets.map(lambda offset: subnet[offset]) | st.just(IPv4Address("1.2.3.4")))
    usable = set(list(subnet.hosts())[1:]) if prefix > 24 else None
    try:
        found = next_free(subnet, taken, last)
    except AddressesExhausted:
        assert usable is not None
        assert usable <= taken
        return
    assert found in subnet
    assert found not in taken
    assert found not in (subnet.network_address, subnet[1], subnet.broadcast_address)
