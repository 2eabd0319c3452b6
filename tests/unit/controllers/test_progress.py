"""What a Deployment's conditions say of its progress, and when."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from master.controllers import rollout as sums
from master.controllers.deployment_plan import Plan, _progressed, plan
from master.controllers.pods import find
from sampan.api.types.apps_v1 import Deployment, DeploymentStatus, ReplicaSetStatus, RollingUpdateDeployment
from sampan.loop.clock import FakeClock
from tests.support.controllers import deployment

NOW = FakeClock().now()


def begun(**spec: int) -> tuple[Deployment, Plan]:
    """A Deployment whose ReplicaSet has just been made."""
    made = deployment(replicas=2, **spec)
    first = plan(made, [], NOW, old_pods=False)
    assert first.create is not None
    assert first.status is not None
    return replace(made, status=first.status), first


@pytest.mark.parametrize(("seconds", "late"), [(1, False), (59, False), (61, True)])
def test_the_deadline_passes_in_its_time(seconds: int, late: bool) -> None:
    made, first = begun(progress_deadline_seconds=60)
    assert first.create is not None
    again = plan(made, [first.create], NOW + timedelta(seconds=seconds), old_pods=False)
    status = again.status or made.status
    condition = find(status.conditions, "Progressing")
    assert condition is not None
    assert (condition.status == "False") is late
    assert (condition.reason == "ProgressDeadlineExceeded") is late
    assert again.again == (None if late else 60 - seconds + 1)


def test_without_a_deadline_nothing_is_said_of_progress() -> None:
    made, first = begun(progress_deadline_seconds=2**31 - 1)
    assert first.create is not None
    assert first.again is None
    again = plan(made, [first.create], NOW + timedelta(days=99), old_pods=False)
    assert again.again is None
    assert [item.type for item in (again.status or made.status).conditions] == ["Available"]
    counts = ReplicaSetStatus(replicas=2, ready_replicas=2, available_replicas=2)
    done = plan(made, [replace(first.create, status=counts)], NOW, old_pods=False)
    assert done.status is not None
    assert done.status.available_replicas == 2
    assert [item.type for item in done.status.conditions] == ["Available"]


@pytest.mark.parametrize(("change", "progress"), [
    ({}, False), ({"updated_replicas": 2}, True), ({"replicas": 2}, True), ({"ready_replicas": 3}, True),
    ({"available_replicas": 3}, True), ({"ready_replicas": 1, "available_replicas": 1}, False),
    ({"replicas": 4}, False), ({"replicas": 4, "updated_replicas": 2}, True)])
def test_what_counts_as_progress(change: dict[str, int], progress: bool) -> None:
    before = DeploymentStatus(replicas=3, updated_replicas=1, ready_replicas=2, available_replicas=2)
    assert _progressed(before, replace(before, **change)) is progress


@pytest.mark.parametrize(("rolling", "bounds"), [
    (RollingUpdateDeployment(max_surge=1), (1, 2)), (RollingUpdateDeployment(max_unavailable=1), (2, 1)),
    (RollingUpdateDeployment(), (2, 2)), (None, (2, 2))])
def test_a_bound_that_is_not_given_is_a_quarter(rolling: RollingUpdateDeployment | None,
                                                bounds: tuple[int, int]) -> None:
    of = deployment(replicas=8)
    assert of.spec.strategy is not None
    made = replace(of, spec=replace(of.spec, strategy=replace(of.spec.strategy, rolling_update=rolling)))
    assert (sums.max_surge(made), sums.max_unavailable(made)) == bounds
