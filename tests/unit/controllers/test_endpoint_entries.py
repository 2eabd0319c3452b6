"""What EndpointSlices and Endpoints say of one pod behind a Service."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from master.controllers import endpoints_plan as plans
from sampan.api.times import Time
from sampan.api.types.core_v1 import Pod, PodIP, Service, ServicePort, ServiceSpec
from sampan.loop.clock import FakeClock
from tests.support.controllers import LABELS, meta, pod

NOW = Time.of(FakeClock().now())


def service(name: str = "web", **spec: Any) -> Service:
    defaults: dict[str, Any] = {"selector": LABELS, "ip_families": ["IPv4"], "cluster_ip": "10.0.0.1",
                                "ports": [ServicePort(name="http", port=80, target_port=8080, protocol="TCP")]}
    return Service(metadata=meta(name, uid="s-1"), spec=ServiceSpec(**defaults | spec))


def backend(*, ready: bool = True, **spec: str) -> Pod:
    made = pod("db-0", node="n1", ready=ready, since=NOW)
    return replace(made, spec=replace(made.spec, **spec),
                   status=replace(made.status, pod_ip="10.1.0.1", pod_ips=[PodIP(ip="10.1.0.1")]))


def test_protocols_are_the_service_s() -> None:
    of = service(ports=[ServicePort(name="dns", port=53, target_port=53, protocol="UDP"),
                        ServicePort(name="web", port=80)])
    [item] = plans.plan_slices(of, [backend()], []).create
    assert [(port.name, port.port, port.protocol) for port in item.ports] == [("dns", 53, "UDP"), ("web", 80, "TCP")]
    [subset] = plans.endpoints_object(of, [backend()]).subsets
    assert [(port.name, port.port, port.protocol) for port in subset.ports] == [("dns", 53, "UDP"), ("web", 80, "TCP")]


def test_a_host_name_counts_within_the_service_of_the_pod_s_subdomain() -> None:
    named, other = backend(hostname="db-0", subdomain="web"), backend(hostname="db-0", subdomain="other")
    for of, expected in ((named, "db-0"), (other, None), (backend(subdomain="web"), None)):
        assert plans.endpoint(service(), of, "10.1.0.1", None).hostname == expected
        [subset] = plans.endpoints_object(service(), [of]).subsets
        assert [item.hostname for item in subset.addresses] == [expected]


def test_endpoints_say_which_pod_is_where() -> None:
    [subset] = plans.endpoints_object(service(), [backend(ready=False)]).subsets
    assert subset.addresses == []
    [shown] = subset.not_ready_addresses
    assert (shown.ip, shown.node_name) == ("10.1.0.1", "n1")
    assert shown.target_ref is not None
    assert (shown.target_ref.kind, shown.target_ref.name) == ("Pod", "db-0")
    [subset] = plans.endpoints_object(service(publish_not_ready_addresses=True), [backend(ready=False)]).subsets
    assert [item.ip for item in subset.addresses] == ["10.1.0.1"]
