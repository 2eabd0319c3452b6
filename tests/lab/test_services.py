"""Services across three nodes: from pods, from the nodes and from the machine, and through restarts of agents."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from collections import Counter
from typing import Any

import pytest

from tests.support.lab import LabHandle, LabSpace
from tests.support.space import patience, pod
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

_WHO = "printf '#!/bin/sh\\necho; echo $HOSTNAME $REMOTE_ADDR' > /tmp/w/cgi-bin/who; chmod +x /tmp/w/cgi-bin/who"
SERVER = ["sh", "-c", (f"mkdir -p /tmp/w/cgi-bin; {_WHO}; echo fine > /tmp/w/index.html; export HOSTNAME; "
          "trap 'exit 0' TERM; busybox httpd -f -p 0.0.0.0:8080 -h /tmp/w & wait")]
"""Tells its pod's name and the address that the client has for it."""
LOOP = ("trap 'kill $!; exit 0' TERM; while sleep 0.05; do if timeout 5 busybox wget -q -O /dev/null {url}; "
        "then echo ok; else echo LOST; fi; done & wait")
TOLERATE = [{"operator": "Exists"}]


@pytest.fixture
def web(space: LabSpace, lab: LabHandle) -> LabSpace:
    """A server and a client on each node; a Service of the servers is for the test to make."""
    for node in lab.hosts:
        space.create(server(node))
        space.create(pod(f"client-{node}", nodeName=node, tolerations=TOLERATE))
    space.ready(*[f"{kind}-{node}" for node in lab.hosts for kind in ("server", "client")], seconds=90)
    return space


def server(node: str) -> Json:
    ready = {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}
    return pod(f"server-{node}", SERVER, nodeName=node, tolerations=TOLERATE, labels={"app": "web"}, app=ready)


def service(space: LabSpace, name: str = "web", **spec: Any) -> Json:
    """Make a Service of the servers; its object, once its endpoints are told."""
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}], **spec}
    space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    found: Json = space.kubectl.json("-n", space.name, "get", "service", name)
    return found


def who(space: LabSpace, client: str, address: str, count: int = 1) -> Counter[str]:
    """Which servers answer a pod's requests; "-" for those that nobody answers."""
    loop = (f"for i in $(busybox seq {count}); do timeout 3 busybox wget -q -O - http://{address}/cgi-bin/who "
            "|| echo -; done")
    said = space.run(client, "sh", "-c", loop, check=False)  # the agent may be away
    answers = Counter(line.split()[0] for line in said.splitlines() if line.startswith(("server-", "-")))
    return answers if answers.total() == count else Counter({"-": count})


def works(space: LabSpace, client: str, address: str) -> bool:
    """Whether a few requests are all answered."""
    return who(space, client, address, 3)["-"] == 0


def from_host(lab: LabHandle, node: str, address: str) -> str:
    """What a server says to a node itself; "" for no answer."""
    url = f"http://{address}/cgi-bin/who"
    done = lab.run(node, "timeout", "5", "busybox", "wget", "-q", "-O", "-", url, check=False)
    return done.stdout.strip()


def from_machine(address: str) -> str:
    """What a server says to the machine that the lab is on; "" for no answer."""
    try:
        with urllib.request.urlopen(f"http://{address}/cgi-bin/who", timeout=5) as response:
            return str(response.read().decode().strip())
    except OSError:
        return ""


def test_cluster_ip_and_node_port_from_everywhere(web: LabSpace, lab: LabHandle) -> None:
    made = service(web, type="NodePort")
    address, number = made["spec"]["clusterIP"], made["spec"]["ports"][0]["nodePort"]
    servers = {f"server-{node}" for node in lab.hosts}
    for node in lab.hosts:
        client = f"client-{node}"
        patience(f"{node} knows all servers", lambda: set(who(web, client, address, 20)) == servers)  # noqa: B023
        # From the host and across hosts, which a wrong checksum in the tunnel keeps waiting for a minute.
        patience(f"{node} itself reaches all servers", lambda: {
            from_host(lab, node, address).partition(" ")[0] for _ in range(25)} == servers, 60)  # noqa: B023
        assert from_host(lab, node, f"127.0.0.1:{number}").split()[0] in servers
    for host in lab.hosts.values():
        seen = {from_machine(f"{host.ip}:{number}").partition(" ")[0] for _ in range(50)}
        assert seen == servers, host.name
        assert set(who(web, "client-node1", f"{host.ip}:{number}", 6)) <= servers
        assert from_host(lab, "node2", f"{host.ip}:{number}").split()[0] in servers
    assert set(who(web, "client-node1", "web", 5)) <= servers  # by name
    # Without endpoints it is heard at once, wherever one asks; the rules follow the pods within moments.
    web("delete", "pod", *[f"server-{node}" for node in lab.hosts], "--wait=false")
    for node in lab.hosts:
        def refused(client: str = f"client-{node}") -> bool:
            said = web.run(client, "timeout", "3", "busybox", "wget", "-O", "-", f"http://{address}", check=False)
            return "refused" in said

        patience(f"{node} refuses", refused)


