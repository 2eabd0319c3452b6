"""ReplicationControllers with kubectl and real pods, from their creation to both ways of deleting them."""

from __future__ import annotations

import json

import pytest

from tests.support.space import SLEEP, Space, box, is_ready
from tests.support.watch import Json

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]


def controller(name: str, replicas: int) -> Json:
    template = {"metadata": {"labels": {"app": name}},
                "spec": {"terminationGracePeriodSeconds": 1, "containers": [box("app", SLEEP)]}}
    return {"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": name},
            "spec": {"replicas": replicas, "template": template}}


def counted(space: Space, count: int) -> dict[str, Json]:
    """Wait until so many pods are there and ready."""
    return space.pods.until(f"{count} ready pods", lambda pods: len(pods) == count and all(
        map(is_ready, pods.values())))


def test_a_life(space: Space) -> None:
    space.create(controller("web", 2))
    counted(space, 2)
    space("wait", "rc/web", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=60s")
    [line] = space("get", "rc", "-o", "wide", "--no-headers").splitlines()
    assert line.split()[:4] == ["web", "2", "2", "2"]
    assert line.split()[-1] == "app=web"
    space("scale", "rc/web", "--replicas=3")
    assert json.loads(space("get", "--raw", f"/api/v1/namespaces/{space.name}/replicationcontrollers/web/scale"))[
        "status"]["selector"] == "app=web"
    pods = counted(space, 3)
    space("label", "pod", min(pods), "app=other", "--overwrite")
    pods = counted(space, 4)
    assert sum("ownerReferences" not in pod["metadata"] for pod in pods.values()) == 1
    described = space("describe", "rc/web")
    assert "3 current / 3 desired" in described
    assert "replication-controller  Created pod: web-" in described
    space("delete", "rc/web")  # kubectl asks for its pods to go, too
    counted(space, 1)


def test_its_pods_stay_by_default(space: Space) -> None:
    """As it always was: what deletes without saying what becomes of dependents leaves them."""
    space.create(controller("web", 1))
    counted(space, 1)
    space("delete", "--raw", f"/api/v1/namespaces/{space.name}/replicationcontrollers/web")
    space("wait", "rc/web", "--for=delete", "--timeout=60s")
    space.pods.until("the pod has no owner", lambda pods: all(
        "ownerReferences" not in pod["metadata"] and is_ready(pod) for pod in pods.values()))
    assert len(space.pods.objects) == 1
