"""What `sampan doctor` may have seen: hosts in order, to be changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sampan.cli import certs, engine
from sampan.cli.doctor import checks
from sampan.cli.doctor.facts import Disk, Facts, Iptables, Kernel, Names, Reached, Resolver, Rules
from sampan.cli.doctor.site import Port, site

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


FORWARD_DROPS = replace(GOOD, iptables=Iptables((1, 8, 9), "nf_tables", DROPS))
