"""`sampan doctor`: what it judges, what it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from sampan.cli import certs, engine
from sampan.cli.doctor import checks, findings
from sampan.cli.doctor.facts import Disk, Facts, Iptables, Kernel, Names, Reached, Resolver, Rules
from sampan.cli.doctor.findings import Level
from sampan.cli.doctor.site import Port, site
from sampan.cli.preflight import Problem
from tests.support.doctor import ACCEPTS, BOTH, DROPS, FORWARD_DROPS, GOOD, MASTER, NODE, NOW, single

NODE_PORTS = [Port(30000, 32767, "tcp"), Port(30000, 32767, "udp")]


def test_a_node_and_a_master_have_their_ports() -> None:
    assert list(NODE.ports) == [*single(10250, 10256), *single(8472, protocol="udp"), *NODE_PORTS]
    assert list(BOTH.ports) == [*single(6443, 6444), *NODE.ports]
    assert list(site(MASTER, None).ports) == single(6443, 6444)
    assert site(None, None).ports == NODE.ports


@pytest.mark.parametrize(("agent", "field", "value"), [
    ({"server": "10.0.0.1"}, "server", ("10.0.0.1", 6443)),
    ({"server": "https://10.0.0.1:8443"}, "lines", (("10.0.0.1", 6444),)),
    ({"node-server": "a:1, b"}, "lines", (("a", 1), ("b", 6444))),
    ({"node-server": ["a:1", "b"]}, "lines", (("a", 1), ("b", 6444))),
    ({"accept-forwarded": False}, "accepts_forwarded", False),
    ({"accept-forwarded": "off"}, "accepts_forwarded", False),
    ({"cni-conf-dir": "/etc/cni/net.d"}, "own_network", False),
    ({"network-backend": "host-gw", "port": 0, "proxy-healthz-address": ""}, "ports", tuple(NODE_PORTS)),
    ({"resolv-conf": "/x"}, "resolv_conf", "/x"),
])
def test_settings_of_the_agent(agent: Mapping[str, object], field: str, value: object) -> None:
    assert getattr(site(None, agent), field) == value


def test_the_master_s_host_knows_the_address_of_the_dns() -> None:
    assert BOTH.cluster_dns == "10.96.0.10"
    assert site({"service-cidr": "172.20.0.0/16", "cluster-dns": "172.20.0.53"}, None).cluster_dns == "172.20.0.53"
    assert NODE.cluster_dns == ""


def test_a_good_host() -> None:
    found = checks.judge(GOOD)
    assert {item.level for item in found} == {Level.OK}
    assert not findings.faulty(found)
    assert {item.check for item in found} == {
        "kernel modules", "sysctl", "iptables", "FORWARD", "Docker", "disk", "services", "master", "clock",
        "certificates", "cluster DNS", "resolv.conf"}


def docker(**changes: object) -> Facts:
    assert isinstance(GOOD.engine, engine.EngineFacts)
    return replace(GOOD, engine=replace(GOOD.engine, **changes))  # type: ignore[arg-type]  # values of a table


def ends(name: str, days: float, facts: Facts = GOOD) -> Facts:
    return replace(facts, certificates=[certs.Certificate(name, "x", NOW + timedelta(days=days), "y", Path("/z"))])


CASES = [
    (replace(GOOD, kernel=Kernel({"br_netfilter": True}, {})), "fault", "br_netfilter is not loaded",
     "modprobe br_netfilter"),
    (replace(GOOD, kernel=Kernel({"vxlan": False}, {})), "fault", "the kernel module vxlan is neither loaded", ""),
    (replace(GOOD, kernel=Kernel({}, {checks.IP_FORWARD: 0})), "fault", "net.ipv4.ip_forward is 0",
     "sysctl -w net.ipv4.ip_forward=1"),
    (replace(GOOD, kernel=Kernel({}, {checks.BRIDGE_NF: 0})), "fault", "bridge-nf-call-iptables is 0",
     "sysctl -w net.bridge.bridge-nf-call-iptables=1"),
    (replace(GOOD, kernel=Kernel({}, {checks.INSTANCES: 128})), "warning", "max_user_instances is 128",
     "echo 'fs.inotify.max_user_instances = 8192' >>/etc/sysctl.d/60-sampan.conf"),
    (replace(GOOD, kernel=Kernel({}, {checks.WATCHES: 8192})), "warning", "max_user_watches is 8192",
     "sysctl -w fs.inotify.max_user_watches=524288"),
    (replace(GOOD, missing_commands=["iptables-save"]), "fault", "not on this host: iptables-save",
     "apt-get install iptables || dnf install iptables-nft"),
    (replace(GOOD, iptables=Iptables((1, 8, 4), "nf_tables", ACCEPTS)), "warning", "1.8.4 may write rules twice",
     "apt-get install iptables || dnf upgrade iptables-nft"),
    (replace(GOOD, iptables=Iptables((1, 8, 9), "nf_tables", ACCEPTS, DROPS)), "fault", "rules of two flavours",
     "iptables-legacy -P FORWARD ACCEPT"),
    (replace(GOOD, iptables=Iptables((1, 8, 9), "legacy", ACCEPTS, Rules(chains={"INPUT": ["-s 1.2.3.4 -j DROP"]}))),
     "warning", "see that the nf_tables ones let pods through", "iptables-nft-save -t filter"),
    (replace(FORWARD_DROPS, units={"agent": False}), "fault", "the agent, which has them accepted, does not run",
     "systemctl enable --now sampan-agent"),
    (FORWARD_DROPS, "fault", "SAMPAN-FORWARD, which accepts them, is not asked", "systemctl restart sampan-agent"),
    (replace(FORWARD_DROPS, site=replace(NODE, accepts_forwarded=False)), "fault", "told to leave that alone",
     "iptables -I FORWARD -s 10.244.0.0/16 -j ACCEPT"),
    (replace(GOOD, engine=Problem("Docker does not answer at /s", "start it")), "fault", "Docker does not answer at /s",
     "systemctl enable --now docker"),
    (replace(GOOD, engine=Problem("Docker is not there: there is no /s", "install")), "fault", "/s: install", ""),
    (docker(root_dir="/var/snap/docker/x"), "fault", "Docker is a snap", "snap remove docker"),
    (docker(version="19.03.1"), "fault", "Docker 19.03.1 is too old", ""),
    (docker(live_restore=False), "warning", "live-restore is off",
     """mkdir -p /etc/docker && echo '{"live-restore": true}' >/etc/docker/daemon.json"""),
    (docker(selinux=True), "fault", "confines containers by SELinux",
     "grep -rn selinux-enabled"),
    (docker(log_plugins=("syslog",)), "fault", "no log driver json-file", ""),
    (docker(log_driver="journald"), "ok", "json-file; journald, Docker's own default", ""),
    (replace(GOOD, disks=[Disk("/d", 1000, 99)]), "fault", "10% of the file system of /d is free: the node takes no",
     "journalctl --vacuum-size=200M"),
    (replace(GOOD, disks=[Disk("/d", 1000, 149)]), "warning", "15% of the file system of /d", "docker image prune "),
    (replace(GOOD, disks=[Disk("/d", 1000, 500, 1000, 49)]), "fault", "5% of its inodes", "du --inodes -xd 3 /d"),
    (replace(GOOD, units={"agent": False}), "fault", "the agent does not run", "systemctl enable --now sampan-agent"),
    (replace(GOOD, units={"agent": False}, site=replace(NODE, systemd=False)), "fault", "the agent does not run",
     "sampan-agent --config /etc/sampan/agent.yaml"),
    (replace(GOOD, units={"master": False}, site=replace(BOTH, systemd=False)), "fault", "the master does not run",
     "sampan up"),
    (replace(GOOD, site=site(None, None), units={}), "ok", "this host is in no cluster", ""),
    (replace(GOOD, reached=[Reached("it", "m:1", Problem("no answer from m:1", "a firewall"))]), "fault",
     "no answer from m:1: a firewall", ""),
    (replace(GOOD, skew=-300), "fault", "300 s behind the master's", "timedatectl set-ntp true"),
    (replace(GOOD, skew=30), "warning", "30 s ahead of the master's", "timedatectl set-ntp true"),
    (ends("node", -1), "fault", "node ended on 2026-04-30", "sampan reset"),
    (ends("node", 29), "warning", "node ends on 2026-05-30", "systemctl restart sampan-agent"),
    (ends("apiserver", 0), "fault", "apiserver ended on 2026-05-01", "sampan certs renew apiserver"),
    (ends("kubeconfig", 3), "warning", "kubeconfig ends", "sampan kubeconfig >/dev/null"),
    (ends("ca", 3), "warning", "ca ends on 2026-05-04", ""),
    (replace(GOOD, names=Names("10.96.0.10", "no answer")), "fault", "10.96.0.10: no answer",
     "journalctl -u sampan-agent -n 30"),
    (replace(GOOD, names=Names("10.96.0.10", "no answer"), units={"agent": False}), "fault", "agent that answers there",
     "systemctl enable --now sampan-agent"),
    (replace(GOOD, names=Names("10.96.0.10", "no answer", routed=False)), "warning", "no route to 10.96.0.10",
     "ip route add 10.96.0.0/12 dev sampan0"),
    (replace(GOOD, names=Names("172.20.0.10", "no answer", routed=False)), "warning", "no route to 172.20.0.10",
     "ip route add 172.20.0.10 dev sampan0"),
    (replace(GOOD, resolver=Resolver("/r", ["127.0.0.53"], ["192.0.2.1"])), "ok", "servers behind it: 192.0.2.1", ""),
    (replace(GOOD, resolver=Resolver("/r", ["127.0.0.53"])), "fault", "/run/systemd/resolve/resolv.conf has no servers",
     "resolvectl dns INTERFACE SERVER"),
    (replace(GOOD, resolver=Resolver("/r", ["127.0.0.1"])), "warning", "only this host itself (127.0.0.1)",
     "echo 'resolv-conf: /etc/resolv.upstream.conf' >>/etc/sampan/agent.yaml"),
    (replace(GOOD, resolver=Resolver("/r")), "warning", "/r names no server", ""),
    (replace(GOOD, unknown={"ufw": "it takes too long"}), "warning", "could not be looked at: it takes too long", ""),
]


@pytest.mark.parametrize(("facts", "level", "text", "command"), CASES, ids=[case[2] for case in CASES])
def test_what_is_found_and_what_mends_it(facts: Facts, level: str, text: str, command: str) -> None:
    [found] = [item for item in checks.judge(facts) if text in item.text]
    assert found.level == level
    assert bool(found.commands) == bool(command)
    assert not command or any(item.startswith(command) for item in found.commands), found.commands


def test_live_restore_is_added_to_what_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed command is carried out."""
    import subprocess

    place = tmp_path / "daemon.json"
    place.write_text('{"log-driver": "local"}')
    monkeypatch.setattr(checks, "DAEMON_JSON", str(place))
    subprocess.run(checks.live_restore_commands(file_there=True)[0], shell=True, check=True, timeout=60)
    assert json.loads(place.read_text()) == {"log-driver": "local", "live-restore": True}


def test_text_and_json() -> None:
    found = [findings.ok("clock", "as the master's"), findings.fault("firewalld", "closed", "a", "b"),
             findings.warning("disk", "nearly full")]
    assert findings.render(found, "text") == """ok       clock      as the master's
fault    firewalld  closed
         a
         b
warning  disk       nearly full

1 fault, 1 warning"""
    assert json.loads(findings.render(found, "json")) == {"faults": 1, "warnings": 1, "findings": [
        {"level": "ok", "check": "clock", "text": "as the master's", "commands": []},
        {"level": "fault", "check": "firewalld", "text": "closed", "commands": ["a", "b"]},
        {"level": "warning", "check": "disk", "text": "nearly full", "commands": []}]}
    assert findings.render([], "text").endswith("0 faults, 0 warnings")
