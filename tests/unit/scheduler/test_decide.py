from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.scheduler.cluster import Cluster
from master.scheduler.decide import decide
from master.scheduler.requests import host_ports, pod_requests
from sampan.api.types import core_v1, meta_v1

RNG = random.Random(1)


def node(name: str, *, cpu: str = "4", memory: str = "8Gi", pods: str = "110", labels: Mapping[str, str] | None = None,
         taints: list[core_v1.Taint] | None = None, unschedulable: bool = False, **extra: str) -> core_v1.Node:
    allocatable = {"cpu": cpu, "memory": memory, "pods": pods, **{key.replace("_", "/"): v for key, v in extra.items()}}
    return core_v1.Node(
        metadata=meta_v1.ObjectMeta(name=name, labels={"kubernetes.io/hostname": name, **(labels or {})}),
        spec=core_v1.NodeSpec(taints=taints or [], unschedulable=unschedulable or None),
        status=core_v1.NodeStatus(allocatable=allocatable))


def pod(name: str = "p", *, requests: Mapping[str, str] | None = None, owner: str = "", host_port: int = 0,
        host_ip: str | None = None, init: Mapping[str, str] | None = None, **spec: object) -> core_v1.Pod:
    ports = [core_v1.ContainerPort(container_port=80, host_port=host_port, host_ip=host_ip)] if host_port else []
    container = core_v1.Container(name="c", image="i", ports=ports,
                                  resources=core_v1.ResourceRequirements(requests=dict(requests or {})))
    inits = [core_v1.Container(name="i", image="i", resources=core_v1.ResourceRequirements(requests=dict(init)))] \
        if init else []
    references = [meta_v1.OwnerReference(api_version="apps/v1", kind="ReplicaSet", name=owner, uid=owner,
                                         controller=True)] if owner else []
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, uid=f"uid-{name}", owner_references=references),
                       spec=core_v1.PodSpec(containers=[container], init_containers=inits, **spec))  # type: ignore[arg-type]


def cluster(*nodes: core_v1.Node) -> Cluster:
    result = Cluster()
    for item in nodes:
        result.set_node(item)
    return result


TAINT = core_v1.Taint(key="dedicated", value="db", effect="NoSchedule")
NOT_HELPFUL = "preemption: 0/{n} nodes are available: {n} Preemption is not helpful for scheduling."
NO_VICTIMS = "preemption: 0/{n} nodes are available: {n} No preemption victims found for incoming pod."


@pytest.mark.parametrize(("nodes", "wanted", "refusal"), [
    ([], pod(), "no nodes available to schedule pods"),
    ([node("a", unschedulable=True)], pod(),
     "0/1 nodes are available: 1 node(s) were unschedulable. " + NOT_HELPFUL.format(n=1)),
    ([node("a", taints=[TAINT]), node("b", taints=[TAINT])], pod(),
     "0/2 nodes are available: 2 node(s) had untolerated taint {dedicated: db}. " + NOT_HELPFUL.format(n=2)),
    ([node("a")], pod(node_selector={"disk": "ssd"}),
     "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. " + NOT_HELPFUL.format(n=1)),
    ([node("a", cpu="1")], pod(requests={"cpu": "2"}),
     "0/1 nodes are available: 1 Insufficient cpu. " + NOT_HELPFUL.format(n=1)),
    ([node("a", cpu="1", memory="1Gi")], pod(requests={"cpu": "2", "memory": "2Gi"}),
     "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. " + NOT_HELPFUL.format(n=1)),
    ([node("a")], pod(requests={"example.com/gpu": "1"}),
     "0/1 nodes are available: 1 Insufficient example.com/gpu. " + NOT_HELPFUL.format(n=1)),
    ([node("a", pods="0")], pod(), "0/1 nodes are available: 1 Too many pods. " + NOT_HELPFUL.format(n=1)),
    ([node("a", unschedulable=True), node("b", cpu="1")], pod(requests={"cpu": "2"}),
     "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) were unschedulable. " + NOT_HELPFUL.format(n=2)),
])
def test_a_refusal_counts_the_reasons_as_upstream_words_them(
        nodes: list[core_v1.Node], wanted: core_v1.Pod, refusal: str) -> None:
    assert decide(wanted, cluster(*nodes), RNG).refusal == refusal


