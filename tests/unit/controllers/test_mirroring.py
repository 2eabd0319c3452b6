"""Endpoints written by hand become EndpointSlices."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from master.controllers import mirroring_plan as plans
from master.controllers.endpoints_plan import MANAGED_BY, SERVICE_LABEL, TRIGGER_TIME
from master.controllers.mirroring import MirroringController
from sampan.api.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from sampan.api.types.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    ObjectReference,
    Service,
    ServiceSpec,
)
from sampan.client.protocol import Patch
from tests.support.controllers import World, meta


def by_hand(*subsets: EndpointSubset, **more: Any) -> Endpoints:
    return Endpoints(metadata=meta("db", uid="e-1", **more), subsets=list(subsets))


def subset(*addresses: str, port: int = 5432, unready: tuple[str, ...] = ()) -> EndpointSubset:
    return EndpointSubset(addresses=[EndpointAddress(ip=address) for address in addresses],
                          not_ready_addresses=[EndpointAddress(ip=address) for address in unready],
                          ports=[EndpointPort(name="sql", port=port, protocol="TCP")])


def service(**spec: Any) -> Service:
    return Service(metadata=meta("db"), spec=ServiceSpec(**spec))


@pytest.mark.parametrize(("endpoints", "of", "expected"), [
    (by_hand(), service(), True),
    (None, service(), False),
    (by_hand(), None, False),
    (by_hand(), service(selector={"app": "db"}), False),
    (by_hand(labels={plans.SKIP: "true"}), service(), False),
    (by_hand(labels={plans.SKIP: "false"}), service(), True),
    (by_hand(annotations={plans.LEADER: "{}"}), service(), False),
])
def test_what_is_mirrored(endpoints: Endpoints | None, of: Service | None, expected: bool) -> None:
    assert plans.is_mirrored(endpoints, of) is expected


def test_a_slice_says_what_the_endpoints_say() -> None:
    pod = ObjectReference(kind="Pod", name="db-0")
    source = by_hand(EndpointSubset(
        addresses=[EndpointAddress(ip="10.9.0.1", node_name="n1", hostname="db-0", target_ref=pod)],
        not_ready_addresses=[EndpointAddress(ip="10.9.0.2")], ports=[EndpointPort(port=53, protocol="UDP")]),
        labels={"team": "a"}, annotations={"note": "x", plans.LAST_APPLIED: "{}", TRIGGER_TIME: "t"})
    (made,) = plans.plan(source, plans.read(source), []).create
    assert made.metadata.labels == {"team": "a", SERVICE_LABEL: "db", MANAGED_BY: plans.MANAGER}
    assert made.metadata.annotations == {"note": "x"}
    assert [owner.kind for owner in made.metadata.owner_references] == ["Endpoints"]
    assert [(port.name, port.port, port.protocol) for port in made.ports] == [("", 53, "UDP")]
    assert [(item.addresses, item.node_name, item.hostname, item.target_ref, item.conditions and item.conditions.ready)
            for item in made.endpoints] == [(["10.9.0.1"], "n1", "db-0", pod, True),
                                            (["10.9.0.2"], None, None, None, False)]


def test_families_and_ports_have_slices_of_their_own() -> None:
    source = by_hand(subset("10.9.0.1", "fd00::1"), subset("10.9.0.2", port=1), subset("10.9.0.3"))
    found = {(item.address_type, item.ports[0].port): [address for one in item.endpoints for address in one.addresses]
             for item in plans.plan(source, plans.read(source), []).create}
    assert found == {("IPv4", 5432): ["10.9.0.1", "10.9.0.3"], ("IPv6", 5432): ["fd00::1"], ("IPv4", 1): ["10.9.0.2"]}


def test_too_many_and_unreadable_addresses_are_counted() -> None:
    many = [f"10.9.{i // 250}.{i % 250}" for i in range(1002)]
    wanted = plans.read(by_hand(subset("nonsense", *many)))
    assert (wanted.invalid, wanted.skipped) == (1, 2)
    assert sum(map(len, wanted.groups.values())) == 1000


@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), max_size=8), max_size=6))
def test_slices_always_show_what_the_endpoints_say(rounds: list[list[tuple[int, int]]]) -> None:
    slices: list[Any] = []
    for number, members in enumerate(rounds):
        source = by_hand(*(subset(f"10.9.0.{host}", port=port) for port, host in members))
        plan = plans.plan(source, plans.read(source), slices)
        changed = {item.metadata.name: item for item in plan.update}
        gone = {item.metadata.name for item in plan.delete}
        slices = [changed.get(item.metadata.name, item) for item in slices if item.metadata.name not in gone]
        slices += [replace(item, metadata=replace(item.metadata, name=f"db-{number}-{index}"))
                   for index, item in enumerate(plan.create)]
        shown = sorted((item.ports[0].port, one.addresses[0]) for item in slices for one in item.endpoints)
        assert shown == sorted((port, f"10.9.0.{host}") for port, host in members)
        assert plans.plan(source, plans.read(source), slices).empty


async def test_the_story_of_endpoints() -> None:
    world = World()
    async with world.running(MirroringController):
        async def shown() -> list[str]:
            await world.settle()
            return [address for item in (await world.client.list(ENDPOINTSLICES)).items for one in item.endpoints
                    for address in one.addresses]

        world.client.put(by_hand(subset("10.9.0.1")))
        assert await shown() == [], "nobody asks for them"
        world.client.put(service())
        assert await shown() == ["10.9.0.1"]
        await world.client.patch(ENDPOINTS, "db", Patch("merge", {"metadata": {"labels": {plans.SKIP: "true"}}}),
                                 "default")
        assert await shown() == []
        world.client.put(by_hand(subset("10.9.0.1", "10.9.0.2", "what?")))
        assert await shown() == ["10.9.0.1", "10.9.0.2"]
        assert ("Endpoints", "InvalidIPAddress",
                "Skipped 1 invalid IP addresses when mirroring to EndpointSlices") in await world.told()
        [item] = (await world.client.list(ENDPOINTSLICES)).items
        await world.client.patch(ENDPOINTSLICES, item.metadata.name, Patch("merge", {"metadata": {"labels": {
            SERVICE_LABEL: "other"}}}), "default")
        assert await shown() == ["10.9.0.1", "10.9.0.2"], "what is no longer its slice is replaced"
        await world.client.patch(SERVICES, "db", Patch("merge", {"spec": {"selector": {"app": "db"}}}), "default")
        assert await shown() == []
