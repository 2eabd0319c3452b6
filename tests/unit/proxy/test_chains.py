"""Rules by name and by what they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest

from agent.proxy.chains import JUMPS, LAST, NodeFacts, chain_hash, is_ours, is_service_chain, probability, wanted
from agent.proxy.model import concerns
from netplugin.tables import ChainId, Edit, Rules, restore_input, target
from sampan.api.types.core_v1 import Service
from sampan.api.types.discovery_v1 import EndpointPort, EndpointSlice
from tests.support.services import NODE, endpoint, port, service, slice_of

FACTS = NodeFacts(NODE, "192.0.2.1", "10.244.0.0/16")


def rules_of(services: Sequence[Service], slices: Sequence[EndpointSlice] = (), **facts: Any) -> dict[str, Rules]:
    """All chains by table/name."""
    by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in slices:
        key = concerns(item)
        assert key is not None
        by_service.setdefault(key, []).append(item)
    node = NodeFacts(**{**{name: getattr(FACTS, name) for name in ("name", "ip", "pod_cidr")}, **facts})
    return {f"{chain.table}/{chain.name}": rules for chain, rules in wanted(services, by_service, node).items()}


def test_names_are_kube_proxy_s() -> None:
    """The hashes that kube-proxy's own tests expect."""
    assert chain_hash("ns1/svc1:p80", "tcp") == "XPGD46QRK7WJZT7O"
    assert chain_hash("ns1/svc1:p80", "tcp", "10.180.0.1:80") == "SXIVWICOYRO3J4NJ"
    assert chain_hash("ns5/svc5:p80", "tcp") == "NUKIZ6OKUXPJNT4C"


def test_what_is_ours() -> None:
    assert is_service_chain(ChainId("nat", "KUBE-SVC-XPGD46QRK7WJZT7O"))
    assert is_ours(ChainId("filter", "KUBE-PROXY-FIREWALL"))
    for others in ("KUBE-SVC-mine", "KUBE-IPVS-FILTER", "DOCKER", "PREROUTING", "SAMPAN-FORWARD"):
        assert not is_ours(ChainId("nat", others))
    assert not is_ours(ChainId("mangle", "KUBE-SERVICES"))


def test_a_cluster_ip() -> None:
    found = rules_of([service("svc1", "172.30.0.41", port("p80", 80), namespace="ns1")],
                     [slice_of("svc1", "10.180.0.2", "10.180.0.1", namespace="ns1", ports=[_port("p80", 80)])])
    to_service = ('-d 172.30.0.41/32 -p tcp -m comment --comment "ns1/svc1:p80 cluster IP" -m tcp --dport 80')
    assert found["nat/KUBE-SERVICES"] == (f"{to_service} -j KUBE-SVC-XPGD46QRK7WJZT7O", LAST)
    second = f"KUBE-SEP-{chain_hash('ns1/svc1:p80', 'tcp', '10.180.0.2:80')}"
    assert found["nat/KUBE-SVC-XPGD46QRK7WJZT7O"] == (
        f"! -s 10.244.0.0/16 {to_service} -j KUBE-MARK-MASQ",
        ('-m comment --comment "ns1/svc1:p80 -> 10.180.0.1:80" -m statistic --mode random --probability 0.50000000000 '
        "-j KUBE-SEP-SXIVWICOYRO3J4NJ"),
        f'-m comment --comment "ns1/svc1:p80 -> 10.180.0.2:80" -j {second}')
    assert found["nat/KUBE-SEP-SXIVWICOYRO3J4NJ"] == (
        '-s 10.180.0.1/32 -m comment --comment "ns1/svc1:p80" -j KUBE-MARK-MASQ',
        '-p tcp -m comment --comment "ns1/svc1:p80" -m tcp -j DNAT --to-destination 10.180.0.1:80')
    assert found["filter/KUBE-SERVICES"] == ()


def _port(name: str, number: int, protocol: str = "TCP") -> EndpointPort:
    return EndpointPort(name=name, port=number, protocol=protocol)


def suffix(name: str = "default/web:http", protocol: str = "tcp") -> str:
    return chain_hash(name, protocol)


OUTER = {"type": "LoadBalancer", "external_ips": ["198.51.100.7"], "ingress": ["192.0.2.1"]}


