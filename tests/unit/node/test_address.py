"""A node's address: when it stays, and when the node follows."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import main
from agent.config import load
from agent.node import facts
from agent.node.address import LOOK_SECONDS, AddressChanged, AddressWatch, Interfaces, follow, interface_of
from sampan.loop.clock import FakeClock

HOST: Interfaces = {"lo": ["127.0.0.1"], "eth0": ["192.0.2.7", "192.0.2.8"], "wlan0": []}


@pytest.mark.parametrize(("address", "interface", "expected"), [
    ("192.0.2.7", "eth0", "192.0.2.7"),
    ("192.0.2.8", "eth0", "192.0.2.8"),  # not the first, but it is there
    ("127.0.0.1", "eth0", "127.0.0.1"),  # on another interface now
    ("192.0.2.1", "eth0", "192.0.2.7"),  # gone, and here is the new one
    ("192.0.2.1", "wlan0", "192.0.2.1"),  # gone, and nothing in its place yet
    ("192.0.2.1", "gone", "192.0.2.1"),
    ("192.0.2.1", "", "192.0.2.1"),  # given alone: not followed
    ("", "eth0", "192.0.2.7"),
])
def test_which_address_it_is(address: str, interface: str, expected: str) -> None:
    assert follow(address, interface, HOST) == expected


def test_an_address_that_dhcp_did_not_give_is_none() -> None:
    assert follow("192.0.2.1", "eth0", {"eth0": ["169.254.3.4"]}) == "192.0.2.1"
    assert follow("192.0.2.1", "eth0", {"eth0": ["169.254.3.4", "192.0.2.2"]}) == "192.0.2.2"


ADDRESSES = st.integers(1, 9).map("192.0.2.{}".format)


@given(ADDRESSES, st.sampled_from(["a", "b", ""]), st.dictionaries(st.sampled_from("abc"), st.lists(ADDRESSES)))
def test_it_settles_at_once_and_moves_only_from_what_is_gone(address: str, interface: str, host: Interfaces) -> None:
    now = follow(address, interface, host)
    assert follow(now, interface, host) == now
    assert now == address or (now in host[interface] and not any(address in found for found in host.values()))


def test_the_interface_of_an_address() -> None:
    assert [interface_of(text, HOST) for text in ("192.0.2.8", "192.0.2.9")] == ["eth0", ""]


async def test_a_changed_address_ends_the_agent() -> None:
    clock, host = FakeClock(), {"eth0": ["192.0.2.7"]}
    task = asyncio.ensure_future(AddressWatch("192.0.2.7", "eth0", clock, look=lambda: host).run())
    await clock.advance(LOOK_SECONDS)
    host["eth0"] = []  # the lease has ended
    await clock.advance(LOOK_SECONDS)
    assert not task.done()
    host["eth0"] = ["192.0.2.9"]
    await clock.advance(LOOK_SECONDS)
    with pytest.raises(AddressChanged, match=r"changed from 192\.0\.2\.7 to 192\.0\.2\.9"):
        await task
    assert AddressChanged in main.EXPECTED


def test_the_address_at_start() -> None:
    assert facts.node_address("192.0.2.9", "eth0-is-not-here") == "192.0.2.9"
    assert facts.node_address("192.0.2.9", "lo") == "127.0.0.1"
    assert facts.node_address("", "lo") == "127.0.0.1"
    with pytest.raises(facts.FactsError, match="the interface nosuch is not there or has no IPv4 address"):
        facts.node_address("", "nosuch")


@pytest.mark.parametrize(("options", "expected"), [
    (["--node-ip=127.0.0.1"], ""), (["--node-ip=127.0.0.1", "--node-interface=eth7"], "eth7"), ([], "lo")])
def test_what_is_followed(options: list[str], expected: str) -> None:
    """An address that the operator gave alone is not."""
    made = main.make_watch(load(["--server=m", *options], {}), "127.0.0.1", FakeClock())
    assert made._interface == expected
