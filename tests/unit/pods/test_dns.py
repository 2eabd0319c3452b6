"""A pod's resolver and host name, where they meet limits or miss something."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.pods.containers import sandbox_spec
from agent.pods.dns import ClusterDns, DnsConfig, Resolver, parse, pod_resolver
from agent.pods.events import PodEvents
from agent.pods.files import HostnameFailure, PodFiles, own_hostname
from sampan.api import resources
from sampan.loop.clock import FakeClock
from tests.support.dns import kube_dns
from tests.support.pods import FakeReports, FakeView, make_pod

NODE_RESOLVER = Resolver(["192.0.2.53"], ["lan"], ["rotate"])


def test_resolver_of_a_pod_without_the_clusters_dns_tells_why() -> None:
    resolver, [(reason, message)] = pod_resolver(make_pod(), DnsConfig(node=lambda: NODE_RESOLVER))
    assert resolver == NODE_RESOLVER
    assert reason == "MissingClusterDNS"
    assert message.endswith('cannot create Pod using "ClusterFirst" policy. Falling back to "Default" policy.')
    assert pod_resolver(make_pod(hostNetwork=True), DnsConfig(node=lambda: NODE_RESOLVER))[1] == []


def test_options_add_up_and_the_last_search_list_counts() -> None:
    """As the C library reads it: resolv.conf(5)."""
    found = parse("search a b\noptions ndots:2 rotate\nsearch lan.\n# options debug\noptions timeout:1 ndots:3\n")
    assert found == Resolver([], ["lan"], ["rotate", "timeout:1", "ndots:3"])


def test_resolver_within_the_limits_of_resolvers() -> None:
    config = {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"], "searches": [
        "x" * 254, *(f"{number:02}.{'y' * 100}" for number in range(30))]}
    resolver, problems = pod_resolver(make_pod(dnsConfig=config), DnsConfig(["10.96.0.10"]))
    assert list(resolver.nameservers) == ["10.96.0.10", "1.1.1.1", "1.1.1.2"]
    assert list(resolver.searches[:3]) == ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    assert resolver.searches[3].startswith("00.")
    assert 1900 < len(" ".join(resolver.searches)) <= 2048
    assert [reason for reason, _ in problems] == ["DNSConfigForming"] * 2
    assert problems[0][1] == ("Nameserver limits were exceeded, some nameservers have been omitted, the applied "
                              "nameserver line is: 10.96.0.10 1.1.1.1 1.1.1.2")


def test_resolver_by_the_service_of_the_clusters_dns() -> None:
    view = FakeView()
    reports = FakeReports(view)
    dns = ClusterDns(view, "/nowhere", PodEvents(reports, "node-1", FakeClock()))
    assert str(dns.resolver(make_pod())) == ""
    assert reports.reasons() == ["MissingClusterDNS"]
    view.put(resources.SERVICES, kube_dns("k8s.example.org"))
    assert str(dns.resolver(make_pod())) == (
        "search default.svc.k8s.example.org svc.k8s.example.org k8s.example.org\nnameserver 10.96.0.10\n"
        "options ndots:5\n")
    assert len(reports.events) == 1


def test_host_name_as_a_whole_name() -> None:
    assert own_hostname(make_pod("web", setHostnameAsFQDN=True), "cluster.local") == "web"
    assert own_hostname(make_pod("web", subdomain="sub"), "cluster.local") == "web"
    pod = make_pod("web", subdomain="sub", setHostnameAsFQDN=True)
    assert sandbox_spec(pod, "infra:1", "node-1", 0, "/parent").hostname == "web.sub.default.svc.cluster.local"
    long = make_pod("w" * 40, subdomain="sub", setHostnameAsFQDN=True)
    with pytest.raises(HostnameFailure, match=r"is too long \(64 is the max, 70 characters requested\)"):
        own_hostname(long, "cluster.local")


def test_the_host_name_is_in_a_file_of_ours_too(tmp_path: Path) -> None:
    dns = ClusterDns(FakeView(), "/nowhere", PodEvents(FakeReports(FakeView()), "node-1", FakeClock()))
    files = PodFiles(tmp_path / "pods")
    pod = make_pod("web", subdomain="sub", setHostnameAsFQDN=True)
    written = files.write(pod, "10.244.0.2", dns)
    assert Path(written["/etc/hostname"]).read_text() == "web.sub.default.svc.cluster.local\n"
    assert "/etc/hostname" not in files.write(make_pod("host", hostNetwork=True), "192.0.2.1", dns)
    files.remove(pod.metadata.uid)
    assert not files.exists(pod.metadata.uid)