def test_without_endpoints_everything_rejects_at_once() -> None:
    found = rules_of([service("web", "10.96.0.1", port("http", 80, node_port=30080), **OUTER)])
    assert found["nat/KUBE-SERVICES"] == (LAST,)
    assert found["nat/KUBE-NODEPORTS"] == ()
    assert not any(name.startswith("nat/KUBE-S") for name in found if name != "nat/KUBE-SERVICES")
    why = '-m comment --comment "default/web:http has no endpoints"'
    verdict = "-j REJECT --reject-with icmp-port-unreachable"
    assert found["filter/KUBE-SERVICES"] == (f"-d 10.96.0.1/32 -p tcp {why} -m tcp --dport 80 {verdict}",)
    assert found["filter/KUBE-EXTERNAL-SERVICES"] == (
        f"-d 198.51.100.7/32 -p tcp {why} -m tcp --dport 80 {verdict}",
        f"-d 192.0.2.1/32 -p tcp {why} -m tcp --dport 80 {verdict}",
        f"-p tcp {why} -m addrtype --dst-type LOCAL -m tcp --dport 30080 {verdict}")


def test_traffic_from_outside_is_masqueraded() -> None:
    found = rules_of([service("web", "10.96.0.1", port("http", 80, node_port=30080), **OUTER)],
                     [slice_of("web", endpoint("10.244.1.5", node=NODE))])
    assert f"nat/KUBE-SVL-{suffix()}" not in found
    entry = f"KUBE-EXT-{suffix()}"
    assert [target(rule) for rule in found["nat/KUBE-SERVICES"]] == [f"KUBE-SVC-{suffix()}", entry, entry,
                                                                     "KUBE-NODEPORTS"]
    assert [target(rule) for rule in found["nat/KUBE-NODEPORTS"]] == [entry]
    assert [target(rule) for rule in found[f"nat/{entry}"]] == ["KUBE-MARK-MASQ", f"KUBE-SVC-{suffix()}"]
    assert found["filter/KUBE-EXTERNAL-SERVICES"] == ()


@pytest.mark.parametrize("here", [True, False])
def test_external_policy_local(here: bool) -> None:
    """The source address is kept, and traffic stays here; but what comes from here may go anywhere."""
    found = rules_of([service("web", "10.96.0.1", port("http", 80, node_port=30080), external_traffic_policy="Local",
                              health_check_node_port=32000, **OUTER)],
                     [slice_of("web", endpoint("10.244.1.5", node=NODE if here else "node-2"), "10.244.2.5")])
    everywhere, local = f"KUBE-SVC-{suffix()}", f"KUBE-SVL-{suffix()}"
    assert [target(rule) for rule in found[f"nat/KUBE-EXT-{suffix()}"]] == [
        everywhere, "KUBE-MARK-MASQ", everywhere, *([local] if here else [])]
    assert (f"nat/{local}" in found) == here
    assert all("has no local endpoints" in rule and rule.endswith("-j DROP")
               for rule in found["filter/KUBE-EXTERNAL-SERVICES"])
    assert len(found["filter/KUBE-EXTERNAL-SERVICES"]) == (0 if here else 3)
    assert found["filter/KUBE-NODEPORTS"] == (
        '-p tcp -m comment --comment "default/web:http health check node port" -m tcp --dport 32000 -j ACCEPT',)


@pytest.mark.parametrize("here", [True, False])
def test_internal_policy_local(here: bool) -> None:
    found = rules_of([service("web", "10.96.0.1", internal_traffic_policy="Local")],
                     [slice_of("web", endpoint("10.244.1.5", node=NODE if here else "node-2"), "10.244.2.5")])
    local = f"KUBE-SVL-{suffix()}"
    assert f"nat/KUBE-SVC-{suffix()}" not in found
    assert (f"nat/{local}" in found) == here
    assert [target(rule) for rule in found["nat/KUBE-SERVICES"][:-1]] == ([local] if here else [])
    assert [target(rule) for rule in found["filter/KUBE-SERVICES"]] == ([] if here else ["DROP"])
    assert len([name for name in found if name.startswith("nat/KUBE-SEP")]) == here


@pytest.mark.parametrize(("node_ip", "inside"), [("192.0.2.1", True), ("198.51.100.1", False), ("", False)])
def test_source_ranges(node_ip: str, inside: bool) -> None:
    found = rules_of([service("web", "10.96.0.1", load_balancer_source_ranges=["203.0.113.0/25", "192.0.2.0/24"],
                              **OUTER)], [slice_of("web", "10.244.1.5")], ip=node_ip)
    firewall, entry = f"KUBE-FW-{suffix()}", f"KUBE-EXT-{suffix()}"
    comment = '-m comment --comment "default/web:http loadbalancer IP"'
    assert found[f"nat/{firewall}"] == (
        f"-s 203.0.113.0/25 {comment} -j {entry}", f"-s 192.0.2.0/24 {comment} -j {entry}",
        # A node that is in a range may have the address itself.
        *([f"-s 192.0.2.1/32 {comment} -j {entry}"] if inside else []),
        '-m comment --comment "other traffic to default/web:http will be dropped by KUBE-PROXY-FIREWALL"')
    assert [target(rule) for rule in found["nat/KUBE-SERVICES"][:-1]] == [f"KUBE-SVC-{suffix()}", entry, firewall]
    assert found["filter/KUBE-PROXY-FIREWALL"] == (
        (f'-d 192.0.2.1/32 -p tcp -m comment --comment "default/web:http traffic not accepted by {firewall}" '
        "-m tcp --dport 80 -j DROP"),)


