"""What a worker remembers between steps: the cache of its containers, and what only this process can know.

Nothing here has to survive: after a restart the containers are read from the engine, the network connected again (which
changes nothing), volumes and cgroup found on disk, messages in the status that was reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

from agent.engine.protocol import Container, EngineEvent
from agent.pods import labels
from agent.pods.backoff import fail
from agent.pods.model import Attempt, Connection, Failure, Health, Observed, sorted_attempts
from agent.volumes.protocol import PreparedVolume
from sampan.api.types import core_v1

_WATCHED = ("start", "die", "oom", "destroy", "pause", "unpause")
_STEP = timedelta(minutes=5)
"""No answer takes so long: what seems to be older by more was seen before the host's clock was set back."""


def _before(one: datetime, other: datetime) -> bool:
    """Whether one was earlier than the other, as far as that can be told by a clock that may be set."""
    return one < other and other - one <= _STEP


class Memory:
    """Mutable on purpose, and only touched by its worker and that worker's actions."""

    def __init__(self) -> None:
        self._containers: dict[str, tuple[Container, datetime]] = {}
        self._gone: dict[str, datetime] = {}  # containers that an answer on its way may still have, and since when
        self._sorted: tuple[tuple[Attempt, ...], tuple[Attempt, ...]] | None = None
        self._attended: set[str] = set()
        self.connections: dict[str, Connection] = {}
        self.detached: set[str] = set()
        self.lost: set[str] = set()
        self.volumes: dict[str, PreparedVolume] | None = None
        self.volumes_exist = False
        self.cgroup_ready = False
        self.cgroup_exists = False
        self.images: set[str] = set()
        self.image_users: dict[str, str] = {}
        self.health: dict[str, Health] = {}
        self.starting: set[str] = set()
        self.hook_failed: set[str] = set()
        self.killing: dict[str, datetime] = {}
        self.failures: dict[str, Failure] = {}
        self.messages: dict[str, str] = {}
        self.replaced: set[str] = set()
        self.stop_by: datetime | None = None
        self.image_ids: dict[str, str] = {}
        self.final_reported = False
        self.over = False
        self.stale = False
        self.suspect: dict[str, datetime] = {}
        self._died: dict[str, EngineEvent] = {}  # as the engine said, where nobody has looked since
        self.told: set[str] = set()

    def recall(self, status: core_v1.PodStatus) -> None:
        """Take termination messages from what was reported: their files go with the volumes of a pod that is over."""
        for known in (*status.container_statuses, *status.init_container_statuses):
            for state in (known.state, known.last_state):
                if state and (ended := state.terminated) and ended.container_id and ended.message:
                    self.messages[ended.container_id.removeprefix("docker://")] = ended.message

    def see(self, container: Container, as_of: datetime) -> None:
        """Remember a container as the engine told it; `as_of` is when it was asked."""
        known = self._containers.get(container.id)
        newest = known[1] if known else self._gone.get(container.id)
        if newest is None or not _before(as_of, newest):
            self._containers[container.id] = (container, as_of)
            self._sorted = None
            if not _before(as_of, self.suspect.get(container.id, as_of)):
                self.suspect.pop(container.id, None)
                self._died.pop(container.id, None)

    def see_all(self, containers: Iterable[Container], as_of: datetime) -> None:
        """Remember a complete list: what is not in it and was known before is gone.

        One that could not be inspected is what it was, if that agrees with the list; else it has to be looked at.
        """
        present = set()
        for container in containers:
            present.add(container.id)
            known = self.container(container.id)
            if container.inspected:
                self.see(container, as_of)
            elif known is None or known.status != container.status:
                self.suspect[container.id] = as_of
        for container_id, (_, seen) in list(self._containers.items()):
            if container_id not in present and seen != as_of and not _before(as_of, seen):
                self.lose(container_id, as_of)
        self._gone = {container_id: since for container_id, since in self._gone.items() if as_of - since < _STEP}

    def lose(self, container_id: str, as_of: datetime) -> None:
        """The container does not exist any more; the network of a sandbox may, if nobody released it."""
        known = self._containers.pop(container_id, None)
        self._gone[container_id] = as_of
        if known and known[0].labels.get(labels.TYPE) == labels.SANDBOX and container_id not in self.detached:
            self.lost.add(container_id)
        self._sorted = None
        for table in (self.connections, self.health, self.killing, self.messages, self.suspect, self._died):
            table.pop(container_id, None)
        for names in (self.detached, self.starting, self.hook_failed, self.replaced, self.told):
            names.discard(container_id)

    def detach(self, sandbox_id: str) -> None:
        """The sandbox's network has been released."""
        self.connections.pop(sandbox_id, None)
        self.lost.discard(sandbox_id)
        if sandbox_id in self._containers:
            self.detached.add(sandbox_id)

    def hear(self, event: EngineEvent) -> bool:
        """Take an event in; True where it says something new, so that the container must be looked at."""
        if event.action not in _WATCHED:
            return False
        if event.action == "destroy":
            self.lose(event.container_id, event.time)
            return True
        known = self._containers.get(event.container_id)
        seen_running = known is not None and event.action == "start" and known[0].running
        if known and (_before(event.time, known[1]) or (seen_running and event.time == known[1])):
            return False
        self.suspect[event.container_id] = event.time
        self._died.pop(event.container_id, None)
        if event.action == "die":
            self._died[event.container_id] = event
        return event.container_id not in self._attended

    @contextmanager
    def attending(self, container_id: str) -> Iterator[None]:
        """Within, events of that container wake nobody: who does something with it looks at it afterwards."""
        self._attended.add(container_id)
        try:
            yield
        finally:
            self._attended.discard(container_id)

    def unclear(self) -> list[str]:
        """Containers that have to be looked at: something happened to them since, and nobody attends to them."""
        return [container_id for container_id in self.suspect if container_id not in self._attended]

    def presume(self) -> bool:
        """Take the engine's word for what has died, as it cannot be asked; False where that tells nothing new.

        An engine that is stopped ends its containers, and says so, when it takes no more questions.
        """
        died = [event for key, event in self._died.items() if (known := self.container(key)) and known.running]
        if not died or any(container_id not in self._containers for container_id in self.suspect):
            return False
        for event in died:
            container, seen = self._containers[event.container_id]
            code = event.labels.get("exitCode", "")
            self._containers[container.id] = replace(
                container, status="exited", pid=0, exit_code=int(code) if code.isdecimal() else 137,
                finished_at=event.time), seen
        self._sorted = None
        return True

    def container(self, container_id: str) -> Container | None:
        """A container as last seen."""
        known = self._containers.get(container_id)
        return known[0] if known else None

    def containers(self) -> list[Container]:
        """All, as last seen."""
        return [container for container, _ in self._containers.values()]

    def failed(self, key: str, now: datetime, reason: str, message: str, *, initial: float, maximum: float) -> None:
        """A step did not succeed."""
        self.failures[key] = fail(self.failures.get(key), now, reason, message, initial=initial, maximum=maximum)

    def observed(self, busy: Collection[str]) -> Observed:
        """All of it as a value."""
        if self._sorted is None:
            self._sorted = sorted_attempts(self.containers())
        sandboxes, containers = self._sorted
        return Observed(
            sandboxes=sandboxes, containers=containers, connections=dict(self.connections),
            detached=frozenset(self.detached), lost=frozenset(self.lost), volumes_ready=self.volumes is not None,
            volumes_exist=self.volumes_exist, cgroup_ready=self.cgroup_ready, cgroup_exists=self.cgroup_exists,
            images=frozenset(self.images), health=dict(self.health), starting=frozenset(self.starting),
            hook_failed=frozenset(self.hook_failed), busy=frozenset(busy), killing=dict(self.killing),
            failures=dict(self.failures), messages=dict(self.messages), image_ids=dict(self.image_ids),
            replaced=frozenset(self.replaced), stop_by=self.stop_by, final_reported=self.final_reported,
            over=self.over)
