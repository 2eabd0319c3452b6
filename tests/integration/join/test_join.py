"""`sampan join` on a real second host: it becomes a node, or it is told why not and stays as it was."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.cluster import NODE_IP, ClusterHandle
from tests.support.engine import IMAGE
from tests.support.join import AGENT, JoiningHost, engine_that_says, master_with_clock, somebody_listens

pytestmark = [pytest.mark.docker, pytest.mark.net, pytest.mark.kubectl, pytest.mark.timeout(300)]

MASTER = f"https://{NODE_IP}:6443"


@pytest.fixture(scope="module")
def line(cluster: ClusterHandle) -> str:
    return cluster.sampan("token", "create", "--print-join-command", "--description", "for tests").stdout.strip()


def refused(host: JoiningHost, *arguments: str) -> str:
    """Join in vain: what is said. Nothing of it may stay."""
    started = time.monotonic()
    done = host.sampan(*arguments, check=False, timeout=90)
    assert done.returncode == 1, done.stdout + done.stderr
    assert time.monotonic() - started < 60
    left = [place for place in ("config/agent.yaml", "config/bootstrap-token", "data/agent/pki/node.pem")
            if (host.directory / place).exists()]
    assert left == []
    assert host.sampan("status", "-o", "json", check=False).stdout.count('"running"') == 0
    assert done.stderr.startswith("error: "), done.stderr
    return done.stderr


def test_a_wrong_token(host: JoiningHost, line: str) -> None:
    said = refused(host, *host.join_arguments(re.sub(r"--token \S+", "--token abcdef.0123456789abcdef", line)))
    assert "refuses the token: it is mistyped, has expired, or was deleted" in said
    assert "sampan token create" in said


def test_an_expired_token(cluster: ClusterHandle, host: JoiningHost) -> None:
    line = cluster.sampan("token", "create", "--ttl", "1s", "--print-join-command").stdout.strip()
    token = re.search(r"--token (\w+)\.", line)
    assert token is not None
    cluster.kubectl()("wait", "--for=delete", f"secret/bootstrap-token-{token[1]}", "-n", "kube-system",
                      "--timeout=60s", timeout=70)
    assert "refuses the token" in refused(host, *host.join_arguments(line))


def test_no_token_and_no_hash(host: JoiningHost) -> None:
    assert "--token: a bootstrap token is six" in refused(host, "join", MASTER)
    assert "--ca-hash: needed" in refused(host, "join", MASTER, "--token", "abcdef.0123456789abcdef")


def test_another_cluster_s_hash(host: JoiningHost, line: str) -> None:
    said = refused(host, *host.join_arguments(re.sub(r"sha256:\S+", f"sha256:{'0' * 64}", line)))
    assert "of another cluster, or somebody stands between" in said


@pytest.mark.parametrize(("url", "text"), [
    ("https://10.99.0.1:6443", "no route to the API server at 10.99.0.1:6443"),
    (f"https://{NODE_IP}:6555", f"nothing listens for the API server at {NODE_IP}:6555"),
    ("https://192.168.77.99:6443", "192.168.77.99:6443"),  # nobody has that address: no route, or no answer
    ("https://no.such.host.invalid:6443", "the name no.such.host.invalid cannot be resolved"),
    ("ftp://x", "is not an API server's address"),
])
def test_a_master_that_is_not_there(host: JoiningHost, line: str, url: str, text: str) -> None:
    assert text in refused(host, *host.join_arguments(line.replace(MASTER, url)))


def test_a_firewall_before_the_agents_port(cluster: ClusterHandle, host: JoiningHost, line: str) -> None:
    rule = ("INPUT", "-p", "tcp", "--dport", "6444", "-s", "192.168.77.11", "-j", "DROP")
    cluster.run("iptables", "-I", *rule)
    try:
        said = refused(host, *host.join_arguments(line))
    finally:
        cluster.run("iptables", "-D", *rule)
    assert f"no answer from the master's node service at {NODE_IP}:6444 within 5 s" in said
    assert "6444/tcp must be open" in said


def test_a_clock_that_is_wrong(host: JoiningHost, line: str, tmp_path: Path) -> None:
    """Played on the test's own loopback: two hosts of one kernel have one clock."""
    with master_with_clock(tmp_path, 3 * 3600) as (port, digest):
        words = re.sub(r"sha256:\S+", digest, line.replace(MASTER, f"https://127.0.0.1:{port}")).split()
        done = run_here(host, *host.join_arguments(" ".join(words)), "--node-server", f"127.0.0.1:{port}")
    assert re.search(r"this host's clock is \d+ s behind the master's; set it right", done)


