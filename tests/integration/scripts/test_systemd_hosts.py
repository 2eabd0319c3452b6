"""A master and a node on hosts with systemd and firewalld, installed by the scripts that users run. One story."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import engine
from tests.support.systemd_host import ROOT, SOURCE, SystemdHost, base_root, cable, systemd_host

pytestmark = [pytest.mark.docker, pytest.mark.net, pytest.mark.timeout(900)]

UP, DOWN, PROVISION = (f"/{SOURCE}/{name}" for name in ("script/up", "script/down", "vagrant/provision.sh"))
ROOM = 700
"""MiB that the master's host may use for master, agent and Docker together."""
FIREWALLD = "systemctl enable --now firewalld"


@dataclass
class Site:
    """Both hosts, and where the tests stand in their network."""

    master: SystemdHost
    node: SystemdHost
    netns: str

    def get(self, what: str) -> Any:
        """Objects as the master's own command prints them."""
        return json.loads(self.master.run(f"sampan get {what} -o json").out)

    def ready(self) -> dict[str, bool]:
        """Which nodes are Ready."""
        return {item["metadata"]["name"]: any(
            entry["type"] == "Ready" and entry["status"] == "True" for entry in item["status"]["conditions"])
            for item in self.get("nodes")["items"]}

    def pods(self) -> dict[str, dict[str, Any]]:
        """The example's pods by the node that they are on."""
        return {item["spec"]["nodeName"]: item for item in self.get("pods")["items"]}


@pytest.fixture(scope="module")
def site(wheels: Path) -> Iterator[Site]:
    with base_root() as base, cable() as wire, systemd_host("master", 10, base, wire, wheels) as master, \
            systemd_host("node1", 11, base, wire, wheels) as node:
        yield Site(master, node, wire.netns)


def test_script_up_on_a_host_with_systemd(site: Site) -> None:
    site.master.run(FIREWALLD)
    first = site.master.run(UP, 500).out
    assert len(set(re.findall(r"^Hello from pod (hello-\S+) on node master", first, re.MULTILINE))) == 2, first
    assert "firewalld: the cluster's ports are open, its pods trusted" in first
    again = site.master.run(UP, 300).out
    assert "Nothing had to be changed." in again, again
    assert site.master.run("systemctl is-active sampan-master sampan-agent").out == "active\nactive\n"
    assert site.master.run("systemctl is-enabled sampan-master sampan-agent").out == "enabled\nenabled\n"


def test_systemd_accepts_the_units(site: Site) -> None:
    found = site.master.run("systemd-analyze verify --man=no /etc/systemd/system/sampan-*.service", check=False)
    assert (found.code, found.out) == (0, "")


def test_the_node_joins_by_the_printed_line(site: Site) -> None:
    """Prepared as a Vagrant machine is, from dependencies that are there already: those of the master."""
    site.node.run(FIREWALLD)
    site.node.run("mkdir -p /opt/sampan")
    subprocess.run(["cp", "-a", str(site.master.root / "opt/sampan/venv"), str(site.node.root / "opt/sampan/venv")],
                   check=True, timeout=120)
    prepared = site.node.run(f"{PROVISION} node {site.node.address}", 300).out
    assert "firewalld: the cluster's ports are open, its pods trusted" in prepared
    line = site.master.run("sampan token create --print-join-command").out.strip()
    said = site.node.run(line, 200).out
    assert "Node node1 … is Ready" in said
    assert site.ready() == {"master": True, "node1": True}
    assert site.node.run("systemctl is-enabled sampan-agent").out == "enabled\n"
    assert site.node.run("systemctl show -p Type,WatchdogUSec,FileDescriptorStoreMax sampan-agent").out.split() == [
        "Type=notify", "WatchdogUSec=1min", "FileDescriptorStoreMax=64"]
    assert site.master.run("systemctl show -P LimitNOFILE sampan-agent sampan-master").out.split() == ["65536"] * 2


