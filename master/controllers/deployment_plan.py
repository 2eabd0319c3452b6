"""Deployments, decided: one call looks at a Deployment and its ReplicaSets and says what to change next.

Follows upstream's deployment controller (pkg/controller/deployment): a rolling update first grows the new ReplicaSet
as far as maxSurge allows, then, when there was nothing to grow, shrinks the old ones as far as maxUnavailable allows,
unhealthy pods first. Each step shows in the ReplicaSets' status, which leads to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from msgspec.structs import replace

from master.controllers import rollout as sums
from master.controllers.owners import controller_reference
from master.controllers.pods import find
from master.controllers.rollout import HASH_LABEL, replicas
from sampan.api.times import Time
from sampan.api.types.apps_v1 import (
    Deployment,
    DeploymentCondition,
    DeploymentStatus,
    ReplicaSet,
    ReplicaSetSpec,
)
from sampan.api.types.core_v1 import PodTemplateSpec
from sampan.api.types.meta_v1 import LabelSelector, ObjectMeta

AVAILABLE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"


@dataclass(slots=True)
class Plan:
    """What to do, in this order; `again` is in seconds from now."""

    create: ReplicaSet | None = None
    update: list[ReplicaSet] = field(default_factory=list)
    delete: list[ReplicaSet] = field(default_factory=list)
    revision: str = ""
    """The Deployment's revision annotation, "" where it stays."""
    status: DeploymentStatus | None = None
    events: list[str] = field(default_factory=list)
    """Messages of ScalingReplicaSet events."""
    again: float | None = None


def plan(deployment: Deployment, sets: Sequence[ReplicaSet], now: datetime, *, old_pods: bool = False) -> Plan:
    """Decide. `sets` are the ReplicaSets that the Deployment controls; `old_pods` says whether any pod of an older
    one still runs, which only Recreate asks.
    """
    work = _Work(deployment, sets, now)
    if deployment.metadata.deletion_timestamp is not None:
        return work.finish(rolling_out=False)
    work.note_pause()
    if deployment.spec.paused or work.scaled_by_user():
        work.sync_new(create=False)
        work.scale_as_a_whole()
        if deployment.spec.paused:
            work.clean_up()
        return work.finish(rolling_out=False)
    if sums.is_rolling(deployment):
        work.roll()
    else:
        work.recreate(old_pods)
    return work.finish(rolling_out=True)