def test_a_pod_reaches_itself_through_its_service(web: LabSpace) -> None:
    web("delete", "pod", "server-node2", "server-master", "--wait=false")
    web.gone("server-node2", "server-master")
    address = service(web)["spec"]["clusterIP"]
    alone = {"server-node1"}
    patience("the only server answers itself", lambda: set(who(web, "server-node1", address, 3)) == alone)


def test_load_balancer_and_local_policy(web: LabSpace, lab: LabHandle) -> None:
    """What comes from outside stays on its node and keeps its address; nodes without a server say so."""
    web("delete", "pod", "server-node2", "--wait=false")
    web.gone("server-node2")
    service(web, type="LoadBalancer", externalTrafficPolicy="Local", ports=[{"port": 8099, "targetPort": 8080}])

    def object_() -> Json:
        found: Json = web.kubectl.json("-n", web.name, "get", "service", "web")
        return found

    patience("the load balancer's addresses are told", lambda: object_()["status"]["loadBalancer"].get("ingress"))
    made, node1, node2 = object_(), lab.hosts["node1"], lab.hosts["node2"]
    number, check = made["spec"]["ports"][0]["nodePort"], made["spec"]["healthCheckNodePort"]
    machine = subprocess.run(["ip", "-4", "route", "get", node1.ip], capture_output=True, text=True, check=True
                             ).stdout.partition("src ")[2].split()[0]
    for address in (f"{node1.ip}:{number}", f"{node1.ip}:8099"):
        patience(f"{address} answers", lambda: from_machine(address) == f"server-node1 {machine}")  # noqa: B023
    assert from_machine(f"{node2.ip}:{number}") == ""

    def health(ip: str) -> int:
        try:
            with urllib.request.urlopen(f"http://{ip}:{check}/", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0  # the port follows the rules

    patience("node1 is healthy", lambda: health(node1.ip) == 200)
    patience("node2 is not", lambda: health(node2.ip) == 503)


def test_restarts_of_agents_lose_no_request(web: LabSpace, lab: LabHandle) -> None:
    """By address and by name, from pods on both workers, while all agents are killed and started again."""
    address = service(web)["spec"]["clusterIP"]
    askers = []
    for node in ("node1", "node2"):
        patience(f"{node} has the Service", lambda: works(web, f"client-{node}", "web"))  # noqa: B023
        for how, url in (("address", f"http://{address}/"), ("name", "http://web/")):
            askers.append(web.pod(f"asker-{node}-{how}", ["sh", "-c", LOOP.format(url=url)], nodeName=node))
    web.ready(*askers)
    for node in lab.hosts:
        lab.restart(node, "agent", kill=True)
    lab.until_ready()
    web.create(*[{"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"other-{number}"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}} for number in range(10)])
    for node in lab.hosts:
        lab.restart(node, "agent")
    lab.until_ready()
    patience("rules follow again", lambda: works(web, "client-node1", "other-9"), 90)
    for asker in askers:
        patience(f"{asker} has asked", lambda: Counter(web("logs", asker).split())["ok"] > 20, 60)  # noqa: B023
        assert Counter(web("logs", asker).split())["LOST"] == 0, asker


def test_wiped_rules_come_back(web: LabSpace, lab: LabHandle) -> None:
    address = service(web)["spec"]["clusterIP"]
    patience("the Service works", lambda: works(web, "client-node1", address))
    lab.exec("node1", "iptables", "-t", "nat", "-F")
    patience("it works again", lambda: works(web, "client-node1", address))
    lab.exec("node1", "sh", "-c", "iptables -P FORWARD DROP && iptables -F FORWARD")
    patience("and once more", lambda: works(web, "client-node1", address))


def test_a_pod_that_leaves_takes_no_more_connections(web: LabSpace, lab: LabHandle) -> None:
    address = service(web)["spec"]["clusterIP"]
    servers = {f"server-{node}" for node in lab.hosts}
    patience("all servers answer", lambda: set(who(web, "client-node1", address, 20)) == servers)
    web("delete", "pod", "server-node2", "--wait=false")
    web.gone("server-node2")
    patience("node2's is gone", lambda: "server-node2" not in who(web, "client-node1", address, 20))
    assert set(who(web, "client-node1", address, 30)) == servers - {"server-node2"}