def test_what_the_hosts_are_told(site: Site) -> None:
    assert site.node.run("cat /proc/sys/net/ipv4/ip_forward").out == "1\n"
    assert int(site.node.run("cat /proc/sys/fs/inotify/max_user_instances").out) >= 512
    asked = site.node.run("systemd-analyze cat-config sysctl.d").out
    assert "net.ipv4.ip_forward = 1\n" in asked
    assert int(re.findall(r"^fs.inotify.max_user_watches = (\d+)$", asked, re.MULTILINE)[-1]) >= 65536
    for unit in ("sampan-agent", "sampan-master"):  # which themselves use none of it
        assert "inotify" not in site.master.run(f"ls -l /proc/$(systemctl show -P MainPID {unit})/fd").out
    states = site.node.run("networkctl list --no-legend --no-pager").out.splitlines()
    ours = {words[1]: words[-1] for words in map(str.split, states) if words[1].startswith("sampan")}
    assert ours == dict.fromkeys(ours, "unmanaged")
    assert len(ours) == 2
    opened = site.node.run("firewall-cmd --list-services").out.split()
    assert {"sampan-master", "sampan-node"} <= set(opened)
    assert site.node.run("firewall-cmd --permanent --zone=trusted --list-sources").out == "10.244.0.0/16\n"


METRICS = """
import ssl, urllib.request
context = ssl._create_unverified_context()
context.load_cert_chain("/var/lib/sampan/master/pki/admin.crt", "/var/lib/sampan/master/pki/admin.key")
print(urllib.request.urlopen("https://127.0.0.1:6443/api/v1/nodes/master/proxy/metrics", context=context,
                             timeout=60).read().decode())
"""


def test_the_agent_s_walls_let_it_measure_its_host(site: Site) -> None:
    told = site.master.run(f"/opt/sampan/venv/bin/python -c {shlex.quote(METRICS)}").out
    for name in ("node_timex_sync_status", "node_cpu_seconds_total", "node_filesystem_avail_bytes", "node_load1"):
        assert re.search(rf"^{name}\b", told, re.MULTILINE), name


