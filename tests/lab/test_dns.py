"""Pods on three nodes find each other, and the world, by name."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.lab import TOOLS, LabHandle, LabSpace
from tests.support.space import patience, pod
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

GETENT = "test/getent:1"
READY_SECONDS = 90


@pytest.fixture(scope="module")
def image(lab: LabHandle) -> str:
    """The test image with glibc's own client of resolv.conf, hosts and search paths: getent."""
    return lab.load_box(GETENT, files={"/bin/getent.elf": Path("/usr/bin/getent").read_bytes()})


def service(name: str, app: str, **spec: object) -> Json:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}], **spec}}


def client(name: str, image: str, node: str, command: str = "sleep 100000 & wait", **spec: object) -> Json:
    script = f"cp /bin/getent.elf /tmp/getent; chmod +x /tmp/getent; trap 'exit 0' TERM; {command}"
    return pod(name, ["sh", "-c", script], app={"image": image}, nodeName=node, **spec)


def lookup(space: LabSpace, name: str, what: str, database: str = "ahostsv4") -> list[str]:
    """The addresses that glibc finds, as a program in the pod would; [] for none."""
    found = space.run(name, "sh", "-c", f"/tmp/getent {database} {what} || true")
    return sorted({line.split()[0] for line in found.splitlines() if re.match(r"^[0-9.]+ ", line)})


def nslookup(space: LabSpace, name: str, what: str, *kind: str) -> str:
    """What busybox prints; an address is looked up by its reverse name."""
    return space.run(name, "nslookup", *(f"-type={one}" for one in kind), what, check=False)


def test_services_are_found_from_every_node_by_short_and_long_names(lab: LabHandle, space: LabSpace,
                                                                    image: str) -> None:
    space.create(*(client(f"on-{node}", image, node, labels={"app": "web"}) for node in lab.hosts),
                 service("web", "web"), service("peers", "web", clusterIP="None"))
    pods = dict(zip(lab.hosts, space.ready(*(f"on-{node}" for node in lab.hosts), seconds=READY_SECONDS), strict=True))
    address = space("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    ips = sorted(seen["status"]["podIP"] for seen in pods.values())
    whole = f"web.{space.name}.svc.cluster.local"
    for node in lab.hosts:
        client_name = f"on-{node}"
        assert space.run(client_name, "cat", "/etc/resolv.conf").splitlines()[1:] == ["nameserver 10.96.0.10",
                                                                                       "options ndots:5"]
        patience("every endpoint is known", lambda: lookup(space, client_name, "peers") == ips, 60)  # noqa: B023
        for name in ("web", f"web.{space.name}", f"web.{space.name}.svc", whole, f"{whole}."):
            assert lookup(space, client_name, name) == [address], name
        assert lookup(space, client_name, "nothing") == []
        assert f"service = 0 100 80 {whole}" in nslookup(space, client_name, f"_http._tcp.{whole}", "srv")
        assert f"name = {whole}" in nslookup(space, client_name, address)
        dashed = f"{ips[0].replace('.', '-')}.{space.name}.pod.cluster.local"
        assert lookup(space, client_name, dashed) == [ips[0]]
        assert space.run(client_name, "nslookup", "-type=txt", "dns-version.cluster.local").count('"1.1.0"') == 1
    # A look-up from the node itself, as pods of the host's network make it, and over TCP.
    script = ("import dns.message, dns.query; print(dns.query.tcp(dns.message.make_query("
              f"'{whole}', 'A'), '10.96.0.10', timeout=60).answer)")
    assert address in lab.exec("node1", sys.executable, "-c", script)


def test_pods_of_a_subdomain_have_names_of_their_own(lab: LabHandle, space: LabSpace, image: str) -> None:
    space.create(service("db", "db", clusterIP="None"))
    for number, node in enumerate(lab.hosts):
        space.create(client(f"db-{number}", image, node, hostname=f"db-{number}", subdomain="db", labels={"app": "db"}))
    ips = [seen["status"]["podIP"] for seen in space.ready("db-0", "db-1", "db-2", seconds=READY_SECONDS)]
    for number in range(3):
        for other in range(3):
            patience(f"db-{number} finds db-{other}",
                     lambda: lookup(space, f"db-{number}", f"db-{other}.db") == [ips[other]], 60)  # noqa: B023
    whole = f"db-1.db.{space.name}.svc.cluster.local"
    assert space.run("db-1", "hostname", "-f").strip() == whole
    assert f"{ips[1]}\t{whole}\tdb-1" in space.run("db-1", "cat", "/etc/hosts")
    assert f"name = {whole}" in nslookup(space, "db-0", ips[1])
    records = nslookup(space, "db-0", f"_http._tcp.db.{space.name}.svc.cluster.local", "srv")
    assert [f"8080 db-{number}.db." in records for number in range(3)] == [True] * 3


def test_changes_are_followed_on_every_node(lab: LabHandle, space: LabSpace, image: str) -> None:
    space.create(*(client(f"on-{node}", image, node) for node in lab.hosts))
    space.ready(*(f"on-{node}" for node in lab.hosts), seconds=READY_SECONDS)
    space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"},
                  "spec": {"type": "ExternalName", "externalName": "kubernetes.default.svc.cluster.local"}})
    for node in lab.hosts:
        patience("it is known", lambda: lookup(space, f"on-{node}", "late") == ["10.96.0.1"])  # noqa: B023
    space("delete", "service", "late")
    for node in lab.hosts:
        patience("it is gone", lambda: lookup(space, f"on-{node}", "late") == [])  # noqa: B023


