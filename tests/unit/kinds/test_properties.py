"""Properties that hold for whatever a user sends."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.apiserver.kinds import printers, strategies
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts, PoolError
from sampan.api.resources import BUILT_IN
from tests.support.kinds import context

Tree = dict[str, Any]

NAMES = st.sampled_from(["", "a", "web", "A b", "x" * 70])
PORT = st.fixed_dictionaries({}, optional={
    "name": NAMES, "port": st.integers(0, 70000), "containerPort": st.integers(-1, 70000),
    "nodePort": st.integers(0, 40000), "protocol": st.sampled_from(["TCP", "UDP", "x"]),
    "targetPort": st.one_of(st.integers(0, 9), NAMES)})
PROBE = st.fixed_dictionaries({}, optional={
    "httpGet": st.fixed_dictionaries({}, optional={"port": st.integers(0, 9), "path": NAMES}),
    "exec": st.fixed_dictionaries({}, optional={"command": st.lists(NAMES, max_size=1)}),
    "grpc": st.just({"port": 1}), "periodSeconds": st.integers(-1, 2)})
CONTAINER = st.fixed_dictionaries({}, optional={
    "name": NAMES, "image": st.sampled_from(["", "nginx", "nginx:1", " x"]), "ports": st.lists(PORT, max_size=2),
    "livenessProbe": PROBE, "readinessProbe": PROBE, "stdin": st.booleans(),
    "env": st.lists(st.fixed_dictionaries({}, optional={"name": NAMES, "value": NAMES, "valueFrom": st.just(
        {"fieldRef": {"fieldPath": "metadata.name"}})}), max_size=2),
    "resources": st.fixed_dictionaries({}, optional={
        key: st.dictionaries(st.sampled_from(["cpu", "memory", "example.com/x"]), st.sampled_from(["1", "500m", "0"]))
        for key in ("limits", "requests")}),
    "volumeMounts": st.lists(st.fixed_dictionaries({}, optional={"name": NAMES, "mountPath": NAMES}), max_size=2)})
VOLUME = st.fixed_dictionaries({"name": NAMES}, optional={
    "emptyDir": st.just({}), "secret": st.just({"secretName": "s"}), "hostPath": st.just({"path": "/x"}),
    "projected": st.just({"sources": [{"serviceAccountToken": {"path": "t"}}]})})
POD_SPEC = st.fixed_dictionaries({}, optional={
    "containers": st.lists(CONTAINER, max_size=3), "initContainers": st.lists(CONTAINER, max_size=2),
    "volumes": st.lists(VOLUME, max_size=2), "hostNetwork": st.booleans(), "nodeName": NAMES,
    "serviceAccount": NAMES, "tolerations": st.lists(st.fixed_dictionaries({}, optional={"key": NAMES}), max_size=2)})
SPEC = st.one_of(POD_SPEC, st.fixed_dictionaries({}, optional={
    "replicas": st.integers(-1, 3), "template": st.fixed_dictionaries({}, optional={
        "spec": POD_SPEC, "metadata": st.just({"labels": {"app": "web"}})}),
    "selector": st.sampled_from([{}, {"matchLabels": {"app": "web"}}]),
    "strategy": st.sampled_from([{}, {"type": "Recreate"}, {"rollingUpdate": {"maxSurge": 1}}]),
    "type": st.sampled_from(["ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "x"]),
    "ports": st.lists(PORT, max_size=3), "clusterIP": st.sampled_from(["", "None", "10.96.0.10", "x"]),
    "sessionAffinity": st.sampled_from(["", "ClientIP", "None"]), "externalIPs": st.lists(NAMES, max_size=1),
    "podCIDR": st.sampled_from(["", "10.0.0.0/24"]), "taints": st.lists(st.just({"key": "a"}), max_size=2),
    "finalizers": st.lists(NAMES, max_size=1), "request": st.sampled_from(["", "eA=="]), "usages": st.lists(NAMES)}))
OBJECT = st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"name": NAMES})}, optional={
    "spec": SPEC, "status": st.just({"phase": "Running"}), "data": st.dictionaries(NAMES, st.just("eA==")),
    "stringData": st.dictionaries(NAMES, NAMES), "type": NAMES,
    "subsets": st.lists(st.just({"ports": [{"port": 1}]}), max_size=1), "ports": st.lists(PORT, max_size=2)})


@pytest.mark.parametrize("key", [resource.key for resource in BUILT_IN])
@given(obj=OBJECT)
@settings(max_examples=60, deadline=None)
def test_defaults_are_stable_and_nothing_crashes(key: tuple[str, str], obj: Tree) -> None:
    rules = strategies(ClusterIPs(rng=Random(1)), NodePorts(rng=Random(1)))[key]
    rules.default(obj)
    once = deepcopy(obj)
    rules.default(obj)
    assert obj == once

    rules.prepare_create(obj, context())
    old = deepcopy(obj)
    rules.default(obj)
    assert obj == old  # what is stored is in its default form already
    rules.prepare_update(obj, old, context())
    assert obj == old  # an update that changes nothing changes nothing
    assert not rules.changes_generation(obj, old)
    assert list(rules.validate_update(obj, old, context())) == [] or list(rules.validate(obj, context()))
    rules.warnings(obj)
    assert all(isinstance(value, str) for value in rules.fields(obj).values())
    assert len(printers()[key].cells(obj)) == len(printers()[key].columns)


@given(st.lists(st.one_of(st.none(), st.integers(0, 15)), max_size=40), st.integers(0, 9))
def test_a_pool_gives_each_address_once(wishes: list[int | None], seed: int) -> None:
    pool = ClusterIPs("10.0.0.0/28", Random(seed))
    held: set[str] = set()
    for wish in wishes:
        try:
            address = pool.take("" if wish is None else f"10.0.0.{wish}")
        except PoolError:
            assert wish is not None or pool.free == 0
            continue
        assert address not in held
        held.add(address)
    assert pool.free == 13 - len(held)
    for address in held:
        pool.release(address)
    assert pool.free == 13