def test_affinity_comes_before_chance() -> None:
    found = rules_of([service("web", "10.96.0.1", affinity=77)], [slice_of("web", "10.244.1.5", "10.244.1.6")])
    rules = found[f"nat/KUBE-SVC-{suffix()}"]
    assert ["--rcheck --seconds 77 --reap" in rule for rule in rules] == [False, True, True, False, False]
    chain = target(rules[1])
    assert f"--name {chain} " in rules[1]
    assert f"-m recent --set --name {chain} " in found[f"nat/{chain}"][1]


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_protocols(protocol: str) -> None:
    found = rules_of([service("web", "10.96.0.1", port("http", 80, protocol))],
                     [slice_of("web", "10.244.1.5", ports=[_port("http", 8080, protocol)])])
    lower = protocol.lower()
    assert f"-p {lower} " in found["nat/KUBE-SERVICES"][0]
    assert f"-m {lower} -j DNAT" in found[f"nat/KUBE-SEP-{suffix_of_endpoint('10.244.1.5:8080', lower)}"][1]


def suffix_of_endpoint(where: str, protocol: str) -> str:
    return chain_hash("default/web:http", protocol, where)


@pytest.mark.parametrize("count", [*range(1, 12), 50, 333])
def test_each_endpoint_is_as_likely_as_the_others(count: int) -> None:
    left, share = Fraction(1), []
    for remaining in range(count, 0, -1):
        chance = Fraction(probability(remaining)) if remaining > 1 else Fraction(1)
        share.append(left * chance)
        left -= share[-1]
    assert all(abs(part * count - 1) < Fraction(1, 10 ** 5) for part in share)


def test_a_node_without_pod_network_masquerades_only_what_must_be() -> None:
    made = [service("web", "10.96.0.1")], [slice_of("web", "10.244.1.5")]
    assert "! -s" in rules_of(*made)[f"nat/KUBE-SVC-{suffix()}"][0]
    assert "! -s" not in str(rules_of(*made, pod_cidr="")[f"nat/KUBE-SVC-{suffix()}"])
    assert "--random-fully" not in str(rules_of(*made, random_fully=False)["nat/KUBE-POSTROUTING"])


def test_every_jump_leads_somewhere() -> None:
    made = rules_of([service("web", "10.96.0.1", port("http", 80, node_port=30080), affinity=5,
                             external_traffic_policy="Local", **OUTER),
                     service("none", "10.96.0.2")], [slice_of("web", endpoint("10.244.1.5", node=NODE), "10.244.1.6")])
    for name, rules in made.items():
        table = name.partition("/")[0]
        for rule in rules:
            if target(rule).startswith("KUBE"):
                assert f"{table}/{target(rule)}" in made
    assert all(f"{chain.table}/{target(rule)}" in made for chain, rule in JUMPS)
    assert all(len(name.partition("/")[2]) <= 28 for name in made)


def test_input_for_iptables_restore() -> None:
    nat, other = ChainId("nat", "KUBE-A"), ChainId("filter", "KUBE-B")
    edit = Edit({nat: ("-j ACCEPT",), other: ()}, [(ChainId("nat", "OUTPUT"), "-j OLD")],
                [(ChainId("nat", "OUTPUT"), "-j KUBE-A")], [ChainId("nat", "OLD")])
    assert restore_input(edit) == ("*nat\n:KUBE-A - [0:0]\n:OLD - [0:0]\n-D OUTPUT -j OLD\n-A KUBE-A -j ACCEPT\n"
                                   "-I OUTPUT 1 -j KUBE-A\n-X OLD\nCOMMIT\n*filter\n:KUBE-B - [0:0]\nCOMMIT\n")
    assert not Edit()
    assert re.fullmatch(r"\n", restore_input(Edit()))


@pytest.mark.parametrize(("rule", "leads_to"), [
    ("-j MARK --set-xmark 0x4000/0x4000", "MARK"), ("-p tcp -j DNAT --to-destination 1.2.3.4:5", "DNAT"),
    ('-m comment --comment "a -j b" -j KUBE-X', "KUBE-X"), ('-m comment --comment "nowhere"', ""),
])
def test_where_a_rule_leads(rule: str, leads_to: str) -> None:
    assert target(rule) == leads_to
