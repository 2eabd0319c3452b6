"""`sampan doctor`: what it reads, what it judges, what it prints."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import certs, engine
from sampan.cli.doctor import checks, findings, firewall, looks, parse
from sampan.cli.doctor.facts import (
    Disk,
    Facts,
    Firewalld,
    Iptables,
    Kernel,
    Let,
    Names,
    Reached,
    Resolver,
    Rules,
    Ufw,
)
from sampan.cli.doctor.findings import Level
from sampan.cli.doctor.gather import Gatherer
from sampan.cli.doctor.site import Port, site
from sampan.cli.paths import Paths
from sampan.cli.preflight import Problem
from sampan.cli.progress import CommandError
from sampan.cli.units import UnitStatus

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 5, 1, tzinfo=UTC)
AGENT = {"node-name": "n1", "node-ip": "192.168.56.11", "server": "https://192.168.56.10:6443",
         "node-server": "192.168.56.10:6444", "pod-cidr": "10.244.0.0/16", "root-dir": "/var/lib/sampan/agent"}
MASTER = {"advertise-address": "192.168.56.10", "secure-port": 6443, "node-port-grpc": 6444,
          "service-cidr": "10.96.0.0/12"}
NODE = site(None, AGENT)
BOTH = site(MASTER, AGENT)
DROPS = Rules("DROP", {"FORWARD": ["-j DOCKER-USER"], "DOCKER-USER": ["-j RETURN"]})
ACCEPTS = Rules("DROP", {
    "FORWARD": ["-m comment --comment sampan -j SAMPAN-FORWARD", "-j REJECT --reject-with icmp-host-prohibited"],
    "SAMPAN-FORWARD": ["-s 10.244.0.0/16 -j ACCEPT", "-d 10.244.0.0/16 -j ACCEPT"]})
GOOD = Facts(
    NODE, NOW, Kernel({}, {checks.IP_FORWARD: 1, checks.BRIDGE_NF: 1, checks.INSTANCES: 8192, checks.WATCHES: 524288}),
    iptables=Iptables((1, 8, 9), "nf_tables", ACCEPTS),
    engine=engine.EngineFacts("24.0.7", "/var/lib/docker", live_restore=True, log_driver="json-file",
                              log_plugins=("json-file", "local")),
    disks=[Disk("/var/lib/docker", 100, 50, 100, 50)], units={"agent": True},
    certificates=[certs.Certificate("node", "system:node:n1", NOW + timedelta(days=300), "the agent", Path("/x"))],
    reached=[Reached("the API server", "192.168.56.10:6443")], skew=0.4, names=Names("10.96.0.10"),
    resolver=Resolver("/etc/resolv.conf", ["192.0.2.1"]))


def single(*numbers: int, protocol: str = "tcp") -> list[Port]:
    return [Port(number, number, protocol) for number in numbers]


NODE_PORTS = [Port(30000, 32767, "tcp"), Port(30000, 32767, "udp")]


# What this host is

def test_a_node_and_a_master_have_their_ports() -> None:
    assert list(NODE.ports) == [*single(10250, 10256), *single(8472, protocol="udp"), *NODE_PORTS]
    assert list(BOTH.ports) == [*single(6443, 6444), *NODE.ports]
    assert list(site(MASTER, None).ports) == single(6443, 6444)
    assert site(None, None).ports == NODE.ports


def test_firewalld_s_services_open_these_ports() -> None:
    """What script/host.sh opens when a host is set up is what is looked for here."""
    files = {name: parse.firewalld_service((ROOT / f"systemd/firewalld/sampan-{name}.xml").read_text())
             for name in ("master", "node")}
    assert sorted([*files["master"], *files["node"]], key=str) == sorted(BOTH.ports, key=str)
    script = (ROOT / "script/host.sh").read_text()
    assert "SAMPAN_POD_CIDR:-10.244.0.0/16" in script
    for command in firewall.firewalld_commands("public", [], NODE.pod_cidr, NODE)[:-1]:
        for option in command.split()[3:]:
            assert option.replace(NODE.pod_cidr, '"$POD_CIDR"') in script


@pytest.mark.parametrize(("agent", "field", "value"), [
    ({"server": "10.0.0.1"}, "server", ("10.0.0.1", 6443)),
    ({"server": "https://10.0.0.1:8443"}, "lines", (("10.0.0.1", 6444),)),
    ({"node-server": "a:1, b"}, "lines", (("a", 1), ("b", 6444))),
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


# Findings

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


FORWARD_DROPS = replace(GOOD, iptables=Iptables((1, 8, 9), "nf_tables", DROPS))
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


# FORWARD

@pytest.mark.parametrize(("rules", "drops"), [
    (Rules(), False),
    (Rules("DROP"), True),
    (DROPS, True),
    (ACCEPTS, False),
    (Rules("DROP", {"FORWARD": ["-s 10.0.0.0/8 -j ACCEPT"]}), True),
    (Rules("DROP", {"FORWARD": ["-s 10.0.0.0/8 -j ACCEPT", "-d 10.244.0.0/16 -j ACCEPT"]}), False),
    (Rules("DROP", {"FORWARD": ["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"]}), True),
    (Rules("ACCEPT", {"FORWARD": ["-m conntrack --ctstate INVALID -j DROP"]}), False),
    (Rules("ACCEPT", {"FORWARD": ["-j REJECT --reject-with icmp-host-prohibited"]}), True),
    (Rules("DROP", {"FORWARD": ["-j REJECT", "-j SAMPAN-FORWARD"],
                    "SAMPAN-FORWARD": ACCEPTS.chains["SAMPAN-FORWARD"]}), True),
    (Rules("DROP", {"FORWARD": ["-j A"], "A": ["-j B"], "B": ["-j RETURN"]}), True),
    (Rules("ACCEPT", {"FORWARD": ["-j A"], "A": ["-j RETURN", "-j DROP"]}), False),
    (Rules("ACCEPT", {"FORWARD": ["", "-j DROP"]}), True),
    (Rules("ACCEPT", {"FORWARD": ["-g A", "-j LOG"], "A": ["-j DROP"]}), False),
])
def test_whether_pods_packets_are_dropped(rules: Rules, drops: bool) -> None:
    assert firewall.drops(rules, "10.244.0.0/16") is drops


CHAINS = ["FORWARD", "A", "B"]


@given(st.dictionaries(st.sampled_from(CHAINS), st.lists(st.builds(
    "{} -j {}".format, st.sampled_from(["", "-s 10.244.0.0/16", "-d 10.0.0.0/8", "-i eth0"]),
    st.sampled_from([*CHAINS, "ACCEPT", "DROP", "RETURN", "LOG"])), max_size=4)),
    st.sampled_from(["ACCEPT", "DROP"]))
def test_any_chains_are_walked_to_an_end(chains: dict[str, list[str]], policy: str) -> None:
    """Also those that lead to themselves, which the kernel refuses. Accepting all first is never dropping."""
    rules = Rules(policy, chains)
    assert firewall.drops(rules, "10.244.0.0/16") in (True, False)
    first = Rules(policy, {**chains, "FORWARD": ["-j ACCEPT", *chains.get("FORWARD", [])]})
    assert not firewall.drops(first, "10.244.0.0/16")


def test_before_the_agent_has_come_drop_is_no_fault() -> None:
    facts = replace(FORWARD_DROPS, site=site(None, None), units={})
    assert [item.level for item in firewall.check_forward(facts)] == [Level.OK]


def test_other_plugins_have_rules_of_their_own() -> None:
    assert list(firewall.check_forward(replace(FORWARD_DROPS, site=replace(NODE, own_network=False)))) == []


SAVED = """# Generated by iptables-save v1.8.9 (nf_tables) on Sat Nov 21 10:00:41 2026
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [3:180]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:SAMPAN-FORWARD - [0:0]
-A FORWARD -m comment --comment sampan -j SAMPAN-FORWARD
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
-A SAMPAN-FORWARD -s 10.244.0.0/16 -j ACCEPT
-A SAMPAN-FORWARD -d 10.244.0.0/16 -j ACCEPT
COMMIT
# Warning: iptables-legacy tables present, use iptables-legacy-save to see them
"""


def test_what_iptables_save_prints_is_read() -> None:
    rules = parse.filter_table(SAVED)
    assert (rules.policy, rules.used, firewall.drops(rules, "10.244.0.0/16")) == ("DROP", True, False)
    assert not firewall.drops(rules, "10.244.3.0/24")
    assert firewall.drops(rules, "10.0.0.0/8")
    assert not parse.filter_table("").used
    assert parse.filter_table("*filter\n:FORWARD DROP [0:0]\n-A FORWARD\nCOMMIT\n") == Rules("DROP", {"FORWARD": [""]})


@pytest.mark.parametrize(("text", "version"), [
    ("iptables v1.8.9 (nf_tables)", ((1, 8, 9), "nf_tables")), ("iptables v1.8.4 (legacy)", ((1, 8, 4), "legacy")),
    ("iptables v1.6.1", ((1, 6, 1), "legacy")), ("iptables v1.8", ((1, 8, 0), "legacy"))])
def test_versions_are_read(text: str, version: object) -> None:
    assert parse.iptables_version(text) == version


def test_a_version_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="printed 'what'"):
        parse.iptables_version("what")


# firewalld

PUBLIC = """public (active)
  target: default
  icmp-block-inversion: no
  interfaces: eth0
  sources:{sources}
  services: dhcpv6-client ssh{services}
  ports:{ports}
  protocols:
  forward: yes
  masquerade: no
  forward-ports:
  source-ports:
  icmp-blocks:
  rich rules:
