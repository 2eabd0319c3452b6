"""A host on which SELinux decides, with Debian's own policy: units, volumes and Services as elsewhere; nothing denied.

Docker does not confine containers by it here, as it does not by default (`selinux-enabled`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.space import Space, box, patience
from tests.support.vm_cluster import VmCluster, one_node

pytestmark = [pytest.mark.vm, pytest.mark.kubectl, pytest.mark.timeout(600)]

SECONDS = 150.0
VOLUMES = [
    {"name": "disk", "emptyDir": {}},
    {"name": "memory", "emptyDir": {"medium": "Memory"}},
    {"name": "config", "configMap": {"name": "config"}},
    {"name": "secret", "secret": {"secretName": "secret"}},
    {"name": "told", "downwardAPI": {"items": [{"path": "key", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    {"name": "several", "projected": {"sources": [{"secret": {"name": "secret"}},
                                                  {"serviceAccountToken": {"path": "token"}}]}},
    {"name": "host", "hostPath": {"path": "/etc"}},
]
MOUNTS = [{"name": str(volume["name"]), "mountPath": f"/v/{volume['name']}"} for volume in VOLUMES]
READ = "for at in config secret told several disk memory; do echo $(cat /v/$at/key); done; cat /one"


@pytest.fixture(scope="module")
def host(installed: tuple[Path, Path]) -> Iterator[tuple[VmCluster, Space]]:
    with one_node(*installed, enforcing=True) as made:
        yield made


def denied(cluster: VmCluster, domain: str) -> str:
    """What the kernel has refused to processes of a domain since the machine started."""
    return cluster.vm.run(f"journalctl -b -o cat _TRANSPORT=audit | grep 'avc: *denied' | grep 'scontext={domain}'",
                          check=False).out


def domain_of(cluster: VmCluster, unit: str) -> str:
    """The SELinux label of a unit's main process."""
    read = f"cat /proc/$(systemctl show -P MainPID {unit})/attr/current"
    return cluster.vm.run(read).out.strip("\0\n")


def test_the_kernel_enforces_and_its_refusals_are_seen(host: tuple[VmCluster, Space]) -> None:
    cluster, _ = host
    assert cluster.vm.run("getenforce").out == "Enforcing\n"
    confined = "system_u:system_r:getty_t:s0"
    assert cluster.vm.run(f"runcon {confined} cat /etc/shadow", check=False).code != 0
    patience("the refusal is seen", lambda: "runcon" in denied(cluster, confined))


def test_the_units_run_as_services_do(host: tuple[VmCluster, Space]) -> None:
    """Not in systemd's own domain, in which a unit that may gain no privileges would be left without a transition."""
    cluster, _ = host
    assert cluster.vm.run("systemctl is-active sampan-master sampan-agent").out == "active\nactive\n"
    for unit in ("sampan-master", "sampan-agent"):
        assert domain_of(cluster, unit) == domain_of(cluster, "docker") == "system_u:system_r:initrc_t:s0"


def test_pods_use_their_volumes_and_services(host: tuple[VmCluster, Space]) -> None:
    cluster, space = host
    space.create(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"key": "config\n"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": {"key": "secret\n"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
         "spec": {"selector": {"app": "user"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    write = "echo disk > /v/disk/key; echo memory > /v/memory/key"
    space.pod("user", ["httpd", "-f", "-p", "8080", "-h", "/v/disk"], labels={"app": "user"}, volumes=VOLUMES,
              initContainers=[box("init", ["sh", "-c", write], volumeMounts=MOUNTS[:2])],
              app={"volumeMounts": [*MOUNTS, {"name": "config", "mountPath": "/one", "subPath": "key"}],
                   "readinessProbe": {"httpGet": {"path": "/key", "port": 8080}, "timeoutSeconds": 10},
                   "livenessProbe": {"exec": {"command": ["cat", "/v/secret/key"]}, "timeoutSeconds": 30}})
    space.ready("user", seconds=SECONDS)
    assert space.run("user", "sh", "-c", READ).splitlines() == [
        "config", "secret", "user", "secret", "disk", "memory", "config"]
    assert space.run("user", "cat", "/v/several/token").count(".") == 2
    assert space.run("user", "cat", "/v/host/hostname") == "vm-1\n"
    space.run("user", "sh", "-c", "echo said > /dev/termination-log && echo more >> /v/disk/key")
    assert space.run("user", "wget", "-qO-", "http://web.story/key") == "disk\nmore\n"

    cluster.vm.run("systemctl restart sampan-agent sampan-master", timeout=200)
    expected = ["config", "secret", "user", "secret", "disk more", "memory", "config"]
    patience("the pod is there as before",
             lambda: space.run("user", "sh", "-c", READ, check=False).splitlines() == expected, SECONDS)
    assert denied(cluster, domain_of(cluster, "sampan-agent")) == ""


def test_down_leaves_nothing(host: tuple[VmCluster, Space]) -> None:
    cluster, space = host
    space.pods.close()
    domain = domain_of(cluster, "sampan-agent")
    cluster.vm.run("sampan down --purge", timeout=200)
    assert cluster.docker("ps", "-aq") == ""
    left = "ls -d /etc/sampan /var/lib/sampan /run/sampan 2>/dev/null; mount | grep sampan; ip -o link | grep sampan"
    assert cluster.vm.run(left, check=False).out == ""
    assert denied(cluster, domain) == ""
