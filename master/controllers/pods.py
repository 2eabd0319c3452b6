"""What controllers ask of pods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from sampan.api.types.core_v1 import Pod, PodCondition


class Condition(Protocol):
    """Any kind's condition."""

    @property
    def type(self) -> str: ...
    @property
    def status(self) -> str: ...


C = TypeVar("C", bound=Condition)


def find(conditions: Iterable[C], kind: str) -> C | None:
    """The condition of a type."""
    return next((item for item in conditions if item.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether a condition is there and holds."""
    item = find(conditions, kind)
    return item is not None and item.status == "True"


def replaced(conditions: Sequence[C], new: C) -> list[C]:
    """The conditions with `new` in place of the one of its type."""
    return [*(item for item in conditions if item.type != new.type), new]


def is_terminal(pod: Pod) -> bool:
    """Whether its containers have ended for good."""
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Whether it counts as one of its controller's replicas."""
    return not is_terminal(pod) and pod.metadata.deletion_timestamp is None


def ready_condition(pod: Pod) -> PodCondition | None:
    """The Ready condition."""
    return find(pod.status.conditions, "Ready")


def is_ready(pod: Pod) -> bool:
    """Whether it may serve."""
    return is_true(pod.status.conditions, "Ready")


def ready_since(pod: Pod) -> datetime | None:
    """When it became ready; None where it is not, or nobody noted it."""
    condition = ready_condition(pod)
    return condition.last_transition_time if condition is not None and condition.status == "True" else None


def is_available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    """Whether it has been ready for that long."""
    if not is_ready(pod):
        return False
    since = ready_since(pod)
    return not min_ready_seconds or (since is not None and since + timedelta(seconds=min_ready_seconds) <= now)