def test_what_other_pods_hold_is_not_free() -> None:
    state = cluster(node("a", cpu="2"))
    state.place(pod("one", requests={"cpu": "1500m"}), "a")
    assert decide(pod(requests={"cpu": "1"}), state, RNG).refusal == (
        "0/1 nodes are available: 1 Insufficient cpu. " + NO_VICTIMS.format(n=1))
    state.forget("uid-one")
    assert decide(pod(requests={"cpu": "1"}), state, RNG).node == "a"


def test_host_ports_conflict_by_protocol_port_and_address() -> None:
    state = cluster(node("a"))
    state.place(pod("one", host_port=80, host_ip="127.0.0.1"), "a")
    assert decide(pod(host_port=80, host_ip="127.0.0.2"), state, RNG).node == "a"
    assert decide(pod(host_port=81), state, RNG).node == "a"
    assert decide(pod(host_port=80), state, RNG).refusal == (
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. "
        + NO_VICTIMS.format(n=1))


@pytest.mark.parametrize(("restart_policy", "claimed"), [(None, False), ("Always", True)])
def test_of_init_containers_only_sidecars_claim_host_ports(restart_policy: str | None, *, claimed: bool) -> None:
    early = core_v1.Container(name="init", restart_policy=restart_policy,
                              ports=[core_v1.ContainerPort(container_port=80, host_port=80)])
    made = core_v1.Pod(spec=core_v1.PodSpec(containers=[core_v1.Container(name="c")], init_containers=[early]))
    assert bool(host_ports(made)) is claimed


@pytest.mark.parametrize(("toleration", "fits"), [
    (core_v1.Toleration(key="dedicated", operator="Equal", value="db", effect="NoSchedule"), True),
    (core_v1.Toleration(key="dedicated", value="db"), True),
    (core_v1.Toleration(key="dedicated", operator="Exists"), True),
    (core_v1.Toleration(operator="Exists"), True),
    (core_v1.Toleration(key="dedicated", value="web"), False),
    (core_v1.Toleration(key="dedicated", operator="Exists", effect="NoExecute"), False),
    (core_v1.Toleration(key="other", operator="Exists"), False),
    (core_v1.Toleration(key="dedicated"), False),
    (core_v1.Toleration(value="db"), False),
])
def test_tolerations(toleration: core_v1.Toleration, fits: bool) -> None:
    assert bool(decide(pod(tolerations=[toleration]), cluster(node("a", taints=[TAINT])), RNG).node) is fits


def test_a_taint_without_a_value_is_tolerated_without_one() -> None:
    state = cluster(node("a", taints=[core_v1.Taint(key="dedicated", effect="NoSchedule")]))
    for value in (None, ""):
        assert decide(pod(tolerations=[core_v1.Toleration(key="dedicated", value=value)]), state, RNG).node == "a"
    assert not decide(pod(tolerations=[core_v1.Toleration(key="dedicated", value="x")]), state, RNG).node


@pytest.mark.parametrize(("operator", "values", "fits"), [
    ("In", ["1", "5"], True), ("In", ["1"], False), ("NotIn", ["1"], True), ("Exists", [], True),
    ("DoesNotExist", [], False), ("Gt", ["4"], True), ("Lt", ["5"], False), ("Gt", ["x"], False),
])
def test_required_node_affinity(operator: str, values: list[str], fits: bool) -> None:
    term = core_v1.NodeSelectorTerm(match_expressions=[
        core_v1.NodeSelectorRequirement(key="gen", operator=operator, values=values)])
    affinity = core_v1.Affinity(node_affinity=core_v1.NodeAffinity(
        required_during_scheduling_ignored_during_execution=core_v1.NodeSelector(node_selector_terms=[term])))
    assert bool(decide(pod(affinity=affinity), cluster(node("a", labels={"gen": "5"})), RNG).node) is fits


@pytest.mark.parametrize(("fields", "expressions", "fits"), [
    (["a"], [], "a"), (["b"], [], "b"), (["c"], [], ""), (["a"], ["b"], ""), (["b"], ["b"], "b"), ([], [], "")])