class _Work:
    """A plan in the making: the ReplicaSets as they will be, and the conditions as they will be."""

    def __init__(self, deployment: Deployment, sets: Sequence[ReplicaSet], now: datetime) -> None:
        self.deployment = deployment
        self.now = now
        self.plan = Plan()
        self.conditions = list(deployment.status.conditions)
        self._before = {rs.metadata.name: rs for rs in sets}
        self._sets = {rs.metadata.name: rs for rs in sorted(sets, key=sums.oldest_first)}
        new = sums.find_new(deployment, sets)
        self._new = new.metadata.name if new is not None else ""

    @property
    def new(self) -> ReplicaSet | None:
        """The ReplicaSet of the current template."""
        return self._sets.get(self._new)

    @property
    def old(self) -> list[ReplicaSet]:
        """All others, oldest first."""
        return [rs for name, rs in self._sets.items() if name != self._new]

    @property
    def all(self) -> list[ReplicaSet]:
        """All of them, oldest first."""
        return list(self._sets.values())

    def scale(self, rs: ReplicaSet, size: int) -> bool:
        """Set a ReplicaSet's size, and tell of it; False where it has it."""
        before = replicas(rs)
        annotations = rs.metadata.annotations | sums.size_annotations(self.deployment)
        self._sets[rs.metadata.name] = replace(rs, metadata=replace(rs.metadata, annotations=annotations),
                                               spec=replace(rs.spec, replicas=size))
        if size == before:
            return False
        direction = "up" if size > before else "down"
        self.plan.events.append(f"Scaled {direction} replica set {rs.metadata.name} from {before} to {size}")
        return True

    # The newest ReplicaSet and its revision

    def sync_new(self, *, create: bool) -> None:
        """Bring the newest ReplicaSet's annotations up to date, or make it."""
        number = max((sums.revision(rs) for rs in self.old), default=0) + 1
        rs = self.new
        if rs is not None:
            annotations = sums.new_set_annotations(self.deployment, rs, number, exists=True)
            self._sets[self._new] = rs = replace(
                rs, metadata=replace(rs.metadata, annotations=annotations),
                spec=replace(rs.spec, min_ready_seconds=self.deployment.spec.min_ready_seconds))
            self._remember_revision(annotations[sums.REVISION])
            if self._has_deadline and find(self.conditions, "Progressing") is None:
                self._progress("True", "FoundNewReplicaSet", f'Found new replica set "{rs.metadata.name}"')
        elif create:
            self._create(number)

    def _create(self, number: int) -> None:
        rs = new_replica_set(self.deployment, self.deployment.status.collision_count or 0)
        size = sums.new_set_size(self.deployment, self.all, rs)
        annotations = sums.new_set_annotations(self.deployment, rs, number, exists=False)
        rs = replace(rs, metadata=replace(rs.metadata, annotations=annotations), spec=replace(rs.spec, replicas=size))
        self.plan.create = self._sets[rs.metadata.name] = self._before[rs.metadata.name] = rs
        self._new = rs.metadata.name
        if size:
            self.plan.events.append(f"Scaled up replica set {rs.metadata.name} from 0 to {size}")
        self._remember_revision(str(number))
        if self._has_deadline:
            self._progress("True", "NewReplicaSetCreated", f'Created new replica set "{rs.metadata.name}"')

    def _remember_revision(self, number: str) -> None:
        if self.deployment.metadata.annotations.get(sums.REVISION) != number:
            self.plan.revision = number

    # Strategies

    def roll(self) -> None:
        """One step of a rolling update."""
        self.sync_new(create=True)
        new = self.new
        assert new is not None
        size = min(sums.new_set_size(self.deployment, self.all, new), replicas(self.deployment))
        if replicas(new) != size and self.scale(new, size):
            return
        if not self._shrink_old(new) and self._complete(self._counted()):
            self.clean_up()

    def _shrink_old(self, new: ReplicaSet) -> bool:
        minimum = replicas(self.deployment) - sums.max_unavailable(self.deployment)
        missing = replicas(new) - (new.status.available_replicas or 0)
        removable = sums.total(self.all) - minimum - missing
        if not sums.total(self.old) or removable <= 0:
            return False
        changed = False
        left = removable
        for rs in self.old:  # pods that do not work are no loss
            unhealthy = min(left, replicas(rs) - (rs.status.available_replicas or 0))
            if unhealthy > 0:
                left -= unhealthy
                changed |= self.scale(rs, replicas(rs) - unhealthy)
        left = sums.staying(self.all) - minimum
        for rs in self.old:
            count = min(left, replicas(rs))
            if count > 0:
                left -= count
                changed |= self.scale(rs, replicas(rs) - count)
        return changed

    def recreate(self, old_pods: bool) -> None:
        """End all old pods, and only then start new ones."""
        self.sync_new(create=False)
        shrunk = [self.scale(rs, 0) for rs in self.old if replicas(rs)]
        if any(shrunk) or old_pods or sums.actual(self.old):
            return
        self.sync_new(create=True)
        new = self.new
        assert new is not None
        if replicas(new) != replicas(self.deployment):
            self.scale(new, replicas(self.deployment))
        if self._complete(self._counted()):
            self.clean_up()

    # Scaling by the user

    def scaled_by_user(self) -> bool:
        """Whether spec.replicas has changed since the ReplicaSets were sized."""
        return any(replicas(rs) and sums.annotated(rs, sums.DESIRED) not in (None, replicas(self.deployment))
                   for rs in self.all)

    def scale_as_a_whole(self) -> None:
        """Bring all ReplicaSets together to the wanted size, each in proportion to its share."""
        active = [rs for rs in self.all if replicas(rs)]
        if len(active) <= 1:
            only = active[0] if active else self.new or (self.old[-1] if self.old else None)
            if only is not None:  # also where the size is right already: the annotation must follow
                self.scale(only, replicas(self.deployment))
        elif self._saturated():
            for rs in self.old:
                if replicas(rs):
                    self.scale(rs, 0)
        elif sums.is_rolling(self.deployment):
            self._scale_in_proportion(active)

    def _saturated(self) -> bool:
        new, wanted = self.new, replicas(self.deployment)
        return (new is not None and replicas(new) == wanted and sums.annotated(new, sums.DESIRED) == wanted
                and new.status.available_replicas == wanted)

    def _scale_in_proportion(self, active: list[ReplicaSet]) -> None:
        wanted = replicas(self.deployment)
        allowed = wanted + sums.max_surge(self.deployment) if wanted else 0
        to_add = allowed - sums.total(active)
        newest_first = sorted(active, key=sums.oldest_first, reverse=to_add > 0)
        by_size = sorted(newest_first, key=lambda rs: -replicas(rs))
        sizes, added = [], 0
        for rs in by_size:
            share = sums.proportion(rs, self.deployment, to_add, added)
            sizes.append(replicas(rs) + share)
            added += share
        sizes[0] = max(0, sizes[0] + to_add - added)  # what rounding left over goes to the largest
        for rs, size in zip(by_size, sizes, strict=True):
            self.scale(rs, size)

    def clean_up(self) -> None:
        """Delete the oldest of the ReplicaSets that are kept only for going back to them."""
        limit = self.deployment.spec.revision_history_limit
        if limit is None or limit == NO_LIMIT:
            return
        alive = [rs for rs in self.old if rs.metadata.deletion_timestamp is None]
        for rs in sorted(alive, key=lambda rs: (sums.revision(rs), sums.oldest_first(rs)))[:max(0, len(alive) - limit)]:
            settled = (rs.metadata.generation or 0) <= (rs.status.observed_generation or 0)
            if not rs.status.replicas and not replicas(rs) and settled:
                self.plan.delete.append(rs)

    # Status

    @property
    def _deadline(self) -> int:
        return self.deployment.spec.progress_deadline_seconds or sums.NO_DEADLINE

    @property
    def _has_deadline(self) -> bool:
        return self._deadline != sums.NO_DEADLINE

    def note_pause(self) -> None:
        """A rollout that is paused makes no progress and misses no deadline."""
        present = find(self.conditions, "Progressing")
        if not self._has_deadline or (present is not None and present.reason == TIMED_OUT):
            return
        noted = present is not None and present.reason == PAUSED
        if self.deployment.spec.paused and not noted:
            self._progress("Unknown", PAUSED, "Deployment is paused")
        elif not self.deployment.spec.paused and noted:
            self._progress("Unknown", "DeploymentResumed", "Deployment is resumed")

    def note_create_error(self, message: str) -> None:
        """The newest ReplicaSet cannot be made."""
        if self._has_deadline:
            self._progress("False", "ReplicaSetCreateError", message)

    def finish(self, *, rolling_out: bool) -> Plan:
        """Add the status and the ReplicaSets that have changed."""
        counted = self._counted()
        if rolling_out:
            self._note_progress(counted)
        self._note_availability(counted)
        status = replace(counted, conditions=self.conditions)
        if _normal(status) != _normal(self.deployment.status):
            self.plan.status = status
        created = self.plan.create
        if created is not None:
            self.plan.create = self._sets[created.metadata.name]
        self.plan.update = [rs for name, rs in self._sets.items() if rs != self._before[name] and not (
            created is not None and name == created.metadata.name)]
        self.plan.again = self._next_look(status) if rolling_out else None
        return self.plan

    def _counted(self) -> DeploymentStatus:
        new = [self.new] if self.new is not None else []
        have = sums.available(self.all)
        return DeploymentStatus(
            observed_generation=self.deployment.metadata.generation, replicas=sums.actual(self.all),
            updated_replicas=sums.actual(new), ready_replicas=sum(rs.status.ready_replicas or 0 for rs in self.all),
            available_replicas=have, unavailable_replicas=max(0, sums.total(self.all) - have),
            collision_count=self.deployment.status.collision_count)

    def _note_progress(self, counted: DeploymentStatus) -> None:
        if not self._has_deadline:
            self.conditions = [item for item in self.conditions if item.type != "Progressing"]
        present = find(self.conditions, "Progressing")
        done = present is not None and present.reason == AVAILABLE and counted.replicas == counted.updated_replicas
        new = self.new
        what = f'ReplicaSet "{new.metadata.name}"' if new else f'Deployment "{self.deployment.metadata.name}"'
        if self._has_deadline and not done:
            if self._complete(counted):
                self._progress("True", AVAILABLE, f"{what} has successfully progressed.")
            elif _progressed(self.deployment.status, counted):
                self._progress("True", "ReplicaSetUpdated", f"{what} is progressing.", refresh=True)
            elif self._late(present):
                self._progress("False", TIMED_OUT, f"{what} has timed out progressing.")
        failures = [item for rs in ([new] if new else []) + self.old for item in rs.status.conditions
                    if item.type == "ReplicaFailure"]
        if failures:
            item = failures[0]
            self._set(DeploymentCondition(type=item.type, status=item.status, reason=item.reason, message=item.message,
                                          last_transition_time=item.last_transition_time,
                                          last_update_time=item.last_transition_time))
        else:
            self.conditions = [item for item in self.conditions if item.type != "ReplicaFailure"]

    def _note_availability(self, counted: DeploymentStatus) -> None:
        minimum = replicas(self.deployment) - sums.max_unavailable(self.deployment)
        if (counted.available_replicas or 0) >= minimum:
            self._condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        else:
            self._condition("Available", "False", "MinimumReplicasUnavailable",
                            "Deployment does not have minimum availability.")

    def _complete(self, counted: DeploymentStatus) -> bool:
        wanted = replicas(self.deployment)
        return (counted.updated_replicas == counted.replicas == counted.available_replicas == wanted
                and (counted.observed_generation or 0) >= (self.deployment.metadata.generation or 0))

    def _late(self, present: DeploymentCondition | None) -> bool:
        if present is None or present.reason == AVAILABLE:
            return False
        if present.reason == TIMED_OUT:
            return True
        since = present.last_update_time or present.last_transition_time
        return since is not None and since + timedelta(seconds=self._deadline) < self.now

    def _next_look(self, status: DeploymentStatus) -> float | None:
        """When the deadline has to be checked, as nothing else may happen until then."""
        present = find(self.conditions, "Progressing")
        if not self._has_deadline or present is None or self._complete(status) or present.reason in (
                AVAILABLE, TIMED_OUT):
            return None
        since = present.last_update_time or present.last_transition_time
        passed = (self.now - since).total_seconds() if since else 0.0
        return max(1.0, self._deadline - passed + 1)

    def _progress(self, status: str, reason: str, message: str, *, refresh: bool = False) -> None:
        self._condition("Progressing", status, reason, message, refresh=refresh)

    def _condition(self, kind: str, status: str, reason: str, message: str, *, refresh: bool = False) -> None:
        present = find(self.conditions, kind)
        if present is not None and present.status == status and present.reason == reason and not refresh:
            return
        now = Time.of(self.now)
        same = present is not None and present.status == status
        self._set(DeploymentCondition(
            type=kind, status=status, reason=reason, message=message, last_update_time=now,
            last_transition_time=present.last_transition_time if same and present is not None else now))

    def _set(self, new: DeploymentCondition) -> None:
        present = find(self.conditions, new.type)
        if present != new:
            self.conditions = [*(item for item in self.conditions if item.type != new.type), new]