\trule family="ipv4" source address="192.0.2.0/24" accept
"""
TRUSTED = """trusted
  target: ACCEPT
  interfaces:
  sources: 10.244.0.0/16
  services:
  ports:
"""
SERVICES = {"sampan-master": BOTH.ports[:2], "sampan-node": NODE.ports, "ssh": single(22)}


def firewalld(*, services: str = "", ports: str = "", trusted: str = TRUSTED) -> Firewalld:
    return parse.firewalld(PUBLIC.format(services=services, ports=ports, sources=""), trusted,
                           lambda name: SERVICES.get(name, ()))


@pytest.mark.parametrize(("found", "commands"), [
    (firewalld(services=" sampan-master sampan-node"), []),
    (firewalld(services=" sampan-node"), [
        "firewall-cmd --permanent --zone=public --add-port=6443/tcp --add-port=6444/tcp", "firewall-cmd --reload"]),
    (firewalld(services=" sampan-master", ports=" 10000-33000/tcp 8472/udp 30000-32766/udp"), [
        "firewall-cmd --permanent --zone=public --add-port=30000-32767/udp", "firewall-cmd --reload"]),
    (firewalld(services=" sampan-master sampan-node", trusted="trusted\n  target: ACCEPT\n  sources: \n"), [
        "firewall-cmd --permanent --zone=trusted --add-source=10.244.0.0/16",
        "firewall-cmd --permanent --zone=trusted --add-interface=sampan0 --add-interface=sampan.1",
        "firewall-cmd --reload"]),
    (firewalld(trusted=TRUSTED.replace("10.244.0.0/16", "10.0.0.0/8 192.168.56.0/24 ipset:x")), []),
    (Firewalld("trusted", accepts_all=True, trusted=["10.244.0.0/16"]), []),
])
def test_what_firewalld_keeps_out(found: Firewalld, commands: list[str]) -> None:
    [finding] = firewall.check_firewalld(replace(GOOD, site=BOTH, firewalld=found))
    assert list(finding.commands) == commands
    assert finding.level == (Level.FAULT if commands else Level.OK)


def test_a_bare_firewalld_s_fault_names_everything() -> None:
    [finding] = firewall.check_firewalld(replace(GOOD, firewalld=firewalld(trusted="trusted\n")))
    assert finding.text == ("closed are 10250/tcp, 10256/tcp, 8472/udp, 30000-32767/tcp, 30000-32767/udp; "
                            "pods (10.244.0.0/16) are not let in")


async def test_the_zone_of_a_node_that_has_moved_is_its_interface_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def run(*command: str, **_: bool) -> str:
        asked.append(" ".join(command))
        return {"ip": "[]", "firewall-cmd": "running"}[command[0]]

    monkeypatch.setattr(looks, "run", run)
    moved = site(None, {**AGENT, "node-interface": "eth7"})
    await looks.firewalld(moved.node_ip, moved.node_interface)
    assert "firewall-cmd --get-zone-of-interface=eth7" in asked


def test_services_of_firewalld() -> None:
    xml = '<service><port protocol="tcp" port="1-2"/><port port="x" protocol="tcp"/></service>'
    assert parse.firewalld_service(xml) == [Port(1, 2, "tcp")]
    assert parse.firewalld_service("<broken") == []
    assert looks.service_ports("no-such-service") == ()


# ufw: recorded from ufw 0.36.2

UFW = """Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), deny (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
"""
UFW_RULES = """22/tcp                     ALLOW IN    Anywhere                  
6443,6444,10250,10256/tcp  ALLOW IN    Anywhere                  
8472/udp                   ALLOW IN    Anywhere                  
30000:32767/tcp            ALLOW IN    Anywhere                  
30000:32767/udp            ALLOW IN    Anywhere                  
Anywhere                   ALLOW IN    10.244.0.0/16             
Anywhere on sampan0        ALLOW IN    Anywhere                  
22/tcp (v6)                ALLOW IN    Anywhere (v6)             
6443,6444,10250,10256/tcp (v6) ALLOW IN    Anywhere (v6)             
Anywhere (v6) on sampan0   ALLOW IN    Anywhere (v6)             

Anywhere                   ALLOW FWD   Anywhere on sampan0       
Anywhere on sampan0        ALLOW FWD   Anywhere                  
Anywhere                   ALLOW FWD   10.244.0.0/16             
"""  # noqa: W291 - as it prints them


def ufw(rules: str) -> Ufw:
    found = parse.ufw(UFW + rules)
    assert found is not None
    return found


ALL_OF_UFW = ["ufw allow 6443,6444,10250,10256/tcp", "ufw allow 30000:32767/tcp", "ufw allow 8472/udp",
              "ufw allow 30000:32767/udp", "ufw allow from 10.244.0.0/16"]


@pytest.mark.parametrize(("rules", "commands"), [
    ("", ALL_OF_UFW),
    (UFW_RULES, []),
    ("\n".join(line for line in UFW_RULES.splitlines() if any(word in line for word in ("FWD", "(v6)", " on "))),
     ALL_OF_UFW),
    (UFW_RULES.replace("8472/udp   ", "8472       # tunnels").replace("# tunnels", ""), []),
    (UFW_RULES.replace("8472/udp", "8472/tcp"), ["ufw allow 8472/udp"]),
    (UFW_RULES.replace("10.244.0.0/16", "10.244.1.0/24"), ["ufw allow from 10.244.0.0/16"]),
    ("Anywhere  ALLOW IN    192.168.56.0/24\nAnywhere   ALLOW IN  10.0.0.0/8  # pods\n", []),
    ("10250/tcp                  ALLOW IN    192.0.2.0/24\n", ALL_OF_UFW),
    ("6443,6444,10256/tcp LIMIT IN    192.168.56.0/24\nAnywhere   ALLOW IN  10.0.0.0/8\n", [
        "ufw allow 10250/tcp", "ufw allow 30000:32767/tcp", "ufw allow 8472/udp", "ufw allow 30000:32767/udp"]),
    ("Anywhere                   ALLOW IN    Anywhere", []),
])
def test_what_ufw_keeps_out(rules: str, commands: list[str]) -> None:
    [finding] = firewall.check_ufw(replace(GOOD, site=BOTH, ufw=ufw(rules)))
    assert list(finding.commands) == commands
    assert finding.level == (Level.FAULT if commands else Level.OK)


def test_a_ufw_that_lets_everything_in() -> None:
    found = parse.ufw(UFW.replace("deny (incoming)", "allow (incoming)"))
    [finding] = firewall.check_ufw(replace(GOOD, ufw=found))
    assert finding.level == Level.OK


@pytest.mark.parametrize("text", ["", "Status: inactive\n", "ERROR: You need to be root to run this script"])
def test_a_ufw_that_is_off(text: str) -> None:
    assert parse.ufw(text) is None
    assert list(firewall.check_ufw(replace(GOOD, ufw=parse.ufw(text)))) == []


@given(st.lists(st.builds(lambda first, more, protocol: Port(first, first + more, protocol), st.integers(1, 60000),
                          st.integers(0, 99), st.sampled_from(["tcp", "udp"])), max_size=8))
def test_the_commands_open_what_was_closed(ports: list[Port]) -> None:
    """Read back as ufw and firewalld list them, nothing is missing any more."""
    let = [parse.ufw(f"{UFW}{command.split()[2]}   ALLOW IN   Anywhere\n")
           for command in firewall.ufw_commands(ports, "")]
    opened = [port for found in let if found for item in found.let if (port := item.port)]
    assert firewall.missing_ports(ports, opened) == []
    words = [word.partition("=")[2] for command in firewall.firewalld_commands("public", ports, "", NODE)
             for word in command.split() if word.startswith("--add-port=")]
    assert firewall.missing_ports(ports, firewalld(ports=" " + " ".join(words)).ports) == []


def test_ports_from_a_network_that_is_none() -> None:
    assert firewall.ufw_ports(Ufw(let=[Let("aa:bb::zz", Port(1, 1, "tcp")), Let("", Port(2, 2, "tcp"))]), NODE) == [
        Port(2, 2, "tcp")]


# Names

def test_servers_of_a_resolv_conf() -> None:
    text = "# x\nnameserver 127.0.0.53\n nameserver\t192.0.2.1 # y\n#nameserver 192.0.2.2\nsearch nameserver\n"
    assert parse.nameservers(text) == ["127.0.0.53", "192.0.2.1"]


def test_the_question_is_one_that_the_agent_understands() -> None:
    import dns.message

    asked = dns.message.from_wire(parse.dns_question(7, "kubernetes.default.svc.cluster.local."))
    assert (asked.id, str(asked.question[0])) == (7, "kubernetes.default.svc.cluster.local. IN A")


@pytest.mark.parametrize(("answer", "problem"), [
    (b"", "too short"), (b"\0\7\x81\x80\0\1\0\1\0\0\0\0", ""), (b"\0\7\x81\x83\0\1\0\0\0\1\0\0", "an error (code 3)"),
    (b"\0\7\x81\x80\0\1\0\0\0\0\0\0", "empty"), (b"\0\6\x81\x80\0\1\0\1\0\0\0\0", "no answer to the question"),
    (b"\0\7\x01\0\0\1\0\1\0\0\0\0", "no answer to the question")])
def test_answers_are_judged(answer: bytes, problem: str) -> None:
    found = parse.dns_problem(7, answer)
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Answers every question with one record of the same number."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(30)

        def answer() -> None:
            question, client = server.recvfrom(512)
            server.sendto(question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:], client)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()
        thread.join(30)


async def test_a_server_is_asked(echo: tuple[str, int]) -> None:
    assert await looks.dns(echo, "kubernetes.default.svc.cluster.local") == Names("127.0.0.1")


async def test_nobody_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
    assert await looks.dns(address, "x.y") == Names("127.0.0.1", "asked for x.y: no answer: Connection refused")


# Looking

class FakeUnits:
    """All run."""

    def status(self, name: str) -> UnitStatus:
        return UnitStatus("running", 7)

    def start(self, name: str, arguments: object) -> bool:
        return False

    def restart(self, name: str) -> None:
        """Nobody asks."""

    def stop(self, name: str) -> bool:
        return False

    def log_hint(self, name: str) -> str:
        return ""


def places(root: Path) -> Paths:
    return Paths(root / "config", root / "data", root / "run", root / "log")


async def test_a_host_in_no_cluster_is_looked_at(tmp_path: Path) -> None:
    """This machine, whatever it is: nothing raises, and what cannot be seen without root is told."""
    facts = await Gatherer(places(tmp_path), FakeUnits(), f"unix://{tmp_path}/none.sock").facts()
    assert isinstance(facts.engine, Problem)
    assert facts.site == replace(site(None, None), systemd=False, paths=places(tmp_path),
                                 docker_host=f"unix://{tmp_path}/none.sock")
    found = checks.judge(facts)
    assert any("this host is in no cluster" in item.text for item in found)
    assert findings.faulty(found)


@pytest.mark.parametrize("text", ["node-server: 'a:x'", "{"])
async def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/agent.yaml").write_text(text)
    with pytest.raises(CommandError, match="cannot be read"):
        await Gatherer(places(tmp_path), FakeUnits(), "unix:///none").facts()


async def test_commands_that_fail_hang_or_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await looks.run("no-such-command-here") == ""
    assert await looks.run("sh", "-c", "echo x; exit 3", fails=True) == ""
    with pytest.raises(looks.LookError, match="what a pity"):
        await looks.run("sh", "-c", "echo what a pity >&2; exit 3")
    monkeypatch.setattr(looks, "COMMAND_SECONDS", 0.05)
    with pytest.raises(looks.LookError, match="did not end within"):
        await looks.run("sleep", "60")


def test_disks_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    [disk] = looks.disks([str(tmp_path), "", "/no/such/folder", str(tmp_path / "other")])
    assert disk.folder == str(tmp_path)
    assert disk.total >= disk.available > 0


# Printing

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
