from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest

from master.apiserver.kinds import strategies
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts, PoolError
from master.apiserver.strategy import Strategy
from sampan.api.errors import ApiError
from tests.support.kinds import SERVICE, context, create_errors, made, service, strategy, update_errors

Tree = dict[str, Any]


def test_defaults() -> None:
    assert made(SERVICE, service()) == {
        "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP",
                 "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
                 "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]},
        "status": {"loadBalancer": {}}}


def test_defaults_by_type() -> None:
    balancer = made(SERVICE, service(type="LoadBalancer"))["spec"]
    assert balancer["externalTrafficPolicy"] == "Cluster"
    assert balancer["allocateLoadBalancerNodePorts"] is True
    alias = made(SERVICE, {"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b"}})["spec"]
    assert alias == {"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None"}
    sticky = made(SERVICE, service(sessionAffinity="ClientIP"))["spec"]
    assert sticky["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert made(SERVICE, service(clusterIP="None"))["spec"]["clusterIPs"] == ["None"]


GOOD = [
    service(), service(type="NodePort"), service(type="LoadBalancer", loadBalancerSourceRanges=["10.0.0.0/8"]),
    service(clusterIP="None", ports=[]), service(clusterIP="10.96.0.10"), service(ports=[
        {"name": "a", "port": 53, "protocol": "UDP"}, {"name": "b", "port": 53}]),
    {"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "example.com."}},
    service(externalIPs=["192.0.2.1"]), service(ports=[{"port": 80, "targetPort": "http"}]),
    service(clusterIP="None", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"]),
]


@pytest.mark.parametrize("tree", GOOD)
def test_accepted(tree: Tree) -> None:
    assert create_errors(SERVICE, tree) == []


@pytest.mark.parametrize(("tree", "expected"), [
    (service(ports=[]), ["spec.ports: Required value"]),
    (service(ports=[{"port": 1}, {"port": 2, "name": "b"}]), ["spec.ports[0].name: Required value"]),
    (service(ports=[{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]),
     ['spec.ports[1].name: Duplicate value: "a"']),
    (service(ports=[{"port": 0}]), ["spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                                    ("spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, "
                                    "inclusive")]),
    (service(ports=[{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
     [('spec.ports[1]: Duplicate value: core.ServicePort{Name:"", Protocol:"TCP", AppProtocol:(*string)(nil), Port:80, '
      'TargetPort:intstr.IntOrString{Type:0, IntVal:0, StrVal:""}, NodePort:0}')]),
    (service(ports=[{"port": 80, "nodePort": 30000}]),
     ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]),
    (service(type="NodePort", ports=[{"port": 1, "name": "a", "nodePort": 30001},
                                     {"port": 2, "name": "b", "nodePort": 30001}]),
     ["spec.ports[1].nodePort: Duplicate value: 30001"]),
    (service(type="Magic"),
     [('spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", '
      '"NodePort"')]),
    (service(type="NodePort", clusterIP="None"),
     ['spec.clusterIPs[0]: Invalid value: "None": may not be set to \'None\' for NodePort services']),
    (service(clusterIP="x"), [('spec.clusterIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or '
                              "2001:db8::ffff)")]),
    (service(clusterIP="10.96.0.5", clusterIPs=["10.96.0.6"]),
     ['spec.clusterIPs: Invalid value: []string{"10.96.0.6"}: first value must match `clusterIP`']),
    (service(ipFamilies=["IPv6"]), ['spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster']),
    (service(ipFamilyPolicy="RequireDualStack"),
     [('spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack '
      "services")]),
    ({"metadata": {"name": "s"}, "spec": {"type": "ExternalName"}}, ["spec.externalName: Required value"]),
    ({"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.96.0.5"}},
     ["spec.clusterIPs: Forbidden: may not be set for ExternalName services"]),
    (service(externalTrafficPolicy="Local"),
     ['spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services']),
    (service(internalTrafficPolicy="x"),
     ['spec.internalTrafficPolicy: Unsupported value: "x": supported values: "Cluster", "Local"']),
    (service(sessionAffinity="x"),
     ['spec.sessionAffinity: Unsupported value: "x": supported values: "ClientIP", "None"']),
    (service(externalIPs=["127.0.0.1"]),
     ['spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)']),
    (service(loadBalancerSourceRanges=["10.0.0.0/8"]),
     ["spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"]),
    (service(healthCheckNodePort=30000),
     [("spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and "
      "`externalTrafficPolicy` is 'Local'")]),
    (service(trafficDistribution="Near"),
     ['spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose"']),
])
def test_refused(tree: Tree, expected: list[str]) -> None:
    assert create_errors(SERVICE, tree) == expected


def test_the_address_is_fixed() -> None:
    old = service(clusterIP="10.96.0.5", clusterIPs=["10.96.0.5"])
    new = service(clusterIP="10.96.0.6", clusterIPs=["10.96.0.6"])
    assert update_errors(SERVICE, old, new) == [
        'spec.clusterIPs[0]: Invalid value: []string{"10.96.0.6"}: may not change once set']
    assert update_errors(SERVICE, old, service(clusterIP="10.96.0.6", clusterIPs=["10.96.0.5"])) == [
        'spec.clusterIPs[0]: Invalid value: []string{"10.96.0.6"}: may not change once set']
    assert update_errors(SERVICE, old, service(clusterIP="10.96.0.6")) == [
        "spec.clusterIPs: Required value",
        "spec.clusterIPs[0]: Invalid value: []string(nil): primary clusterIP can not be unset"]


def test_an_update_that_does_not_repeat_what_was_allocated_keeps_it() -> None:
    old = made(SERVICE, service(type="NodePort", clusterIP="10.96.0.5", ports=[{"port": 80, "nodePort": 30100}]))
    new = service(type="NodePort", selector={"a": "b"})
    rules = strategy(SERVICE)
    rules.default(new)
    rules.prepare_update(new, old, context())
    assert new["spec"]["clusterIPs"] == [new["spec"]["clusterIP"]] == ["10.96.0.5"]
    assert new["spec"]["ports"][0]["nodePort"] == 30100
    assert [*rules.validate(new, context()), *rules.validate_update(new, old, context())] == []


def test_a_change_of_type_drops_what_only_the_old_one_had() -> None:
    old = made(SERVICE, service(type="NodePort", clusterIP="10.96.0.5", ports=[{"port": 80, "nodePort": 30100}]))
    new = deepcopy(old)
    new["spec"]["type"] = "ClusterIP"
    rules = strategy(SERVICE)
    rules.default(new)
    rules.prepare_update(new, old, context())
    assert "nodePort" not in new["spec"]["ports"][0]
    assert "externalTrafficPolicy" not in new["spec"]
    assert rules.validate(new, context()) == []
    alias = deepcopy(old)
    alias["spec"] |= {"type": "ExternalName", "externalName": "a.b"}
    rules.default(alias)
    rules.prepare_update(alias, old, context())
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & alias["spec"].keys()
    assert rules.validate(alias, context()) == []


def test_a_service_that_is_no_load_balancer_any_more_keeps_its_conditions() -> None:
    old = made(SERVICE, service(type="LoadBalancer", loadBalancerClass="example.com/a"))
    old["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}, "conditions": [{"type": "a"}]}
    new = deepcopy(old)
    new["spec"]["type"] = "NodePort"
    rules = strategy(SERVICE)
    rules.prepare_update(new, old, context())
    assert new["status"] == {"loadBalancer": {}, "conditions": [{"type": "a"}]}
    classless = deepcopy(old)
    del classless["spec"]["loadBalancerClass"]
    assert [str(error) for error in rules.validate_update(classless, old, context())] == [
        'spec.loadBalancerClass: Invalid value: "null": may not change once set']


@pytest.mark.parametrize(("fields", "policy", "families"), [
    ({}, "SingleStack", ["IPv4"]),
    ({"clusterIP": "None", "selector": {"a": "b"}}, "SingleStack", ["IPv4"]),
    ({"clusterIP": "None"}, "RequireDualStack", ["IPv4", "IPv6"]),
    ({"clusterIP": "None", "ipFamilies": ["IPv6"]}, "RequireDualStack", ["IPv6", "IPv4"]),
    ({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}, "SingleStack", ["IPv4"]),
    ({"ipFamilyPolicy": "PreferDualStack"}, "PreferDualStack", ["IPv4"]),
])
def test_families(fields: Tree, policy: str, families: list[str]) -> None:
    found = made(SERVICE, service(**fields))
    assert (found["spec"]["ipFamilyPolicy"], found["spec"]["ipFamilies"]) == (policy, families)
    assert create_errors(SERVICE, found) == []


TWO_ADDRESSES: Tree = {"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5", "fd00::5"]}
SINGLE = ('spec.ipFamilyPolicy: Invalid value: "SingleStack": must be \'RequireDualStack\' or \'PreferDualStack\' when '
          "multiple {} are specified")


@pytest.mark.parametrize(("fields", "expected"), [
    (TWO_ADDRESSES, [SINGLE.format("cluster IPs")]),
    (TWO_ADDRESSES | {"ipFamilyPolicy": "PreferDualStack"},
     ['spec.clusterIPs[1]: Invalid value: []string{"10.96.0.5", "fd00::5"}: IPv6 is not configured on this cluster']),
    ({"clusterIP": "None", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]},
     [SINGLE.format("IP families")]),
])
def test_a_second_address_is_refused_not_dropped(fields: Tree, expected: list[str]) -> None:
    assert create_errors(SERVICE, service(**fields)) == expected
    if "clusterIPs" in fields:
        assert update_errors(SERVICE, service(clusterIP="10.96.0.5"), service(**fields)) == expected


def pools() -> tuple[ClusterIPs, NodePorts, Strategy]:
    addresses, ports = ClusterIPs(rng=Random(1)), NodePorts(rng=Random(1))
    return addresses, ports, strategies(addresses, ports)[SERVICE]


async def stored(rules: Strategy, tree: Tree, *, dry_run: bool = False) -> Tree:
    tree = deepcopy(tree)
    rules.default(tree)
    rules.prepare_create(tree, context())
    await rules.allocate(tree, context(dry_run=dry_run))
    return tree


async def test_an_address_is_allocated_above_the_static_band() -> None:
    _, _, rules = pools()
    spec = (await stored(rules, service()))["spec"]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    octets = [int(octet) for octet in spec["clusterIP"].split(".")]
    assert octets[0] == 10
    assert 96 <= octets[1] <= 111
    assert (octets[1], octets[2]) >= (96, 1)


async def test_an_address_on_request() -> None:
    _, _, rules = pools()
    assert (await stored(rules, service(clusterIP="10.96.0.10")))["spec"]["clusterIPs"] == ["10.96.0.10"]
    with pytest.raises(ApiError) as taken:
        await stored(rules, service(clusterIP="10.96.0.10"))
    assert taken.value.code == 422
    assert str(taken.value) == (
        'Service "s" is invalid: spec.clusterIPs: Invalid value: []string{"10.96.0.10"}: failed to allocate IP '
        "10.96.0.10: provided IP is already allocated")
    with pytest.raises(ApiError) as foreign:
        await stored(rules, service(clusterIP="192.168.0.1"))
    assert str(foreign.value).endswith(
        "failed to allocate IP 192.168.0.1: the provided IP (192.168.0.1) is not in the valid range. The range of "
        "valid IPs is 10.96.0.0/12")


async def test_the_first_address_is_the_apis() -> None:
    _, _, rules = pools()
    with pytest.raises(ApiError, match="already allocated"):
        await stored(rules, service(clusterIP="10.96.0.1"))
    api = service(clusterIP="10.96.0.1") | {"metadata": {"name": "kubernetes", "namespace": "default"}}
    assert (await stored(rules, api))["spec"]["clusterIP"] == "10.96.0.1"


async def test_headless_and_external_names_take_nothing() -> None:
    addresses, _, rules = pools()
    free = addresses.free
    await stored(rules, service(clusterIP="None"))
    await stored(rules, {"metadata": {"name": "s"}, "spec": {"type": "ExternalName", "externalName": "a.b"}})
    assert addresses.free == free


async def test_release_gives_back() -> None:
    addresses, _, rules = pools()
    free = addresses.free
    tree = await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": 30007}]))
    assert addresses.free == free - 1
    await rules.release(tree)
    assert addresses.free == free
    await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": 30007}]))


async def test_a_dry_run_reserves_nothing() -> None:
    addresses, _, rules = pools()
    free = addresses.free
    assert (await stored(rules, service(), dry_run=True))["spec"]["clusterIP"]
    assert addresses.free == free


async def test_node_ports() -> None:
    _, _, rules = pools()
    dns = await stored(rules, service(type="NodePort", ports=[
        {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "t", "port": 53}, {"name": "x", "port": 80}]))
    first, second, third = (port["nodePort"] for port in dns["spec"]["ports"])
    assert first == second != third
    assert 30000 <= first <= 32767
    with pytest.raises(ApiError) as low:
        await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": 80}]))
    assert str(low.value) == (
        'Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. '
        "The range of valid ports is 30000-32767")
    with pytest.raises(ApiError, match="provided port is already allocated"):
        await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": first}]))


async def test_a_failure_gives_back_what_was_taken_before() -> None:
    addresses, _, rules = pools()
    free = addresses.free
    with pytest.raises(ApiError):
        await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": 1}]))
    assert addresses.free == free


async def test_a_load_balancer_may_do_without_node_ports_and_with_a_health_check() -> None:
    _, _, rules = pools()
    plain = await stored(rules, service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert "nodePort" not in plain["spec"]["ports"][0]
    local = await stored(rules, service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert 30000 <= local["spec"]["healthCheckNodePort"] <= 32767


async def test_an_update_of_type_takes_and_gives_back() -> None:
    addresses, ports, rules = pools()
    old = await stored(rules, service())
    new = deepcopy(old)
    new["spec"]["type"] = "NodePort"
    rules.default(new)
    rules.prepare_update(new, old, context())
    await rules.allocate_update(new, old, context())
    number = new["spec"]["ports"][0]["nodePort"]
    assert new["spec"]["clusterIP"] == old["spec"]["clusterIP"]
    again = deepcopy(new)
    again["spec"]["type"] = "ClusterIP"
    rules.prepare_update(again, new, context())
    await rules.allocate_update(again, new, context())
    with pytest.raises(PoolError):
        ports.take(number)  # until the update is stored
    await rules.release(new, keep=again)
    assert ports.take(number) == number
    alias = deepcopy(again)
    alias["spec"] |= {"type": "ExternalName", "externalName": "a.b"}
    rules.prepare_update(alias, again, context())
    await rules.allocate_update(alias, again, context())
    await rules.release(again, keep=alias)
    assert addresses.take(old["spec"]["clusterIP"]) == old["spec"]["clusterIP"]


def test_repair_takes_what_the_services_hold() -> None:
    addresses, ports = ClusterIPs("10.0.0.0/29"), NodePorts((30000, 30001))
    held = service(type="NodePort", clusterIP="10.0.0.2", ports=[{"port": 1, "nodePort": 30001}])
    addresses.repair([held])
    ports.repair([held])
    assert addresses.free == 4
    assert sorted(addresses.take() for _ in range(4)) == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert ports.take() == 30000
    with pytest.raises(Exception, match="range is full"):
        addresses.take()
    with pytest.raises(Exception, match="range is full"):
        ports.take()


async def test_a_full_pool_is_our_fault() -> None:
    rules = strategies(ClusterIPs("10.0.0.0/30"), NodePorts())[SERVICE]
    await stored(rules, service())
    with pytest.raises(ApiError) as full:
        await stored(rules, service())
    assert full.value.code == 500
    assert "failed to allocate a serviceIP: range is full" in str(full.value)


def test_status_update() -> None:
    old = made(SERVICE, service(type="LoadBalancer"))
    new = deepcopy(old)
    new["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    rules = strategy(SERVICE)
    rules.default(new)
    assert rules.validate_update(new, old, context("status")) == []
    assert new["status"]["loadBalancer"]["ingress"][0]["ipMode"] == "VIP"
    plain = made(SERVICE, service())
    plain["status"] = new["status"]
    assert [str(error) for error in rules.validate_update(plain, plain, context("status"))] == [
        "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]


def test_warnings_and_fields() -> None:
    tree = service(clusterIP="None", externalIPs=["192.0.2.1"], sessionAffinity="ClientIP")
    assert strategy(SERVICE).warnings(made(SERVICE, tree)) == [
        "spec.externalIPs is ignored for headless services", "spec.SessionAffinity is ignored for headless services"]
    assert strategy(SERVICE).fields(made(SERVICE, tree)) == {"spec.clusterIP": "None", "spec.type": "ClusterIP"}
    long = service(externalIPs=["2001:db8:0:0::1", "2001:db8::1"])
    assert strategy(SERVICE).warnings(made(SERVICE, long)) == [
        ('spec.externalIPs[0]: IPv6 address "2001:db8:0:0::1" is not in RFC 5952 canonical format ("2001:db8::1"), '
         "which may cause controller apply-loops")]
    alias = service(type="ExternalName", externalName="a.b", externalIPs=["192.0.2.1"])
    alias["metadata"]["annotations"] = {"service.kubernetes.io/topology-aware-hints": "auto"}
    assert strategy(SERVICE).warnings(made(SERVICE, alias)) == [
        ("annotation service.kubernetes.io/topology-aware-hints is deprecated, please use "
         "service.kubernetes.io/topology-mode instead"),
        'spec.externalIPs is ignored when spec.type is "ExternalName"']


async def test_a_health_check_port_that_is_taken() -> None:
    _, ports, rules = pools()
    ports.take(30500)
    with pytest.raises(ApiError) as refused:
        await stored(rules, service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=30500))
    assert refused.value.code == 500
    assert str(refused.value).endswith("failed to allocate requested HealthCheck NodePort 30500: provided port is "
                                       "already allocated")


def test_a_look_finds_what_was_lost_and_who_cannot_be_right() -> None:
    addresses, ports = ClusterIPs("10.0.0.0/24"), NodePorts((30000, 30100))

    def held(name: str, address: str, port: int) -> Tree:
        made = service(type="NodePort", clusterIP=address, clusterIPs=[address], ports=[
            {"port": 1, "nodePort": port}, {"port": 1, "protocol": "UDP", "nodePort": port}])
        made["metadata"]["name"] = name
        return made

    good = held("good", "10.0.0.9", 30009)
    assert addresses.repair([good]) == ports.repair([good]) == []
    addresses.take("10.0.0.7")
    ports.take(30007)
    services = [good, held("lost", "10.0.0.8", 30008), held("twin", "10.0.0.9", 30009), held("far", "10.9.9.9", 80)]
    found = [(fault.service["metadata"]["name"], fault.reason, fault.message)
             for fault in (*addresses.check(services), *ports.check(services))]
    assert found == [
        ("twin", "ClusterIPAlreadyAllocated",
         "Cluster IP [IPv4]:10.0.0.9 was assigned to multiple services; please recreate service"),
        ("far", "ClusterIPOutOfRange",
         "Cluster IP [IPv4]:10.9.9.9 is not within the service CIDR 10.0.0.0/24; please recreate service"),
        ("lost", "ClusterIPNotAllocated", "Cluster IP [IPv4]:10.0.0.8 is not allocated; repairing"),
        ("twin", "PortAlreadyAllocated", "Port 30009 was assigned to multiple services; please recreate service"),
        ("far", "PortOutOfRange", "Port 80 is not within the port range 30000-30100; please recreate service"),
        ("lost", "PortNotAllocated", "Port 30008 is not allocated; repairing"),
    ]
    with pytest.raises(PoolError):
        ports.take(30008)
    for _ in range(2):  # whose Service is being written takes a moment to be seen
        with pytest.raises(PoolError):
            addresses.take("10.0.0.7")
        addresses.check([good])
        ports.check([good])
    assert addresses.take("10.0.0.7") == "10.0.0.7"
    assert ports.take(30007) == 30007


async def test_a_health_check_port_is_none_of_the_services_own() -> None:
    _, ports, rules = pools()
    old = await stored(rules, service(type="NodePort", ports=[{"port": 80, "nodePort": 30500}]))
    new = deepcopy(old)
    new["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30500}
    with pytest.raises(ApiError, match="failed to allocate requested HealthCheck NodePort 30500: provided port is"):
        await rules.allocate_update(new, old, context())
    new["spec"]["healthCheckNodePort"] = 30501
    await rules.allocate_update(new, old, context())
    again = deepcopy(new)
    await rules.allocate_update(again, new, context())
    assert again == new
    with pytest.raises(PoolError):
        ports.take(30501)