UPSTREAM = """
import dns.message, dns.rrset, socketserver, sys
class Answer(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        query = dns.message.from_wire(data)
        answer = dns.message.make_response(query)
        name = query.question[0].name
        if name.to_text().startswith("www.") and query.question[0].rdtype == 1:
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", "198.51.100.7"))
        sock.sendto(answer.to_wire(), self.client_address)
with socketserver.UDPServer((sys.argv[1], 53), Answer) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


@contextmanager
def upstream(lab: LabHandle, node: str) -> Iterator[None]:
    """A DNS server on a host's own address, and the agent there told of it; both are undone at the end."""
    host = lab.node(node)
    file, config = host.directories["run"] / "test-resolv.conf", host.directories["config"] / "agent.yaml"
    before = config.read_text()
    server = subprocess.Popen([*host.enter, sys.executable, "-c", UPSTREAM, host.ip], stdout=subprocess.PIPE,
                              env={"PATH": TOOLS})
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        file.write_text(f"nameserver {host.ip}\nsearch example.com\n")
        config.write_text(f"{before}resolv-conf: {file}\n")
        lab.restart(node)
        lab.until_ready(node)
        yield
    finally:
        config.write_text(before)
        lab.restart(node)
        server.kill()
        server.wait()
        server.stdout.close()
        file.unlink(missing_ok=True)
        lab.until_ready(node)


def test_other_names_are_asked_of_the_hosts_server(lab: LabHandle, space: LabSpace, image: str) -> None:
    with upstream(lab, "node1"):
        space.create(client("inside", image, "node1"), client("host", image, "node1", dnsPolicy="Default"),
                     client("both", image, "node1", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
                     {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "world"},
                      "spec": {"type": "ExternalName", "externalName": "www.example.org"}})
        space.ready("inside", "host", "both", seconds=READY_SECONDS)
        assert space.run("inside", "head", "-1", "/etc/resolv.conf").split()[-1] == "example.com"
        for name in ("www.example.org", "www", "world"):
            patience(f"{name} is found", lambda: lookup(space, "inside", name) == ["198.51.100.7"], 60)  # noqa: B023
        assert lookup(space, "host", "www.example.org") == ["198.51.100.7"]
        assert lookup(space, "both", "kubernetes.default") == ["10.96.0.1"]
        assert lookup(space, "both", "www.example.org") == ["198.51.100.7"]
        space.kubectl("delete", "pod", "-n", space.name, "--all", "--wait=true", timeout=90)


LOOP = """
n=0
while :; do
  if /tmp/getent ahostsv4 kubernetes.default >/dev/null
  then n=$((n+1)); echo $n >/tmp/found
  else echo lost >>/tmp/lost
  fi
  sleep 0.02
done
"""


@pytest.mark.parametrize("kill", [False, True], ids=["asked to end", "killed"])
def test_no_name_is_lost_when_the_agent_is_restarted(lab: LabHandle, space: LabSpace, image: str, kill: bool) -> None:
    space.create(client("asks", image, "node1", f"touch /tmp/lost /tmp/found; ({LOOP.strip()}) & wait"))
    space.ready("asks", seconds=READY_SECONDS)

    box = space.box("asks")["Id"]

    def found() -> int:  # not through the agent
        return int(lab.docker("node1", "exec", box, "cat", "/tmp/found", check=False).strip() or 0)

    def agent() -> int:
        return lab.node("node1").processes.get("agent", 0)

    patience("it finds names", lambda: found() > 10, 60)
    for _ in range(2):
        old = agent()
        lab.restart("node1", kill=kill)
        patience("there is another agent", lambda: agent() not in (0, old), 60)  # noqa: B023
        seen = found()
        patience("names are found on", lambda: found() > seen + 20, 60)  # noqa: B023
    assert lab.docker("node1", "exec", box, "cat", "/tmp/lost") == ""
