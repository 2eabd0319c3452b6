"""Ending things: delete, its grace and cascades; and waiting for what comes or goes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.kubectl import Kubectl, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"
APP = Path(__file__).parent / "app.yaml"
"""A Deployment without replicas, and a ConfigMap."""


def test_delete(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    for name in ("one", "two", "three"):
        kubectl("create", "configmap", name)
    kubectl("label", "configmap", "one", "two", "batch=yes")
    assert kubectl("delete", "-f", str(APP)) == 'deployment.apps "app" deleted\nconfigmap "app" deleted\n'
    assert kubectl("delete", "configmap", "-l", "batch=yes") == 'configmap "one" deleted\nconfigmap "two" deleted\n'
    assert kubectl("delete", "configmap/three", "-o", "name") == "configmap/three\n"
    result = kubectl.run("delete", "configmap", "three")
    assert (result.code, result.err) == (1, 'Error from server (NotFound): configmaps "three" not found\n')
    assert kubectl("delete", "configmap", "three", "--ignore-not-found") == ""
    assert kubectl("delete", "configmap", "--all") == 'configmap "kube-root-ca.crt" deleted\n'
    kubectl("wait", "configmap/kube-root-ca.crt", "--for=jsonpath={.metadata.name}=kube-root-ca.crt")  # made anew


@one_version
def test_grace(kubectl: Kubectl) -> None:
    stubborn = ("--image", IMAGE, "--", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    for name in ("now", "short", "forced"):
        kubectl("run", name, *stubborn)
    kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=120s")
    assert kubectl("delete", "pod", "short", "--grace-period=2", "--wait=false") == 'pod "short" deleted\n'
    meta = kubectl.json("get", "pod", "short")["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 2
    assert re.search(r"^short +1/1 +Terminating ", kubectl("get", "pods"), re.MULTILINE)
    forced = kubectl.run("delete", "pod", "forced", "--grace-period=0", "--force")
    assert forced.out == 'pod "forced" force deleted\n'
    assert "Warning: Immediate deletion does not wait for confirmation" in forced.err
    assert kubectl("delete", "pod", "now", "--now") == 'pod "now" deleted\n'
    kubectl("wait", "pod/short", "--for=delete", "--timeout=120s")
    assert kubectl("get", "pods", "-o", "name") == ""


@one_version
def test_cascades(kubectl: Kubectl) -> None:
    def children(kind: str) -> list[str]:
        return kubectl("get", kind, "-o", "name").split()

    kubectl("create", "deployment", "app", f"--image={IMAGE}", "--", "sleep", "1000")
    kubectl("wait", "deployment/app", "--for=condition=Available", "--timeout=120s")
    assert kubectl("delete", "deployment", "app", "--cascade=orphan") == 'deployment.apps "app" deleted\n'
    assert len(children("replicasets")) == 1
    assert "ownerReferences" not in kubectl.json("get", children("replicasets")[0])["metadata"]
    pod = kubectl.json("get", children("pods")[0])
    assert kubectl("delete", "replicaset", "--all", "--cascade=orphan").endswith("deleted\n")
    after = kubectl.json("get", "pod", pod["metadata"]["name"])
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert "ownerReferences" not in after["metadata"]
    kubectl("delete", "pod", "--all", "--now")

    obedient = "trap 'exit 0' TERM; sleep 1000 & wait"
    kubectl("create", "deployment", "app", f"--image={IMAGE}", "--", "sh", "-c", obedient)
    kubectl("wait", "deployment/app", "--for=condition=Available", "--timeout=120s")
    assert kubectl("delete", "deployment", "app", "--cascade=foreground") == 'deployment.apps "app" deleted\n'
    assert children("deployments,replicasets,pods") == []


def test_wait(kubectl: Kubectl) -> None:
    result = kubectl.run("wait", "configmap/late", "--for=delete", "--timeout=5s")
    assert result.code == 0
    kubectl("create", "configmap", "late")
    result = kubectl.run("wait", "configmap/late", "--for=delete", "--timeout=1s")
    assert result.code == 1
    assert result.err.endswith("error: timed out waiting for the condition on configmaps/late\n")
    waiting = kubectl.popen("wait", "configmap/late", "--for=jsonpath={.data.a}=1", "--timeout=120s")
    gone = kubectl.popen("wait", "configmap/late", "--for=delete", "--timeout=120s", "-v=6")
    kubectl("patch", "configmap", "late", "-p", '{"data":{"a":"1"}}')
    assert waiting.communicate(timeout=130) == ("configmap/late condition met\n", "")
    assert gone.stderr is not None
    assert any("watch=true" in line for line in gone.stderr)  # it has seen the object, and says nothing of others
    kubectl("delete", "configmap", "late")
    assert gone.communicate(timeout=130)[0] == "configmap/late condition met\n"


@pytest.mark.parametrize("version", ["1.32", "1.33"], indirect=True)
def test_wait_for_creation(kubectl: Kubectl) -> None:
    waiting = kubectl.popen("wait", "configmap/soon", "--for=create", "--timeout=120s")
    kubectl("create", "configmap", "soon")
    assert waiting.communicate(timeout=130) == ("configmap/soon condition met\n", "")