NO_LIMIT = 2**31 - 1


def create_failed(deployment: Deployment, message: str, now: datetime) -> DeploymentStatus | None:
    """The status that says why there is no newest ReplicaSet; None where it does, or nobody waits for progress."""
    work = _Work(deployment, (), now)
    work.note_create_error(message)
    before = deployment.status
    return replace(before, conditions=work.conditions) if work.conditions != before.conditions else None


def new_replica_set(deployment: Deployment, collisions: int) -> ReplicaSet:
    """The ReplicaSet of the current template, without pods."""
    template = deployment.spec.template
    digest = sums.template_hash(template, collisions)
    meta = template.metadata or ObjectMeta()
    labels = meta.labels | {HASH_LABEL: digest}
    selector = deployment.spec.selector
    return ReplicaSet(
        metadata=ObjectMeta(name=f"{deployment.metadata.name}-{digest}", namespace=deployment.metadata.namespace,
                            labels=labels, owner_references=[controller_reference(deployment)]),
        spec=ReplicaSetSpec(
            replicas=0, min_ready_seconds=deployment.spec.min_ready_seconds,
            selector=LabelSelector(match_labels=selector.match_labels | {HASH_LABEL: digest},
                                   match_expressions=selector.match_expressions),
            template=PodTemplateSpec(metadata=replace(meta, labels=labels), spec=template.spec)))


def _progressed(old: DeploymentStatus, new: DeploymentStatus) -> bool:
    def outdated(status: DeploymentStatus) -> int:
        return (status.replicas or 0) - (status.updated_replicas or 0)

    return ((new.updated_replicas or 0) > (old.updated_replicas or 0) or outdated(new) < outdated(old)
            or (new.ready_replicas or 0) > (old.ready_replicas or 0)
            or (new.available_replicas or 0) > (old.available_replicas or 0))


def _normal(status: DeploymentStatus) -> tuple[object, ...]:
    """A status in a form in which a missing count equals zero."""
    return (status.observed_generation or 0, status.replicas or 0, status.updated_replicas or 0,
            status.ready_replicas or 0, status.available_replicas or 0, status.unavailable_replicas or 0,
            status.collision_count or 0, status.conditions)
