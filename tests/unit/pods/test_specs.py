"""From a pod's spec to what the engine is asked for: resources, identity, files, names."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.engine.protocol import Container, Image
from agent.pods import labels
from agent.pods.backoff import duration, next_backoff, restart_at
from agent.pods.containers import (
    ConfigFailure,
    Ingredients,
    check_non_root,
    container_spec,
    host_ports,
    sandbox_spec,
    volume_mount,
)
from agent.pods.dns import DnsConfig, Resolver, node_resolver, parse
from agent.pods.files import PodFiles, aliases, hostname, hosts
from agent.pods.model import Attempt
from agent.pods.resources import container_limits, oom_score, pod_limits, qos_class, quota, shares
from netplugin.protocol import HostPort
from sampan.api.types import core_v1
from tests.support.pods import World, make_pod

PARTS = Ingredients("node-1", 0, 0.0, "infra", "/kubepods/podx", 8 << 30)


def _with(resources: dict[str, Any], **more: Any) -> core_v1.Pod:
    return make_pod(containers=[{"name": "app", "image": "a", "resources": resources}], **more)


@pytest.mark.parametrize(("milli", "expected"), [(0, 2), (1, 2), (100, 102), (1000, 1024), (10_000_000, 262_144)])
def test_shares(milli: int, expected: int) -> None:
    assert shares(milli) == expected


@pytest.mark.parametrize(("milli", "expected"), [(0, 0), (1, 1000), (500, 50_000), (2000, 200_000)])
def test_quota(milli: int, expected: int) -> None:
    assert quota(milli) == expected


@pytest.mark.parametrize(("resources", "qos", "score"), [
    ({}, "BestEffort", 1000),
    ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed", -997),
    ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed", -997),
    ({"requests": {"cpu": "1"}}, "Burstable", 999),
    ({"limits": {"memory": "1Gi"}}, "Burstable", 875),
    ({"requests": {"memory": "4Gi"}}, "Burstable", 500),
    ({"requests": {"memory": "80Gi"}}, "Burstable", 3)])
def test_quality_of_service(resources: dict[str, Any], qos: str, score: int) -> None:
    pod = _with(resources)
    assert qos_class(pod) == qos
    assert oom_score(pod, pod.spec.containers[0], 8 << 30) == score


@pytest.mark.parametrize(("priority", "name", "score"), [
    (2_000_001_000, "system-node-critical", -997), (2_000_000_000, "system-cluster-critical", 1000),
    (1000, "system-node-critical", 1000)])
def test_only_what_the_node_needs_is_spared_whatever_it_asks_for(priority: int, name: str, score: int) -> None:
    pod = _with({}, priority=priority, priorityClassName=name)
    assert oom_score(pod, pod.spec.containers[0], 8 << 30) == score


def test_limits() -> None:
    pod = _with({"limits": {"cpu": "500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}})
    limits = container_limits(pod, pod.spec.containers[0], 8 << 30)
    assert (limits.cpu_shares, limits.cpu_quota, limits.memory) == (256, 50_000, 64 << 20)
    assert pod_limits(pod).cpu_shares == 256
    two = make_pod(containers=[{"name": "a", "image": "a", "resources": {"limits": {"memory": "1Mi"}}},
                               {"name": "b", "image": "a"}])
    assert pod_limits(two).memory == 0, "one container without a limit leaves the pod without one"
    zero = make_pod(containers=[{"name": name, "image": "a", "resources": {"limits": {"cpu": cpu}}}
                                for name, cpu in (("a", "0"), ("b", "500m"))])
    assert pod_limits(zero).cpu_quota == 0, "and a limit of zero is none"
    init = make_pod(initContainers=[{"name": "i", "image": "a", "resources": {"requests": {"cpu": "2"}}}],
                    containers=[{"name": "a", "image": "a", "resources": {"requests": {"cpu": "1"}}}])
    assert pod_limits(init).cpu_shares == 2048


def test_the_infra_container() -> None:
    pod = make_pod(hostname="box", shareProcessNamespace=True,
                   securityContext={"sysctls": [{"name": "net/core/somaxconn", "value": "1024"}]})
    spec = sandbox_spec(pod, "infra:1", "node-1", 2, "/parent")
    assert spec.name == "k8s_POD_web_default_uid-web_2"
    assert (spec.network_mode, spec.ipc_mode, spec.pid_mode, spec.hostname) == ("none", "shareable", "", "box")
    assert spec.sysctls == {"net.core.somaxconn": "1024"}
    host = sandbox_spec(make_pod(hostNetwork=True, hostPID=True, hostIPC=True), "infra:1", "node-1", 0, "/parent")
    assert (host.network_mode, host.ipc_mode, host.pid_mode, host.uts_mode, host.hostname) == (
        "host", "host", "host", "host", "")


def test_an_app_container() -> None:
    pod = make_pod(shareProcessNamespace=True,
                   securityContext={"fsGroup": 7, "supplementalGroups": [5], "runAsUser": 1},
                   containers=[{"name": "app", "image": "a:1", "command": ["run", "$(A)"], "args": ["$(B)"],
                                "tty": True,
                                "securityContext": {"runAsUser": 1000, "runAsGroup": 2, "privileged": True,
                                                    "allowPrivilegeEscalation": False,
                                                    "readOnlyRootFilesystem": True,
                                                    "seccompProfile": {"type": "Unconfined"},
                                                    "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}}])
    parts = Ingredients("node-1", 3, 40.0, "infra", "/parent", 8 << 30, {"A": "x"})
    spec = container_spec(pod, pod.spec.containers[0], parts)
    assert spec.name == "k8s_app_web_default_uid-web_3"
    assert (spec.command, spec.args) == (["run", "x"], ["$(B)"])
    assert (spec.user, list(spec.groups)) == ("1000:2", [5, 7])
    assert (spec.network_mode, spec.ipc_mode, spec.pid_mode) == ("container:infra",) * 3
    assert spec.privileged
    assert spec.read_only_root
    assert spec.tty
    assert spec.security_options == ("no-new-privileges", "seccomp=unconfined")
    assert (spec.capabilities_add, spec.capabilities_drop) == (("NET_ADMIN",), ("ALL",))
    assert spec.labels[labels.BACKOFF] == "40"
    assert (spec.log_max_size, spec.log_max_files) == ("10m", 5)
    attempt = Attempt.of(Container("c", spec.name, "a:1", "", spec.labels, "running"))
    assert (attempt.name, attempt.number, attempt.backoff, attempt.sandbox_id) == ("app", 3, 40.0, "infra")
    assert attempt.hash == labels.container_hash(pod.spec.containers[0])


@pytest.mark.parametrize(("image_user", "user"), [("", "0:5"), ("app", "app:5"), ("1000:1000", "1000:5")])
def test_a_group_alone_goes_with_the_images_user(image_user: str, user: str) -> None:
    pod = make_pod(containers=[{"name": "app", "image": "a"}], securityContext={"runAsGroup": 5})
    assert container_spec(pod, pod.spec.containers[0], replace(PARTS, image_user=image_user)).user == user


async def test_the_images_user_is_looked_up_for_it(world: World) -> None:
    world.engine.add_image("app:3", user="7:8", command=["pause"])
    async with world.agent():
        world.create(make_pod(containers=[{"name": "app", "image": "app:3"}], securityContext={"runAsGroup": 5}))
        await world.settle()
        box = await world.running("app")
        assert world.engine.specs[box.id].user == "7:5"


@pytest.mark.parametrize(("security", "user", "refusal"), [
    ({"runAsNonRoot": True}, "", ("container has runAsNonRoot and image will run as root "
                                  '(pod: "web_default(uid-web)", container: app)')),
    ({"runAsNonRoot": True}, "0:0", "image will run as root"),
    ({"runAsNonRoot": True}, "00", "image will run as root"),  # the engine reads a number
    ({"runAsNonRoot": True}, "\N{ARABIC-INDIC DIGIT ONE}", "image has non-numeric user"),
    ({"runAsNonRoot": True}, "root", "image has non-numeric user (root), cannot verify user is non-root"),
    ({"runAsNonRoot": True}, "nobody", "image has non-numeric user (nobody), cannot verify user is non-root"),
    ({"runAsNonRoot": True, "runAsUser": 0}, "1", "container's runAsUser breaks non-root policy"),
    ({"runAsNonRoot": True}, "1000", ""), ({"runAsNonRoot": True, "runAsUser": 5}, "", ""), ({}, "", "")])
def test_run_as_non_root(security: dict[str, Any], user: str, refusal: str) -> None:
    pod = make_pod(containers=[{"name": "app", "image": "a", "securityContext": security}])
    if not refusal:
        check_non_root(pod, pod.spec.containers[0], Image("sha256:1", user=user))
        return
    with pytest.raises(ConfigFailure) as caught:
        check_non_root(pod, pod.spec.containers[0], Image("sha256:1", user=user))
    assert refusal in str(caught.value)


def test_mounts_and_ports() -> None:
    mount = core_v1.VolumeMount(name="v", mount_path="/data", mount_propagation="HostToContainer")
    made = volume_mount(mount, "/host/v", read_only=True)
    assert (made.source, made.target, made.read_only, made.propagation) == ("/host/v", "/data", True, "rslave")
    ports = [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP",
                                                       "hostIP": "192.0.2.1"}, {"containerPort": 81}]
    pod = make_pod(containers=[{"name": "app", "image": "a", "ports": ports}])
    assert host_ports(pod) == [HostPort(8080, 80), HostPort(53, 53, "UDP", "192.0.2.1")]
    assert host_ports(make_pod(hostNetwork=True, containers=[{"name": "app", "image": "a", "ports": ports}])) == []
    early = [{"name": "init", "image": "a", "ports": ports[:1]},
             {"name": "sidecar", "image": "a", "ports": ports[1:], "restartPolicy": "Always"}]
    assert host_ports(make_pod(initContainers=early)) == [HostPort(53, 53, "UDP", "192.0.2.1")]


def test_hosts_file() -> None:
    pod = make_pod(subdomain="sub", hostAliases=[{"ip": "192.0.2.5", "hostnames": ["a", "b"]}])
    assert hosts(pod, "10.0.0.2", "cluster.local").endswith(
        "10.0.0.2\tweb.sub.default.svc.cluster.local\tweb\n")
    assert aliases(pod) == "\n# Entries added by HostAliases.\n192.0.2.5\ta\tb\n"
    assert hostname(make_pod("x" * 70)) == "x" * 63


def test_what_a_container_wrote_into_its_hosts_file_is_written_over(tmp_path: Path) -> None:
    files, pod = PodFiles(tmp_path), make_pod()
    path = Path(files.write_hosts(pod, "10.0.0.2", "cluster.local"))
    text, inode = path.read_text(), path.stat().st_ino
    path.write_bytes(b"\xff is no text")
    assert files.write_hosts(pod, "10.0.0.2", "cluster.local") == str(path)
    assert (path.read_text(), path.stat().st_ino) == (text, inode)


@pytest.mark.parametrize(("text", "found"), [(b"", ""), (b"done", "done"), (b"x" * 5000 + b"end", "x" * 4093 + "end"),
                                             (b"\xff", "\ufffd")])
def test_of_a_long_message_the_end_counts(tmp_path: Path, text: bytes, found: str) -> None:
    files = PodFiles(tmp_path)
    path = Path(files.new_message_file(make_pod(), "app"))
    path.write_bytes(text)
    assert files.read_message(str(path)) == found
    assert files.read_message("/etc/hostname") == ""


def test_resolver_of_the_node(tmp_path: Any) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("# managed\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch lan\n")
    real.write_text("nameserver 192.0.2.53\nsearch lan\n")
    assert node_resolver(str(stub), str(real)) == Resolver(["192.0.2.53"], ["lan"], [])
    assert node_resolver(str(real), str(stub)).nameservers == ["192.0.2.53"]
    assert node_resolver(str(tmp_path / "none"), "") == Resolver()


NODE_RESOLVER = Resolver(["192.0.2.53"], ["lan"], ["rotate"])


@pytest.mark.parametrize(("spec", "servers", "text"), [
    ({}, [], "search lan\nnameserver 192.0.2.53\noptions rotate\n"),
    ({"dnsPolicy": "Default"}, ["10.96.0.10"], "search lan\nnameserver 192.0.2.53\noptions rotate\n"),
    ({}, ["10.96.0.10"], ("search default.svc.cluster.local svc.cluster.local cluster.local lan\n"
                          "nameserver 10.96.0.10\noptions ndots:5\n")),
    ({"hostNetwork": True}, ["10.96.0.10"], "search lan\nnameserver 192.0.2.53\noptions rotate\n"),
    ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
                                         "options": [{"name": "ndots", "value": "2"}, {"name": "debug"}]}},
     ["10.96.0.10"], "search x\nnameserver 1.1.1.1\noptions ndots:2 debug\n")])
def test_resolver_of_a_pod(spec: dict[str, Any], servers: list[str], text: str) -> None:
    dns = DnsConfig(servers, node=lambda: NODE_RESOLVER)
    assert str(dns.resolver(make_pod(**spec))) == text
    assert str(parse(text)) == text


@pytest.mark.parametrize(("seconds", "text"), [(10, "10s"), (160, "2m40s"), (300, "5m0s"), (3661, "1h1m1s")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_restart_back_off() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)

    def ended(backoff: float, ran: float, of: str = "h") -> Attempt:
        box = Container("c", "", "", "", {}, "exited", created_at=begin, finished_at=begin + timedelta(seconds=ran))
        return Attempt(box, "app", 0, of, "", backoff)

    assert next_backoff(None, "h") == 0
    assert [next_backoff(ended(wait, 1), "h") for wait in (0, 10, 160, 300)] == [10, 20, 300, 300]
    assert next_backoff(ended(160, 601), "h") == 10
    assert restart_at(ended(160, 601), "h") is None
    assert restart_at(ended(160, 5, "other"), "h") is None
    assert restart_at(ended(0, 5), "h") is None
    assert restart_at(ended(20, 5), "h") == begin + timedelta(seconds=25)
