"""One suite for the tables in memory and the kernel's, of both flavours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from netplugin.fake_tables import FakeTables
from netplugin.host import HostTables
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId, Edit, Rules, Tables, uses
from tests.support.netns import private_network

A, B, C = (ChainId("nat", f"KUBE-TEST-{name}") for name in "ABC")
REJECTS = ChainId("filter", "KUBE-TEST-R")
OUTPUT = ChainId("nat", "OUTPUT")
TO_A, TO_B = "-j KUBE-TEST-A", "-j KUBE-TEST-B"
DNAT = '-d 10.96.0.1/32 -p tcp -m comment --comment "a b" -m tcp --dport 80 -j DNAT --to-destination 10.244.0.1:80'


@pytest.fixture(params=["fake", pytest.param("nft", marks=pytest.mark.net), pytest.param("legacy",
                                                                                       marks=pytest.mark.net)])
async def tables(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                 ) -> AsyncIterator[Tables]:
    if request.param == "fake":
        yield FakeTables()
        return
    for command in ("iptables", "iptables-restore", "iptables-save"):
        real = command.replace("iptables", f"iptables-{request.param}")
        (tmp_path / command).symlink_to(f"/usr/sbin/{real}")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin")
    with private_network():
        made = HostTables()
        yield made
        await made.close()


async def contents(tables: Tables) -> dict[ChainId, Rules]:
    return {chain: rules async for chain, rules in tables.read() if rules or chain.name.startswith("KUBE")}


async def test_what_is_written_is_read_again(tables: Tables) -> None:
    await tables.apply(Edit({A: (TO_B, DNAT), B: (), REJECTS: ("-p udp -j DROP",)}, insert=[(OUTPUT, TO_A)]))
    assert await contents(tables) == {A: (TO_B, DNAT), B: (), REJECTS: ("-p udp -j DROP",), OUTPUT: (TO_A,)}
    assert await tables.read_one(A) == (TO_B, DNAT)
    assert await tables.read_one(B) == ()
    assert await tables.read_one(C) is None
    assert await tables.random_fully()


async def test_writing_replaces_and_inserting_goes_in_front(tables: Tables) -> None:
    await tables.apply(Edit({A: (DNAT,), B: (TO_A,)}))
    await tables.apply(Edit({B: (DNAT,)}, insert=[(A, "-j ACCEPT"), (A, "-j RETURN")]))
    assert await contents(tables) == {A: ("-j RETURN", "-j ACCEPT", DNAT), B: (DNAT,)}
    await tables.apply(Edit(delete=[(A, "-j ACCEPT")], insert=[(A, "-j ACCEPT")]))
    assert (await contents(tables))[A] == ("-j ACCEPT", "-j RETURN", DNAT)


async def test_chains_go_with_what_led_to_them(tables: Tables) -> None:
    await tables.apply(Edit({B: (), C: (), A: (TO_B,)}, insert=[(OUTPUT, TO_A)]))
    with pytest.raises(NetworkError):
        await tables.apply(Edit(remove=[B]))
    await tables.apply(Edit({A: ()}, remove=[B]))
    await tables.apply(Edit(delete=[(OUTPUT, TO_A)], remove=[A, C]))
    await tables.apply(Edit(remove=[C]))  # gone already
    assert await contents(tables) == {}


@pytest.mark.parametrize("wrong", [
    Edit({A: ("-j KUBE-TEST-NONE",)}), Edit(delete=[(OUTPUT, TO_A)]), Edit({A: (TO_B,)}, remove=[B]),
])
async def test_refusals(tables: Tables, wrong: Edit) -> None:
    await tables.apply(Edit({B: ()}))
    with pytest.raises(NetworkError):
        await tables.apply(wrong)
    assert await contents(tables) == {B: ()}


async def test_who_touched_the_rules(tables: Tables) -> None:
    other = HostTables() if isinstance(tables, HostTables) else None
    assert await tables.touched()  # nothing is known yet
    await tables.settle()
    assert not await tables.touched()
    await tables.apply(Edit({A: (), REJECTS: ("-j DROP",)}))
    await tables.apply(Edit(remove=[A]))
    assert not await tables.touched()  # that were we
    if isinstance(tables, FakeTables):
        tables.contents[C] = ()
    elif other is not None:
        await other.apply(Edit({C: ()}))
        await other.close()
    assert await tables.touched()
    await tables.apply(Edit({A: ()}))
    assert await tables.touched()  # our own writing does not hide it
    counted = await tables.settle()
    assert not await tables.touched()
    if counted is not None:
        expected = uses(await contents(tables))
        assert {chain: count for chain, count in counted.items() if chain.name.startswith("KUBE")} == {
            chain: expected[chain] for chain in (A, C, REJECTS)}


async def test_after_a_failure_nothing_is_known(tables: Tables) -> None:
    await tables.settle()
    with pytest.raises(NetworkError):
        await tables.apply(Edit({A: ("-j KUBE-TEST-NONE",)}))
    if not isinstance(tables, FakeTables):
        assert await tables.touched()
