"""What Services and EndpointSlices say, and which endpoints traffic may use."""

from __future__ import annotations

from typing import Any

import pytest

from agent.proxy.model import Endpoint, ServiceKey, ServicePort, choose, concerns, endpoints, service_ports
from sampan.api.types.core_v1 import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus
from sampan.api.types.discovery_v1 import EndpointPort, EndpointSlice
from tests.support.services import NODE, endpoint, port, service, slice_of

KEY = ServiceKey("default", "web")


@pytest.mark.parametrize("unproxied", [
    service("web", "None"), service("web", ""), service("web", "fd00::1"),
    service("web", "10.0.0.1", type="ExternalName"),
    service("web", "10.0.0.1", labels={"service.kubernetes.io/service-proxy-name": "other"}),
    service("web", "10.0.0.1", labels={"service.kubernetes.io/headless": ""}),
])
def test_services_that_no_node_proxies(unproxied: Service) -> None:
    assert service_ports(unproxied) == []


def test_defaults_are_upstream_s() -> None:
    plain = Service(metadata=service("web", "").metadata, spec=ServiceSpec(cluster_ip="10.0.0.1", ports=[port("", 80)]))
    assert service_ports(plain) == [ServicePort(KEY, "", "tcp", "10.0.0.1", 80)]
    assert str(service_ports(plain)[0]) == "default/web"
    sticky = service("web", "10.0.0.1", session_affinity="ClientIP")
    assert service_ports(sticky)[0].affinity_seconds == 10800


def test_a_load_balancer_s_port() -> None:
    made = service("web", "10.0.0.1", port("dns", 53, "UDP", 30053), type="LoadBalancer",
                   external_ips=["192.0.2.9", "2001:db8::1", "192.0.2.9"], external_traffic_policy="Local",
                   load_balancer_source_ranges=[" 203.0.113.0/25"], health_check_node_port=32000, affinity=60)
    ingress = [LoadBalancerIngress(ip="192.0.2.1"), LoadBalancerIngress(ip="192.0.2.2", ip_mode="Proxy"),
               LoadBalancerIngress(hostname="lb.example"), LoadBalancerIngress(ip="192.0.2.3", ip_mode="VIP")]
    made = Service(metadata=made.metadata, spec=made.spec,
                   status=ServiceStatus(load_balancer=LoadBalancerStatus(ingress=ingress)))
    assert service_ports(made) == [ServicePort(
        KEY, "dns", "udp", "10.0.0.1", 53, 30053, ("192.0.2.9",), ("192.0.2.1", "192.0.2.3"), ("203.0.113.0/25",),
        60, False, True, 32000)]


def test_a_cluster_ip_service_keeps_nothing_of_the_load_balancer_that_it_was() -> None:
    """Its status may say so until the controller has looked."""
    made = service("web", "10.0.0.1", ingress=["192.0.2.1"], type="ClusterIP", health_check_node_port=32000,
                   external_traffic_policy="Local", load_balancer_source_ranges=["192.0.2.0/24"])
    assert service_ports(made) == [ServicePort(KEY, "http", "tcp", "10.0.0.1", 80)]


@pytest.mark.parametrize(("spec", "local"), [
    ({"type": "NodePort"}, True), ({"type": "ClusterIP", "external_ips": ["192.0.2.9"]}, True),
    ({"type": "ClusterIP"}, False)])
def test_the_policy_for_the_outside_counts_where_there_is_a_way_from_outside(spec: dict[str, Any], local: bool) -> None:
    [found] = service_ports(service("web", "10.0.0.1", external_traffic_policy="Local", **spec))
    assert found.external_local is local


@pytest.mark.parametrize(("made", "found"), [
    (slice_of("web"), KEY),
    (slice_of("web", labels={"service.kubernetes.io/headless": ""}), None),
    (slice_of("web", labels={"service.kubernetes.io/service-proxy-name": "x"}), None),
    (slice_of("web", labels={"kubernetes.io/service-name": ""}), None),
    (EndpointSlice(metadata=slice_of("web").metadata, address_type="IPv6", endpoints=[]), None),
])
def test_slices_that_matter(made: EndpointSlice, found: ServiceKey | None) -> None:
    assert concerns(made) == found


