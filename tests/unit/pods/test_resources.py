"""What a pod gets of the node, with containers that come one after the other and side by side."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods.resources import pod_limits, quota, shares
from tests.support.pods import make_pod


def container(name: str, milli_cpu: int, mebibytes: int, **more: Any) -> dict[str, Any]:
    amounts = {"cpu": f"{milli_cpu}m", "memory": f"{mebibytes}Mi"}
    return {"name": name, "image": "app:1", "resources": {"requests": amounts, "limits": amounts}, **more}


def sidecar(name: str, milli_cpu: int, mebibytes: int) -> dict[str, Any]:
    return container(name, milli_cpu, mebibytes, restartPolicy="Always")


APP = container("app", 200, 20)


@pytest.mark.parametrize(("init", "milli_cpu", "mebibytes"), [
    ([], 200, 20),
    ([container("one", 100, 10), container("two", 150, 15)], 200, 20),
    ([container("one", 900, 90)], 900, 90),
    ([sidecar("side", 100, 10)], 300, 30),
    ([sidecar("side", 100, 10), container("one", 150, 15)], 300, 30),
    ([sidecar("side", 100, 10), container("one", 250, 25)], 350, 35),
    ([container("one", 250, 25), sidecar("side", 100, 10)], 300, 30),
    ([sidecar("side", 100, 10), sidecar("more", 200, 20)], 500, 50),
])
def test_init_containers_come_in_turn_and_sidecars_stay(init: list[dict[str, Any]], milli_cpu: int,
                                                        mebibytes: int) -> None:
    """KEP-753: the most of what runs at any one time."""
    found = pod_limits(make_pod(initContainers=init, containers=[APP]))
    assert found.cpu_shares == shares(milli_cpu)
    assert found.cpu_quota == quota(milli_cpu)
    assert found.memory == mebibytes << 20