def test_a_node_may_be_named_by_its_field(fields: list[str], expressions: list[str], fits: str) -> None:
    """A term's fields and labels must all match; a term without any matches nothing."""
    def named(key: str, values: list[str]) -> list[core_v1.NodeSelectorRequirement]:
        return [core_v1.NodeSelectorRequirement(key=key, operator="In", values=values)] if values else []

    term = core_v1.NodeSelectorTerm(match_fields=named("metadata.name", fields),
                                    match_expressions=named("kubernetes.io/hostname", expressions))
    affinity = core_v1.Affinity(node_affinity=core_v1.NodeAffinity(
        required_during_scheduling_ignored_during_execution=core_v1.NodeSelector(node_selector_terms=[term])))
    assert decide(pod(affinity=affinity), cluster(node("a"), node("b")), RNG).node == fits


def test_a_node_that_is_gone_gets_no_pods_and_its_pods_count_nowhere() -> None:
    state = cluster(node("a"), node("b"))
    state.place(pod("one", owner="rs"), "a")
    state.place(pod("two", requests={"cpu": "3"}), "b")
    state.remove_node("a")
    assert {decide(pod(owner="rs"), state, RNG).node for _ in range(20)} == {"b"}
    state.set_node(node("c"))  # in the row of the node that is gone
    assert decide(pod(requests={"cpu": "4"}), state, RNG).node == "c"
    assert decide(pod(requests={"cpu": "4"}, node_selector={"kubernetes.io/hostname": "c"}), state, RNG).node == "c"
    state.remove_node("b")
    state.remove_node("c")
    assert decide(pod(), state, RNG).refusal == "no nodes available to schedule pods"


def test_a_node_that_is_used_evenly_is_preferred() -> None:
    """Both have as much left in all."""
    state = cluster(node("a", cpu="10", memory="10Gi"), node("b", cpu="10", memory="10Gi"))
    state.place(pod("one", requests={"cpu": "8", "memory": "2Gi"}), "a")
    state.place(pod("two", requests={"cpu": "5", "memory": "5Gi"}), "b")
    assert {decide(pod(requests={"cpu": "100m", "memory": "100Mi"}), state, RNG).node for _ in range(20)} == {"b"}


def test_replicas_spread_over_nodes() -> None:
    state = cluster(*(node(name) for name in "abc"))
    used = []
    for number in range(3):
        replica = pod(f"p{number}", owner="rs", requests={"cpu": "100m"})
        used.append(decide(replica, state, RNG).node)
        state.place(replica, used[-1])
    assert sorted(used) == ["a", "b", "c"]


def test_an_emptier_node_is_preferred() -> None:
    state = cluster(node("a"), node("b"))
    state.place(pod("big", requests={"cpu": "3", "memory": "6Gi"}), "a")
    assert {decide(pod(requests={"cpu": "100m"}), state, RNG).node for _ in range(20)} == {"b"}


def test_init_containers_count_by_their_peak() -> None:
    assert pod_requests(pod(requests={"cpu": "1"}, init={"cpu": "3", "memory": "1Gi"})) == {
        "cpu": 3000, "memory": 1 << 30}


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["node", "gone", "place", "forget"]),
                          st.integers(0, 5), st.integers(0, 3000)), max_size=40))
def test_the_columns_always_are_the_sum_of_what_is_placed(steps: list[tuple[str, str, int, int]]) -> None:
    state, placed = cluster(), {}
    for name, action, number, cpu in steps:
        item = pod(str(number), requests={"cpu": f"{cpu}m"}, host_port=number + 1)
        match action:
            case "node":
                state.set_node(node(name))
            case "gone":
                state.remove_node(name)
            case "place":
                state.place(item, name)
                placed[number] = (name, cpu)
            case "forget":
                state.forget(item.metadata.uid)
                placed.pop(number, None)
    for name, row in state.index.items():
        here = {number: cpu for number, (where, cpu) in placed.items() if where == name}
        assert state.requested[row, state.resources["cpu"]] == sum(here.values())
        assert state.requested[row, state.resources["pods"]] == len(here)
        assert sorted(port.port for port in state.rows[row].ports) == sorted(number + 1 for number in here)