def doctor(host: SystemdHost) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of `sampan doctor`, and what it tells that is not well."""
    done = host.run("sampan doctor -o json 2>/dev/null", check=False)
    return done.code, [item for item in json.loads(done.out)["findings"] if item["level"] != "ok"]


def test_doctor_opens_a_closed_firewalld_by_what_it_prints(site: Site) -> None:
    code, found = doctor(site.master)
    assert (code, [item for item in found if item["level"] == "fault"]) == (0, [])
    code, found = doctor(site.node)
    assert (code, [item for item in found if item["level"] == "fault"]) == (0, [])
    site.node.run("firewall-cmd -q --permanent --remove-service=sampan-node; "
                  "firewall-cmd -q --permanent --zone=trusted --remove-source=10.244.0.0/16; firewall-cmd -q --reload")
    code, found = doctor(site.node)
    [told] = [item for item in found if item["check"] == "firewalld"]
    assert code == 1
    assert told["text"] == ("closed are 10250/tcp, 10256/tcp, 8472/udp, 30000-32767/tcp, 30000-32767/udp; "
                            "pods (10.244.0.0/16) are not let in")
    site.node.run("\n".join(["set -e", *told["commands"]]))
    assert [item for item in doctor(site.node)[1] if item["check"] == "firewalld"] == []
    opened = site.node.run("firewall-cmd --permanent --zone=public --list-ports").out.split()
    assert sorted(opened) == ["10250/tcp", "10256/tcp", "30000-32767/tcp", "30000-32767/udp", "8472/udp"]


def test_a_firewalld_that_answers_nothing_is_told(site: Site) -> None:
    """Without its word its rules would keep the cluster out, and nothing would say so."""
    site.node.run("systemctl kill -s STOP firewalld")
    try:
        refused = site.node.run(f"{PROVISION} node {site.node.address}", 300, check=False)
    finally:
        site.node.run("systemctl kill -s CONT firewalld")
    assert refused.code == 1, refused.out
    assert "firewalld runs, and answers nothing" in refused.out
    assert "systemctl restart firewalld" in refused.out


HELLO = """apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: far}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 0
  containers:
  - name: web
    image: "sampan.local/hello:1"
    imagePullPolicy: Never
    ports: [{containerPort: 8080, hostPort: 8088}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec: {type: NodePort, selector: {app: far}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
"""


def test_pods_and_services_across_hosts_behind_firewalld(site: Site) -> None:
    """The image travels as an archive in the node's folder."""
    site.master.run("docker save -o /opt/hello.tar sampan.local/hello:1")
    folder = site.node.root / "var/lib/sampan/images"
    copied = (site.master.root / "opt/hello.tar").read_bytes()
    site.node.run("mkdir -p /var/lib/sampan/images")
    (folder / "hello.part").write_bytes(copied)
    site.node.run("mv /var/lib/sampan/images/hello.part /var/lib/sampan/images/hello.tar")
    site.node.until("docker image inspect sampan.local/hello:1")
    site.master.run(f"sampan apply -f - <<'POD'\n{HELLO}POD")
    site.master.run("sampan wait pod/far --timeout 90", 120)
    far = site.pods()["node1"]
    address = far["status"]["podIP"]
    near = site.pods()["master"]["metadata"]["name"]
    ask = f"exec 3<>/dev/tcp/{address}/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    assert "Hello from pod far" in site.master.until(ask), "from the host"
    box = site.master.run(f"docker ps -q --filter label=io.kubernetes.pod.name={near} "
                          "--filter label=io.kubernetes.container.name=web").out.strip()
    inside = site.master.run(f"docker exec {box} bash -c {shlex.quote(ask)}", check=False)
    assert "Hello from pod far" in inside.out, "from a pod"
    deadline = time.monotonic() + 90  # the rules follow the pod
    for place in (f"{site.master.address}:30080", *far_places(site)):
        while "Hello from pod far" not in fetch(site, place):
            assert time.monotonic() < deadline, place


def far_places(site: Site) -> list[str]:
    """Where pod far answers on its host: the Service's node port, and its own host port."""
    return [f"{site.node.address}:{port}" for port in (30080, 8088)]


def fetch(site: Site, place: str) -> str:
    """What is answered there to somebody outside of the cluster."""
    return engine.run_in(site.netns, ["curl", "-sS", "--max-time", "5", "--retry", "1", f"http://{place}"],
                         check=False).stdout


def test_a_reloaded_firewall_is_healed(site: Site) -> None:
    """The Service, the host port and the pods' masquerade. What firewalld wipes depends on its version: all of it."""
    ours = "iptables-save | grep -e SAMPAN -e KUBE | grep -v '^:' | sort"
    before = site.node.run(ours).out
    assert "MASQUERADE" in before
    assert "--dport 8088" in before
    site.node.run("firewall-cmd --reload; for table in nat filter; do iptables -w -t $table -F; done")
    deadline = time.monotonic() + 120
    while site.node.run(ours).out != before or not all(
            "Hello from pod far" in fetch(site, place) for place in far_places(site)):
        assert time.monotonic() < deadline, site.node.run(ours).out


DNS_SERVER = """
import dns.message, dns.rrset, socketserver, sys
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        if name.to_text() == "www.example.org." and query.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "198.51.100.7"))
        sock.sendto(answer.to_wire(), self.client_address)
with socketserver.UDPServer((sys.argv[1], 53), Answer) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
ASKING = """apiVersion: v1
kind: Pod
metadata: {{name: asks-{name}}}
spec:
  nodeName: node1
  dnsPolicy: {policy}
  terminationGracePeriodSeconds: 0
  containers:
  - {{name: web, image: "sampan.local/hello:1", imagePullPolicy: Never}}
"""

DELETE = """
import asyncio, pathlib, sys
from sampan.api.resources import PODS
from sampan.cli import objects
async def main():
    async with objects.connect(pathlib.Path("/etc/sampan/admin.kubeconfig")) as client:
        await client.delete(PODS, sys.argv[1], "default")
asyncio.run(main())
"""


@contextmanager
def server_behind_resolved(site: Site) -> Iterator[str]:
    """A DNS server beside the hosts, which node1 knows by systemd-resolved's file alone; its address."""
    address = site.node.address.rpartition(".")[0] + ".1"
    resolved = "/run/systemd/resolve"
    with subprocess.Popen(["ip", "netns", "exec", site.netns, sys.executable, "-c", DNS_SERVER, address],
                          stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            site.node.run(f"mkdir -p {resolved}; echo nameserver {address} >{resolved}/resolv.conf; "
                          f"cp -a /etc/resolv.conf /run/resolv.before; rm -f /etc/resolv.conf; "
                          f"echo nameserver 127.0.0.53 >{resolved}/stub-resolv.conf; "
                          f"ln -s {resolved}/stub-resolv.conf /etc/resolv.conf")
            yield address
        finally:
            site.node.run(f"rm -rf /etc/resolv.conf {resolved}; mv /run/resolv.before /etc/resolv.conf", check=False)
            server.kill()


def test_where_systemd_resolved_is_the_host_s_server_pods_ask_those_behind_it(site: Site) -> None:
    """Pods cannot reach 127.0.0.53; and a cluster DNS that asked it might be asked by it."""
    with server_behind_resolved(site) as address:
        told = [item for item in doctor(site.node)[1] if item["check"] == "resolv.conf"]
        assert told == []
        for policy in ("Default", "ClusterFirst"):
            site.master.run(f"sampan apply -f - <<'POD'\n{ASKING.format(name=policy.lower(), policy=policy)}POD")
        for name, server in (("default", address), ("clusterfirst", "10.96.0.10")):
            site.master.run(f"sampan wait pod/asks-{name} --timeout 90", 120)
            box = site.node.run(f"docker ps -q --filter label=io.kubernetes.pod.name=asks-{name} "
                                "--filter label=io.kubernetes.container.name=web").out.strip()
            configured = site.node.run(f"docker exec {box} cat /etc/resolv.conf").out
            assert re.findall(r"^nameserver (.*)$", configured, re.MULTILINE) == [server]
            ask = "import socket; print(socket.gethostbyname('www.example.org'))"
            found = site.node.until(f"docker exec {box} python3 -c {shlex.quote(ask)}", 60)
            assert found == "198.51.100.7\n"
            site.master.run(f"/opt/sampan/venv/bin/python -c {shlex.quote(DELETE)} asks-{name}")
            site.node.until(f"[ -z \"$(docker ps -aq --filter label=io.kubernetes.pod.name=asks-{name})\" ]")


def test_the_master_s_host_has_room(site: Site) -> None:
    """Master, agent, dockerd and containerd with two pods: what is theirs alone, and their share of the rest."""
    units = "sampan-master sampan-agent docker containerd"
    shown = site.master.run(
        f"for unit in {units}; do pid=$(systemctl show -P MainPID $unit); "
        "awk -v unit=$unit '/^Pss:/ { print unit, int($2 / 1024) }' /proc/$pid/smaps_rollup; done").out
    used = {name: int(size) for name, size in map(str.split, shown.splitlines())}
    assert len(used) == 4
    assert sum(used.values()) < ROOM, used


def test_stopping_the_agent_leaves_its_containers(site: Site) -> None:
    before = site.node.run("docker ps -q").out
    assert before.count("\n") == 2
    site.node.run("systemctl stop sampan-agent")
    assert site.node.run("docker ps -q").out == before
    assert "sampan0" in site.node.run("ip -br link").out
    site.node.run("systemctl start sampan-agent")
    assert site.node.run("docker ps -q").out == before


def test_an_agent_that_stands_still_is_restarted(site: Site) -> None:
    before = site.node.run("docker ps -q").out
    site.node.run("mkdir -p /etc/systemd/system/sampan-agent.service.d; "
                  "printf '[Service]\nWatchdogSec=10\n' > /etc/systemd/system/sampan-agent.service.d/short.conf; "
                  "systemctl daemon-reload; systemctl restart sampan-agent")
    pid = site.node.run("systemctl show -P MainPID sampan-agent").out.strip()
    site.node.run(f"kill -STOP {pid}")
    site.node.until(f"[ $(systemctl show -P MainPID sampan-agent) != {pid} ] && systemctl is-active sampan-agent")
    assert "watchdog" in site.node.run("journalctl -b -o cat -u sampan-agent | grep -i watchdog").out
    site.node.run("rm -r /etc/systemd/system/sampan-agent.service.d; systemctl daemon-reload; "
                  "systemctl restart sampan-agent")
    assert site.node.run("docker ps -q").out == before


def test_a_node_comes_back_from_a_reboot(site: Site) -> None:
    uid = site.pods()["node1"]["metadata"]["uid"]
    site.node.reboot()
    deadline = time.monotonic() + 120
    while True:
        pod = site.pods()["node1"]
        statuses = pod["status"].get("containerStatuses") or [{}]
        if site.ready()["node1"] and statuses[0].get("ready") and statuses[0]["restartCount"] == 1:
            break
        assert time.monotonic() < deadline, (pod["status"], site.node.journal())
        time.sleep(0.5)
    assert pod["metadata"]["uid"] == uid
    taken = site.node.run("cd /run/sampan/ipam && find . -name '10.244.*' -printf '%f\\n'").out.split()
    assert taken == [pod["status"]["podIP"]], "each reboot would cost addresses"
    answer = engine.run_in(site.netns, ["curl", "-sS", "--max-time", "10", "--retry", "5", "--retry-connrefused",
                                        f"http://{site.master.address}:30080"], check=False)
    assert "Hello from pod far" in answer.stdout, answer.stderr


def test_a_host_whose_pods_shall_go_with_the_agent(site: Site) -> None:
    """By the drop-in of docs/hosts.md. Without the agent nothing of ours is left; with it, all is there again."""
    documented = re.search(r"^ExecStopPost=.*$", (ROOT / "docs/hosts.md").read_text(), re.MULTILINE)
    assert documented is not None
    folder = "/etc/systemd/system/sampan-agent.service.d"
    site.node.run(f"mkdir -p {folder}; printf '[Service]\n%s\n' {shlex.quote(documented[0])} >{folder}/cleanup.conf; "
                  "systemctl daemon-reload; systemctl stop sampan-agent")
    left = site.node.run("docker ps -aq; ip -o link | grep -e sampan -e smp; iptables-save | grep -e KUBE -e SAMPAN; "
                         "ls /run/sampan/ipam/*/10.*", check=False).out
    assert "sampan" not in left.lower().replace("/run/sampan/ipam", "")
    assert "KUBE" not in left
    assert site.node.run("docker ps -aq").out == ""
    site.node.run(f"rm -r {folder}; systemctl daemon-reload; systemctl start sampan-agent")
    deadline = time.monotonic() + 90
    while "Hello from pod far" not in fetch(site, far_places(site)[0]):
        assert time.monotonic() < deadline, site.node.journal()


def test_script_down_takes_a_node_out_and_leaves_nothing(site: Site) -> None:
    said = site.node.run(f"{DOWN} --purge", 200).out
    assert "kubectl delete node node1" in said
    left = site.node.run(
        "docker ps -aq; ip -o link | grep -e sampan -e smp; iptables-save | grep -e KUBE -e SAMPAN; "
        "ls -d /etc/sampan /opt/sampan /run/sampan /var/lib/sampan/agent /etc/systemd/system/sampan* "
        "/etc/sysctl.d/*sampan* /etc/modules-load.d/sampan* /etc/firewalld/services/sampan* 2>/dev/null; "
        "firewall-cmd --list-services | grep sampan; firewall-cmd --permanent --zone=trusted --list-sources | grep .; "
        "mount | grep sampan | grep -v sampan-source", check=False).out
    assert left == ""