def run_here(host: JoiningHost, *arguments: str) -> str:
    """A join outside of the host's network."""
    done = subprocess.run([str(Path(AGENT).with_name("sampan")), *arguments], env=host.environment,
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize(("version", "root", "text"), [
    ("19.03.15", "/var/lib/docker", "Docker 19.03.15 is too old: 20.10 is the oldest that works"),
    ("24.0.5", "/var/snap/docker/common/var-lib-docker", "Docker is a snap here"),
])
def test_an_engine_that_will_not_do(host: JoiningHost, line: str, tmp_path: Path, version: str, root: str,
                                    text: str) -> None:
    with engine_that_says(tmp_path, version, root) as address:
        said = refused(host, *line.split()[1:], "--docker-host", address)
    assert text in said
    assert "install Docker from" in said


def test_no_engine(host: JoiningHost, line: str) -> None:
    said = refused(host, *line.split()[1:], "--docker-host", "unix:///nowhere/docker.sock")
    assert "Docker is not there: there is no /nowhere/docker.sock" in said


def test_a_port_that_somebody_has(host: JoiningHost, line: str) -> None:
    with somebody_listens(host, 10250):
        assert "port 10250 is in use" in refused(host, *host.join_arguments(line))


def test_a_name_that_a_living_node_has(host: JoiningHost, line: str) -> None:
    said = refused(host, *host.join_arguments(line, "--node-name", "node-1"))
    assert 'a Node with name "node-1" and status "Ready" already exists in the cluster' in said
    assert "change the name of this new joining Node" in said


@pytest.mark.parametrize(("option", "value", "text"), [
    ("--network-backend", "host-gw", "network-backend: host-gw on this host, vxlan in the cluster"),
    ("--pod-cidr", "10.9.0.0/16", "pod-cidr: 10.9.0.0/16 on this host, 10.244.0.0/16 in the cluster"),
])
def test_settings_that_contradict_the_cluster_s(host: JoiningHost, line: str, option: str, value: str,
                                                text: str) -> None:
    assert text in refused(host, *host.join_arguments(line, "--node-name", "n2", option, value))


def test_an_old_configuration_that_contradicts_the_cluster_s(host: JoiningHost, line: str) -> None:
    place = host.directory / "config" / "agent.yaml"
    place.write_text("network-backend: host-gw\n")
    done = host.sampan(*host.join_arguments(line, "--node-name", "n2"), check=False, timeout=90)
    assert done.returncode == 1
    assert "error: network-backend: host-gw on this host, vxlan in the cluster" in done.stderr
    assert str(place) in done.stderr
    assert place.read_text() == "network-backend: host-gw\n"
    place.unlink()


def test_it_joins_and_runs_pods(cluster: ClusterHandle, host: JoiningHost, line: str) -> None:
    done = host.sampan(*host.join_arguments(line, "--node-name", "n2"), timeout=200)
    assert "Node n2 … is Ready" in done.stdout
    kubectl = cluster.kubectl()
    node = kubectl.json("get", "node", "n2")
    assert {"type": "InternalIP", "address": host_address(host)} in node["status"]["addresses"]
    assert not (host.directory / "config" / "bootstrap-token").exists()
    assert "The cluster's settings … pod-cidr 10.244.0.0/16, network-backend vxlan" in done.stdout
    written = yaml.safe_load((host.directory / "config" / "agent.yaml").read_text())
    assert (written["pod-cidr"], written["network-backend"]) == ("10.244.0.0/16", "vxlan")
    kubectl("run", "far", f"--image={IMAGE}", "--image-pull-policy=Never",
            '--overrides={"spec": {"nodeName": "n2", "terminationGracePeriodSeconds": 0}}', "--command", "--",
            "sleep", "600")
    kubectl("wait", "--for=condition=Ready", "pod/far", "--timeout=90s", timeout=100)
    assert "k8s_far_far" in host.docker("ps", "--format", "{{.Names}}")
    seen = host.sampan("status").stdout
    assert re.search(r"^agent +running .*\nnode +Ready +n2\npods +1 Running$", seen, re.MULTILINE), seen
    again = host.sampan(*host.join_arguments(line, "--node-name", "n2"))
    assert "This host is node n2 already, and Ready." in again.stdout


def doctor(host: JoiningHost, *, well: bool) -> dict[str, list[str]]:
    """What `sampan doctor` finds amiss: by the check, the texts of its faults. It exits with 1 where there is one."""
    done = host.sampan("doctor", "-o", "json", check=False, timeout=90)
    assert done.returncode == (0 if well else 1), done.stdout + done.stderr
    told: dict[str, list[str]] = {}
    for item in json.loads(done.stdout)["findings"]:
        if item["level"] == "fault":
            told.setdefault(item["check"], []).append(item["text"])
    return told


def test_doctor_finds_a_node_well(host: JoiningHost) -> None:
    host.run("iptables", "-P", "FORWARD", "DROP")
    assert doctor(host, well=True) == {}
    said = host.sampan("doctor").stdout
    route = re.search(r"^warning +cluster DNS +this host has no route to 10\.96\.0\.10,.*\n +(.*)$", said, re.MULTILINE)
    assert route is not None, said
    host.run(*route[1].split())
    said = host.sampan("doctor").stdout
    assert re.search(r"^ok +FORWARD +its policy is DROP; pods' packets are accepted before", said, re.MULTILINE)
    assert re.search(rf"^ok +master +the master's node service answers at {NODE_IP}:6444$", said, re.MULTILINE)
    assert re.search(r"^ok +cluster DNS +answers at 10\.96\.0\.10$", said, re.MULTILINE)
    assert re.search(r"^ok +clock +as the master's$", said, re.MULTILINE)
    assert re.search(r"^warning +Docker +live-restore is off", said, re.MULTILINE)


def test_doctor_finds_what_breaks_a_node(cluster: ClusterHandle, host: JoiningHost) -> None:
    """Each by real means; what is mended is well again."""
    closed = ("INPUT", "-p", "tcp", "--dport", "6444", "-s", host_address(host), "-j", "DROP")
    cluster.run("iptables", "-I", *closed)
    host.crash("agent")
    host.run("iptables", "-D", "FORWARD", "-m", "comment", "--comment", "sampan", "-j", "SAMPAN-FORWARD")
    host.run("iptables", "-F", "DOCKER-USER")
    host.run("iptables-legacy", "-P", "FORWARD", "DROP")
    host.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    try:
        told = doctor(host, well=False)
    finally:
        cluster.run("iptables", "-D", *closed)
        host.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
        host.start_agent()
    assert set(told) == {"FORWARD", "iptables", "sysctl", "services", "master", "cluster DNS"}
    assert told["FORWARD"] == ["drops pods' packets; the agent, which has them accepted, does not run"]
    assert "there are rules of two flavours" in told["iptables"][0]
    assert told["sysctl"] == ["net.ipv4.ip_forward is 0: no packet gets from one interface to another"]
    assert told["services"] == ["the agent does not run"]
    assert f"no answer from the master's node service at {NODE_IP}:6444" in told["master"][0]
    assert "it is the agent that answers there" in told["cluster DNS"][0]
    deadline = time.monotonic() + 90
    while host.sampan("doctor", check=False).returncode:
        assert time.monotonic() < deadline, doctor(host, well=True)
        time.sleep(1)


def test_it_follows_when_its_address_changes(cluster: ClusterHandle, host: JoiningHost) -> None:
    """As by DHCP: the node goes by the new address, pods run on, and the other node finds them again."""
    kubectl = cluster.kubectl()

    def told() -> tuple[str, str, str]:
        node, pod = kubectl.json("get", "node", "n2"), kubectl.json("get", "pod", "far")
        addresses = {item["type"]: item["address"] for item in node["status"]["addresses"]}
        return (addresses["InternalIP"], node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"],
                pod["status"]["hostIP"])

    old = host_address(host)
    new = "192.168.77.12"
    assert told() == (old, old, old)
    running = host.docker("ps", "-q", "--no-trunc")
    far = kubectl.json("get", "pod", "far")["status"]["podIP"]
    patience(lambda: cluster.run("busybox", "ping", "-c", "1", "-W", "2", far, check=False).returncode == 0)
    host.run("ip", "addr", "del", f"{old}/24", "dev", "eth0")
    host.run("ip", "addr", "add", f"{new}/24", "dev", "eth0")
    patience(lambda: told() == (new, new, new))
    assert f"this node's address has changed from {old} to {new}; starting again" in host.log("agent")
    patience(lambda: cluster.run("busybox", "ping", "-c", "1", "-W", "2", far, check=False).returncode == 0)
    assert kubectl("exec", "far", "--", "echo", "hello") == "hello\n"
    assert host.docker("ps", "-q", "--no-trunc") == running
    trusting = ("curl", "-sS", "--max-time", "5", "--cacert", str(cluster.directory / "data/master/pki/ca.crt"))
    patience(lambda: cluster.run(*trusting, f"https://{new}:10250/healthz", check=False).returncode == 0)


def test_images_in_a_folder_are_loaded(host: JoiningHost) -> None:
    """For hosts without a registry: what `docker save` wrote is loaded when it appears."""
    name = "sampan-test/carried:1"
    host.docker("tag", IMAGE, name)
    folder = host.directory / "data" / "images"
    folder.mkdir(parents=True)
    host.docker("save", "-o", str(host.directory / "carried.tar"), name)
    host.docker("rmi", name)
    (host.directory / "carried.tar").rename(folder / "carried.tar")
    patience(lambda: name in host.docker("images", "--format", "{{.Repository}}:{{.Tag}}"))


def host_address(host: JoiningHost) -> str:
    found = re.search(r"inet ([0-9.]+)/", host.run("ip", "-4", "addr", "show", "eth0").stdout)
    assert found is not None
    return found[1]


def test_a_host_is_in_one_cluster_under_one_name(host: JoiningHost, line: str) -> None:
    done = host.sampan(*host.join_arguments(line, "--node-name", "n3"), check=False)
    assert done.returncode == 1
    assert f'this host is node "n2" of {MASTER} already' in done.stderr
    assert "sampan reset" in done.stderr


def test_its_certificate_is_listed(cluster: ClusterHandle, host: JoiningHost) -> None:
    [own] = json.loads(host.sampan("certs", "-o", "json").stdout)
    assert (own["name"], own["subject"], own["renewedBy"]) == ("node", "system:node:n2", "the running agent")
    names = [item["name"] for item in json.loads(cluster.sampan("certs", "-o", "json").stdout)]
    assert names == ["admin", "apiserver", "ca", "kubeconfig", "node"]


@pytest.mark.parametrize(("method", "path", "code"), [
    ("GET", "/api/v1/nodes/n2", 200),
    ("GET", "/api/v1/nodes/node-1", 403),
    ("DELETE", "/api/v1/nodes/n2", 403),
    ("GET", "/api/v1/secrets", 403),
    ("GET", "/api/v1/namespaces/kube-system/secrets/bootstrap-token-abcdef", 403),
    ("GET", "/api/v1/namespaces/kube-system/configmaps/node-identities", 403),
    ("GET", "/api/v1/namespaces/kube-system/configmaps/sampan-config", 200),
    ("PUT", "/api/v1/namespaces/kube-system/configmaps/sampan-config", 403),
    ("DELETE", "/api/v1/namespaces/default", 403),
    ("POST", "/apis/apps/v1/namespaces/default/deployments", 403),
])
def test_its_certificate_opens_no_other_door(host: JoiningHost, method: str, path: str, code: int) -> None:
    folder = host.directory / "data" / "agent" / "pki"
    done = host.run("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "--max-time", "20",
                    "--cacert", str(folder / "ca.crt"), "--cert", str(folder / "node.pem"), f"{MASTER}{path}")
    assert done.stdout == str(code)


def test_deleted_with_kubectl_it_is_shut_out_and_joins_again(cluster: ClusterHandle, host: JoiningHost,
                                                             line: str) -> None:
    kubectl = cluster.kubectl()
    kubectl("delete", "node", "n2")
    patience(lambda: "has been deleted from the cluster; join again with a new token" in host.log("agent"))
    assert kubectl("get", "nodes", "-o", "name") == "node/node-1\n"
    done = host.sampan(*host.join_arguments(line, "--node-name", "n2"), timeout=200)
    assert "Node n2 … is Ready" in done.stdout


def patience(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_reset_leaves_nothing_and_it_can_join_under_another_name(cluster: ClusterHandle, host: JoiningHost,
                                                                 line: str) -> None:
    kubectl = cluster.kubectl()
    assert "sampan0" in host.links()
    done = host.sampan("reset", timeout=200)
    assert "kubectl delete node n2" in done.stdout
    assert host.docker("ps", "-aq") == ""
    assert host.links() == ["docker0", "eth0"]
    rules = host.run("iptables-save").stdout
    assert "SAMPAN" not in rules
    assert "KUBE" not in rules
    left = [path for path in host.directory.iterdir() if path.name in ("config", "data", "run", "log")]
    assert [path.name for folder in left for path in folder.rglob("*")] == ["images", "carried.tar"]
    assert "joined no cluster" in host.sampan("reset").stdout, "a second time does nothing"
    kubectl("delete", "node", "n2")
    host.sampan(*host.join_arguments(line, "--node-name", "n3"), timeout=200)
    assert set(kubectl("get", "nodes", "-o", "name").split()) == {"node/node-1", "node/n3"}


def test_reset_is_refused_on_the_master_s_host(cluster: ClusterHandle) -> None:
    done = cluster.sampan("reset", check=False)
    assert done.returncode == 1
    assert "this host runs the master" in done.stderr


def test_tokens_are_listed_and_deleted(cluster: ClusterHandle) -> None:
    made = cluster.sampan("token", "create", "--ttl", "90m", "--description", "a b").stdout.strip()
    listed = {item["token"]: item for item in json.loads(cluster.sampan("token", "list", "-o", "json").stdout)}
    assert listed[made]["description"] == "a b"
    assert listed[made]["ttl"] == "1h"
    assert listed[made]["usages"] == ["authentication", "signing"]
    assert made in cluster.sampan("token", "list").stdout
    assert cluster.sampan("token", "delete", made).stdout == f'bootstrap token "{made[:6]}" deleted\n'
    assert f'there is no token "{made[:6]}"' in cluster.sampan("token", "delete", made[:6], check=False).stderr
    assert "is no duration" in cluster.sampan("token", "create", "--ttl", "1 day", check=False).stderr
    taken = cluster.sampan("token", "create", "abcdef.0123456789abcdef").stdout.strip()
    assert "exists already" in cluster.sampan("token", "create", taken, check=False).stderr
    cluster.sampan("token", "delete", "abcdef")


def test_certificates_are_renewed_at_once(cluster: ClusterHandle) -> None:
    def ends() -> dict[str, str]:
        return {item["name"]: item["expires"] for item in json.loads(cluster.sampan("certs", "-o", "json").stdout)}

    before = ends()
    time.sleep(max(0.0, 1.1 - time.time() % 1))  # certificates count in seconds
    said = cluster.sampan("certs", "renew", "apiserver").stdout
    assert "apiserver: valid until" in said
    assert "master: restarted" in said
    after = ends()
    assert {name for name in before if after[name] != before[name]} == {"apiserver"}
    patience(lambda: cluster.kubectl().run("get", "--raw", "/readyz").code == 0)
    assert "foo cannot be renewed here" in cluster.sampan("certs", "renew", "foo", check=False).stderr
