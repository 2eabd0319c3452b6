"""What a pod's spec asks for, seen from inside its containers and on the node."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import NODE, NODE_IP, ClusterHandle
from tests.support.space import SLEEP, Json, Space, box, is_ready, patience, state, terminated, waiting

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]


def mounts(*names: str, **paths: str) -> list[Json]:
    """volumeMounts, each at /<name> or where `paths` says."""
    return [{"name": name, "mountPath": f"/{name}"} for name in names] + [
        {"name": name, "mountPath": path} for name, path in paths.items()]


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


def test_environment(space: Space) -> None:
    space.create(config_map("settings", COLOUR="blue", SHAPE="round"), secret("keys", PASSWORD="open sesame"))
    field = lambda path: {"valueFrom": {"fieldRef": {"fieldPath": path}}}  # noqa: E731 - a table's shorthand
    amount = lambda name: {"valueFrom": {"resourceFieldRef": {"resource": name}}}  # noqa: E731 - as above
    space.pod("one", ["sh", "-c", "env | sort; echo that is all; exec sleep 1000"], labels={"tier": "web"}, app={
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"prefix": "K_", "secretRef": {"name": "keys"}},
                    {"configMapRef": {"name": "nothing", "optional": True}}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "32Mi", "cpu": "500m"}},
        "env": [{"name": "PLAIN", "value": "a"}, {"name": "BUILT", "value": "$(PLAIN)-$(SHAPE)-$(MISSING)-$$(PLAIN)"},
                {"name": "ONE_KEY", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "COLOUR"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "PASSWORD"}}},
                {"name": "COLOUR", "value": "red"},
                {"name": "POD", **field("metadata.name")}, {"name": "SPACE", **field("metadata.namespace")},
                {"name": "UID_", **field("metadata.uid")}, {"name": "TIER", **field("metadata.labels['tier']")},
                {"name": "NODE", **field("spec.nodeName")}, {"name": "IP", **field("status.podIP")},
                {"name": "HOST", **field("status.hostIP")}, {"name": "CPU", **amount("limits.cpu")},
                {"name": "MEMORY", **amount("limits.memory")}, {"name": "DISK", **amount("limits.ephemeral-storage")}]})
    pod = space.ready("one")[0]
    patience("all is printed", lambda: "that is all\n" in space("logs", "one"))
    output = space("logs", "one")
    seen = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    wanted = {"COLOUR": "red", "SHAPE": "round", "K_PASSWORD": "open sesame", "PLAIN": "a",
              "BUILT": "a-round-$(MISSING)-$(PLAIN)", "ONE_KEY": "blue", "SECRET": "open sesame", "POD": "one",
              "SPACE": space.name, "UID_": pod["metadata"]["uid"], "TIER": "web", "NODE": NODE,
              "IP": pod["status"]["podIP"], "HOST": NODE_IP, "CPU": "1", "MEMORY": str(32 << 20), "HOSTNAME": "one",
              "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert {key: seen.get(key) for key in wanted} == wanted
    assert int(seen["DISK"]) > 1 << 20, "a limit that is not set is what the node has"


@pytest.mark.parametrize(("fields", "text"), [
    ({"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "later", "key": "a"}}}]},
     'configmap "later" not found'),
    ({"envFrom": [{"secretRef": {"name": "later"}}]}, 'secret "later" not found')])
def test_what_is_not_there_yet(space: Space, fields: Json, text: str) -> None:
    """The container waits, says for what, and starts when it comes."""
    space.pod("one", app=fields)
    seen = space.until("one", "waits", lambda pod: waiting(pod) == "CreateContainerConfigError")
    assert text in state(seen)["state"]["waiting"]["message"]
    space.told("Failed", "one", f"Error: {text}")
    space.create(config_map("later", a="1"), secret("later", a="1"))
    space.ready("one")


def test_volumes(space: Space, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host\n")
    space.create(config_map("settings", **{"a.conf": "one", "b.conf": "two"}), secret("keys", key="shh"))
    space.pod("one", containers=[
        box("app", volumeMounts=[*mounts("disk", "memory", "settings", "keys", "host", "made", "bare"),
                                 {"name": "settings", "mountPath": "/etc/b.conf", "subPath": "b.conf"},
                                 {"name": "disk", "mountPath": "/part", "subPathExpr": "$(NAME)"}],
            env=[{"name": "NAME", "value": "sub"}]),
        box("other", volumeMounts=[*mounts("disk"), {"name": "host", "mountPath": "/host", "readOnly": True}])],
        volumes=[{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory",
                                                                                    "sizeLimit": "8Mi"}},
                 {"name": "settings", "configMap": {"name": "settings", "defaultMode": 0o440}},
                 {"name": "keys", "secret": {"secretName": "keys", "items": [{"key": "key", "path": "deep/key"}]}},
                 {"name": "host", "hostPath": {"path": str(tmp_path), "type": "Directory"}},
                 {"name": "made", "hostPath": {"path": f"{tmp_path}/made", "type": "DirectoryOrCreate"}},
                 {"name": "bare", "hostPath": {"path": f"{tmp_path}/bare/deep"}}])
    uid = space.ready("one")[0]["metadata"]["uid"]
    space.run("one", "sh", "-c", "echo shared > /disk/file; echo x > /part/y; echo made > /made/file")
    assert space.run("one", "cat", "/disk/file", "/disk/sub/y", container="other") == "shared\nx\n"
    assert space.run("one", "cat", "/settings/a.conf", "/etc/b.conf", "/keys/deep/key", "/host/file") == (
        "onetwoshhfrom the host\n")
    assert (tmp_path / "made/file").read_text() == "made\n"
    assert (tmp_path / "bare/deep").is_dir()
    assert space.run("one", "stat", "-L", "-c", "%a", "/settings/a.conf") == "440\n"
    assert "tmpfs" in space.run("one", "grep", " /memory ", "/proc/mounts")
    assert "8192k" in space.run("one", "grep", " /memory ", "/proc/mounts")
    assert "tmpfs" in space.run("one", "grep", " /keys ", "/proc/mounts")
    assert "Read-only" in space.run("one", "touch", "/host/new", container="other", check=False)
    assert "Read-only" in space.run("one", "touch", "/keys/new", check=False)
    mode = space.run("one", "stat", "-c", "%a", "/disk")
    assert mode == "777\n"
    folder = space.cluster.directory / "data/agent/pods" / uid
    space("delete", "pod", "one")
    assert not folder.exists()
    assert (tmp_path / "file").exists(), "a host's folder is not the pod's to remove"


def test_live_update(space: Space) -> None:
    """Files of configMaps and secrets follow; a subPath and the environment stay as they were."""
    space.create(config_map("settings", a="before"), secret("keys", k="before"))
    space.pod("one", app={"volumeMounts": [*mounts("settings", "keys"),
                                           {"name": "settings", "mountPath": "/fixed", "subPath": "a"}]},
              volumes=[{"name": "settings", "configMap": {"name": "settings"}},
                       {"name": "keys", "secret": {"secretName": "keys"}}])
    space.ready("one")
    space("patch", "configmap", "settings", "-p", json.dumps({"data": {"a": "after", "b": "new"}}))
    space("patch", "secret", "keys", "-p", json.dumps({"stringData": {"k": "after"}}))
    patience("the files follow",
             lambda: space.run("one", "cat", "/settings/a", "/settings/b", "/keys/k", check=False) == "afternewafter")
    assert space.run("one", "cat", "/fixed") == "before"


def test_a_volume_that_waits(space: Space) -> None:
    space.pod("one", app={"volumeMounts": mounts("settings")},
              volumes=[{"name": "settings", "configMap": {"name": "later"}}])
    space.told("FailedMount", "one", 'configmap "later" not found')
    space.create(config_map("later", a="1"))
    space.ready("one")


def test_host_namespaces(space: Space) -> None:
    space.pod("one", hostNetwork=True, hostPID=True)
    seen = space.ready("one")[0]
    assert seen["status"]["podIP"] == NODE_IP
    assert "sampan0" in space.run("one", "ip", "link")
    agent = space.cluster.process("agent")
    assert "sampan-agent" in space.run("one", "cat", f"/proc/{agent}/cmdline")


def test_shared_processes(space: Space) -> None:
    space.pod("one", containers=[box("app"), box("side", ["sh", "-c", "exec sleep 98765"])],
              shareProcessNamespace=True)
    space.pod("two", containers=[box("app"), box("side", ["sh", "-c", "exec sleep 98765"])])
    space.ready("one", "two")
    assert "98765" in space.run("one", "ps")
    assert "98765" not in space.run("two", "ps")
    assert space.run("one", "cat", "/proc/1/comm") == "infra\n"


def test_one_network_and_ipc_for_all_containers(space: Space) -> None:
    serve = "while :; do echo hello | nc -l -p 7000; done & trap 'exit 0' TERM; wait"
    space.pod("one", containers=[box("app"), box("side", ["sh", "-c", serve])])
    space.ready("one")
    patience("the neighbour answers",
             lambda: "hello" in space.run("one", "sh", "-c", "nc -w 1 127.0.0.1 7000 < /dev/null", check=False))
    same = {space.run("one", "stat", "-L", "-c", "%i", "/proc/self/ns/net", "/proc/self/ns/ipc", container=name)
            for name in ("app", "side")}
    assert len(same) == 1


def test_host_ports(space: Space) -> None:
    serve = "while :; do echo hello | nc -l -p 8080; done & trap 'exit 0' TERM; wait"
    space.pod("one", ["sh", "-c", serve], app={"ports": [{"containerPort": 8080, "hostPort": 18070}]})
    space.pod("two")
    space.ready("one", "two")
    for address in (NODE_IP, "127.0.0.1"):
        patience(f"{address} answers", lambda address=address: "hello" in space.cluster.run(  # type: ignore[misc]
            "sh", "-c", f"busybox nc -w 2 {address} 18070 < /dev/null", check=False).stdout)
    patience("a pod is answered", lambda: "hello" in space.run(
        "two", "sh", "-c", f"nc -w 2 {NODE_IP} 18070 < /dev/null", check=False))
    space.pod("three", app={"ports": [{"containerPort": 80, "hostPort": 18070}]})
    space.told("FailedScheduling", "three", "didn't have free ports for the requested pod ports")


@pytest.mark.parametrize(("pod_wide", "fields", "command", "output"), [
    ({"runAsUser": 1000, "runAsGroup": 1000}, {}, "id -u; id -g", "1000\n1000\n"),
    ({"runAsGroup": 1000}, {}, "id -u; id -g", "0\n1000\n"),
    ({"runAsUser": 1000}, {"runAsUser": 65534}, "id -u", "65534\n"),
    ({"supplementalGroups": [4242], "fsGroup": 777}, {}, "id -G | tr ' ' '\\n' | grep -c -e 4242 -e 777", "2\n"),
    ({}, {"readOnlyRootFilesystem": True}, "touch /x 2>&1 | grep -o Read-only", "Read-only\n"),
    ({}, {"capabilities": {"drop": ["ALL"]}}, "grep CapEff /proc/self/status | tr -d '\\t'",
     "CapEff:0000000000000000\n"),
    ({}, {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
     "grep CapEff /proc/self/status | tr -d '\\t'", "CapEff:0000000000000400\n"),
    ({}, {"allowPrivilegeEscalation": False, "runAsUser": 1000}, "grep NoNewPrivs /proc/self/status | tr -d '\\t'",
     "NoNewPrivs:1\n"),
    ({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "80"}]}, {},
     "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "80\n"),
    ({"seccompProfile": {"type": "Unconfined"}}, {}, "grep Seccomp: /proc/self/status | tr -d '\\t'", "Seccomp:0\n"),
    ({"seccompProfile": {"type": "RuntimeDefault"}}, {}, "grep Seccomp: /proc/self/status | tr -d '\\t'",
     "Seccomp:2\n")])
def test_security_context(space: Space, pod_wide: Json, fields: Json, command: str, output: str) -> None:
    space.pod("one", ["sh", "-c", command], restartPolicy="Never", securityContext=pod_wide,
              app={"securityContext": fields})
    space.until("one", "has ended", terminated)
    assert space("logs", "one") == output


def test_not_as_root(space: Space) -> None:
    space.pod("one", securityContext={"runAsNonRoot": True})
    seen = space.until("one", "is refused", lambda pod: waiting(pod) == "CreateContainerConfigError")
    assert "container has runAsNonRoot and image will run as root" in state(seen)["state"]["waiting"]["message"]


@pytest.mark.parametrize(("fields", "parts"), [
    ({"hostname": "other"}, {"/etc/hosts": "\tother\n", "/etc/hostname": "other"}),
    ({"hostAliases": [{"ip": "192.0.2.9", "hostnames": ["far", "away"]}]}, {"/etc/hosts": "192.0.2.9\tfar\taway"}),
    ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["a.test"],
                                         "options": [{"name": "ndots", "value": "2"}]}},
     {"/etc/resolv.conf": "search a.test\nnameserver 192.0.2.53\noptions ndots:2\n"}),
    ({}, {"/etc/hosts": "# Kubernetes-managed hosts file."})])
def test_names(space: Space, fields: dict[str, Any], parts: dict[str, str]) -> None:
    space.pod("one", **fields)
    space.ready("one")
    for file, text in parts.items():
        assert text in space.run("one", "cat", file)


def cgroup(cluster: ClusterHandle, controller: str, pod: Json, container: str = "") -> Path:
    """A pod's or container's cgroup of version 1."""
    qos = {"Guaranteed": "", "Burstable": "burstable", "BestEffort": "besteffort"}[pod["status"]["qosClass"]]
    root = Path(f"/sys/fs/cgroup/{controller}{cluster.engine.cgroup_parent}-pods/kubepods")
    return root / qos / f"pod{pod['metadata']['uid']}" / container


@pytest.mark.parametrize(("resources", "qos", "wanted"), [
    ({"requests": {"cpu": "250m", "memory": "16Mi"}, "limits": {"cpu": "500m", "memory": "32Mi"}}, "Burstable",
     {"cpu.shares": 256, "cpu.cfs_quota_us": 50000, "memory.limit_in_bytes": 32 << 20}),
    ({"limits": {"cpu": "1", "memory": "32Mi"}}, "Guaranteed",
     {"cpu.shares": 1024, "cpu.cfs_quota_us": 100000, "memory.limit_in_bytes": 32 << 20}),
    ({"requests": {"cpu": "100m"}}, "Burstable", {"cpu.shares": 102, "cpu.cfs_quota_us": -1}),
    ({}, "BestEffort", {"cpu.shares": 2, "cpu.cfs_quota_us": -1})])
def test_limits_are_cgroups(space: Space, resources: Json, qos: str, wanted: dict[str, int]) -> None:
    """The pod's cgroup has the sum, the container's its own."""
    space.pod("one", app={"resources": resources})
    seen = space.ready("one")[0]
    assert seen["status"]["qosClass"] == qos
    for name, value in wanted.items():
        for folder in (cgroup(space.cluster, name.split(".")[0], seen),
                       cgroup(space.cluster, name.split(".")[0], seen, space.box("one")["Id"])):
            assert int((folder / name).read_text()) == value, f"{folder.name}: {name}"


def test_logs_are_bounded(space: Space) -> None:
    """Whatever daemon.json says, a container's log is json-file and turned over."""
    write = "yes 'a line of forty letters, more or less, so' | head -c 35000000; echo the end; exec sleep 1000"
    space.pod("one", ["sh", "-c", write])
    space.ready("one")
    config = space.box("one")["HostConfig"]["LogConfig"]
    assert config["Type"] == "json-file"
    assert {"max-size", "max-file"} <= set(config["Config"])
    patience("all is written", lambda: "the end" in space("logs", "one", "--tail=1"))
    folder = Path(space.box("one")["LogPath"]).parent
    sizes = [path.stat().st_size for path in folder.glob("*-json.log*")]
    assert len(sizes) > 1
    assert max(sizes) < 12_000_000


def test_an_update_of_the_metadata_touches_no_container(space: Space) -> None:
    space.pod("one", SLEEP)
    before = state(space.ready("one")[0])
    space("label", "pod", "one", "colour=blue")
    space("annotate", "pod", "one", "note=x")
    space.pod("two")
    space.ready("two")
    seen = space.until("one", "is labelled", lambda pod: pod["metadata"]["annotations"]["note"] and is_ready(pod))
    assert state(seen) == before
