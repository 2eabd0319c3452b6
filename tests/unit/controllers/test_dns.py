"""The Service kube-dns and its endpoints, one a node."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from master import config
from master.controllers import dns as dns_controller
from master.controllers.dns import DnsController, DnsOptions, plan
from sampan.api.resources import ENDPOINTSLICES, NODES, SERVICES
from sampan.api.types.core_v1 import Node, NodeSpec, Service, ServiceSpec
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.protocol import Patch
from sampan.clusterdns import NAME, NAMESPACE
from sampan.loop.settings import ConfigError
from tests.support.controllers import World

OPTIONS = DnsOptions()


def node(name: str, cidr: str = "", zone: str = "") -> Node:
    labels = {dns_controller.ZONE: zone} if zone else {}
    return Node(metadata=ObjectMeta(name=name, labels=labels), spec=NodeSpec(pod_cidr=cidr or None))


async def service_of(world: World) -> Service:
    return await world.client.get(SERVICES, NAME, NAMESPACE)


async def slices_of(world: World) -> list[EndpointSlice]:
    return list((await world.client.list(ENDPOINTSLICES, NAMESPACE)).items)


async def test_the_service_and_one_endpoint_a_node() -> None:
    world = World()
    world.client.put(node("b", "10.244.2.0/24", "z1"))
    world.client.put(node("a", "10.244.1.0/24"))
    world.client.put(node("new"))
    async with world.running(lambda deps: DnsController(deps, OPTIONS)):
        await world.settle()
        service = await service_of(world)
        assert service.metadata.labels["k8s-app"] == "kube-dns"
        assert service.spec.cluster_ip == "10.96.0.10"
        assert service.spec.internal_traffic_policy == "Local"
        assert [(port.name, port.protocol, port.port) for port in service.spec.ports] == [
            ("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]
        (item,) = await slices_of(world)
        assert item.metadata.labels["kubernetes.io/service-name"] == NAME
        assert item.metadata.owner_references[0].uid == service.metadata.uid
        assert [(entry.addresses, entry.node_name, entry.zone) for entry in item.endpoints] == [
            (["10.244.1.1"], "a", None), (["10.244.2.1"], "b", "z1")]
        assert all(entry.conditions and entry.conditions.ready for entry in item.endpoints)

        await world.client.update(NODES, replace(await world.client.get(NODES, "new"),
                                                 spec=NodeSpec(pod_cidr="10.244.3.0/24")))
        await world.client.delete(NODES, "a")
        await world.settle()
        (item,) = await slices_of(world)
        assert [entry.node_name for entry in item.endpoints] == ["b", "new"]


async def test_what_is_deleted_or_changed_comes_back() -> None:
    world = World()
    world.client.put(node("a", "10.244.1.0/24"))
    async with world.running(lambda deps: DnsController(deps, OPTIONS)):
        await world.settle()
        service = await service_of(world)
        await world.client.update(SERVICES, replace(service, spec=replace(service.spec, ports=[])))
        (item,) = await slices_of(world)
        await world.client.delete(ENDPOINTSLICES, item.metadata.name, NAMESPACE)
        await world.settle()
        assert len((await service_of(world)).spec.ports) == 2
        assert len(await slices_of(world)) == 1
        await world.client.delete(SERVICES, NAME, NAMESPACE)
        await world.settle()
        again = await service_of(world)
        assert again.metadata.uid != service.metadata.uid
        (item,) = await slices_of(world)
        assert item.metadata.owner_references[0].uid == again.metadata.uid


async def test_a_slice_that_somebody_takes_its_label_from_gets_it_back() -> None:
    """Nobody else can be made of its name, and nothing would be heard of it any more."""
    world = World()
    async with world.running(lambda deps: DnsController(deps, OPTIONS)):
        await world.settle()
        (item,) = await slices_of(world)
        labels = {"metadata": {"labels": {dns_controller.MANAGED_BY: "somebody", "own": "kept"}}}
        await world.client.patch(ENDPOINTSLICES, item.metadata.name, Patch("merge", labels), NAMESPACE)
        world.client.put(node("a", "10.244.1.0/24"))
        await world.settle()
        (item,) = await slices_of(world)
        assert item.metadata.labels[dns_controller.MANAGED_BY] == dns_controller.MANAGER
        assert item.metadata.labels["own"] == "kept"
        assert [entry.node_name for entry in item.endpoints] == ["a"]


async def test_another_address_makes_the_service_anew() -> None:
    world = World()
    async with world.running(lambda deps: DnsController(deps, OPTIONS)):
        await world.settle()
    other = World()
    other.client.put(await service_of(world))
    async with other.running(lambda deps: DnsController(deps, DnsOptions("10.96.0.53"))):
        await other.settle()
        assert (await service_of(other)).spec.cluster_ip == "10.96.0.53"


async def test_a_dns_of_somebody_elses_is_left_to_them() -> None:
    world = World()
    own = Service(metadata=ObjectMeta(name=NAME, namespace=NAMESPACE),
                  spec=ServiceSpec(cluster_ip="10.96.0.10", selector={"k8s-app": "kube-dns"}))
    world.client.put(own)
    world.client.put(node("a", "10.244.1.0/24"))
    async with world.running(lambda deps: DnsController(deps, OPTIONS)):
        await world.settle()
        assert (await service_of(world)).spec.selector == {"k8s-app": "kube-dns"}
        assert await slices_of(world) == []


def test_nothing_to_do_is_nothing_done() -> None:
    service = dns_controller.wanted_service(
        Service(metadata=ObjectMeta(name=NAME, namespace=NAMESPACE, uid="u"), spec=ServiceSpec()), OPTIONS)
    nodes = [node(f"n{number}", f"10.{number // 250}.{number % 250}.0/24") for number in range(2500)]
    slices = dns_controller.wanted_slices(service, nodes, OPTIONS.address)
    assert [len(item.endpoints) for item in slices] == [1000, 1000, 500]
    todo = plan(service, slices, nodes, OPTIONS)
    assert todo == dns_controller.Plan()
    fewer = plan(service, slices, nodes[:1200], OPTIONS)
    assert (len(fewer.update), len(fewer.delete)) == (2, 1)


@pytest.mark.parametrize(("arguments", "address", "domain"), [
    ([], "10.96.0.10", "cluster.local"),
    (["--service-cidr", "10.32.0.0/16", "--cluster-domain", "K8s.Example.org."], "10.32.0.10", "k8s.example.org"),
    (["--service-cidr", "10.32.0.0/29"], "10.32.0.6", "cluster.local"),
    (["--cluster-dns", "10.96.0.53"], "10.96.0.53", "cluster.local")])
def test_settings(arguments: list[str], address: str, domain: str) -> None:
    settings = config.load(arguments, {})
    assert (settings.cluster_dns, settings.cluster_domain) == (address, domain)
    assert f"kubernetes.default.svc.{domain}" in settings.server_names()


@pytest.mark.parametrize("arguments", [["--cluster-dns", "10.1.0.10"], ["--cluster-dns", "dns"],
                                       ["--cluster-domain", "under_score"]])
def test_settings_that_cannot_be(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="cluster-d"):
        config.load(arguments, {})