def test_endpoints_of_several_slices_by_port() -> None:
    ports = [EndpointPort(name="http", port=8080, protocol="TCP"), EndpointPort(name="http", port=8081, protocol="UDP"),
             EndpointPort(name="other", port=9, protocol="TCP"), EndpointPort(name="http", port=None)]
    one = slice_of("web", endpoint("10.244.0.9", node=NODE), endpoint("10.244.0.10", ready=None), ports=ports)
    two = slice_of("web", endpoint("10.244.0.9", ready=False, serving=True, terminating=True, zones=["a", "b"]),
                   suffix="b")
    wanted = service_ports(service("web", "10.0.0.1"))[0]
    ready = Endpoint("10.244.0.9", 8080, local=True)
    assert endpoints([one, two], wanted, NODE) == [Endpoint("10.244.0.10", 8080), ready]
    assert endpoints([two, one], wanted, NODE) == [Endpoint("10.244.0.10", 8080), ready]
    ending = Endpoint("10.244.0.9", 8080, False, True, True, False, frozenset({"a", "b"}))
    assert endpoints([two], wanted, NODE) == [ending]


READY, LOCAL = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80, local=True)
ENDING = Endpoint("10.0.0.3", 80, ready=False, terminating=True)
ENDING_HERE = Endpoint("10.0.0.4", 80, ready=False, terminating=True, local=True)
GONE = Endpoint("10.0.0.5", 80, ready=False, serving=False, terminating=True, local=True)
UNREADY = Endpoint("10.0.0.6", 80, ready=False, serving=True, local=True)
NEAR = Endpoint("10.0.0.7", 80, zones=frozenset({"a"}))
FAR = Endpoint("10.0.0.8", 80, zones=frozenset({"b"}), local=True)

CLUSTER = ServicePort(KEY, "http", "tcp", "10.96.0.1", 80)
INNER_LOCAL = ServicePort(KEY, "http", "tcp", "10.96.0.1", 80, internal_local=True)
OUTER_LOCAL = ServicePort(KEY, "http", "tcp", "10.96.0.1", 80, 30000, external_local=True)


@pytest.mark.parametrize(("service_port", "found", "cluster", "local", "anywhere"), [
    (CLUSTER, [], [], [], False),
    (CLUSTER, [READY, LOCAL, ENDING, GONE, UNREADY], [READY, LOCAL], [], True),
    (CLUSTER, [ENDING, ENDING_HERE, GONE, UNREADY], [ENDING, ENDING_HERE], [], True),
    (CLUSTER, [GONE, UNREADY], [], [], False),
    (INNER_LOCAL, [READY, LOCAL, ENDING_HERE], [], [LOCAL], True),
    (INNER_LOCAL, [READY, ENDING_HERE], [], [ENDING_HERE], True),
    (INNER_LOCAL, [READY, UNREADY], [], [], True),
    (OUTER_LOCAL, [READY, LOCAL], [READY, LOCAL], [LOCAL], True),
    (OUTER_LOCAL, [READY, ENDING_HERE], [READY], [ENDING_HERE], True),
    (OUTER_LOCAL, [ENDING, ENDING_HERE], [ENDING, ENDING_HERE], [ENDING_HERE], True),
    # Hints count for all nodes' endpoints only, and only if all ready endpoints have some and one is for us.
    (CLUSTER, [NEAR, FAR], [NEAR], [], True),
    (CLUSTER, [FAR], [FAR], [], True),
    (CLUSTER, [NEAR, FAR, READY], [NEAR, FAR, READY], [], True),
    (OUTER_LOCAL, [NEAR, FAR], [NEAR], [FAR], True),
])
def test_choice(service_port: ServicePort, found: list[Endpoint], cluster: list[Endpoint], local: list[Endpoint],
                anywhere: bool) -> None:
    choice = choose(service_port, found, "a")
    assert (choice.cluster, choice.local, choice.anywhere) == (cluster, local, anywhere)
    assert set(choice.reachable) == {*cluster, *local}
    assert len(choice.reachable) == len(set(choice.reachable))


def test_without_a_zone_hints_mean_nothing() -> None:
    assert choose(CLUSTER, [NEAR, FAR], "").cluster == [NEAR, FAR]
