"""What a pod's worker knows: the wanted pod, what is there, and what has been tried. Values, never changed in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from agent.engine.protocol import Container
from agent.pods import labels
from sampan.api.types import core_v1

State = Literal["created", "running", "exited"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One container of the pod (or an infra container, named "POD"), as the engine and its labels tell.

    `backoff` is in seconds: how long to wait after its end before the next one may start.
    """

    container: Container
    name: str
    number: int
    hash: str = ""
    sandbox_id: str = ""
    backoff: float = 0.0

    @classmethod
    def of(cls, container: Container) -> Attempt:
        """Read the labels; nonsense in them counts as nothing."""
        found = container.labels
        return cls(container, found.get(labels.CONTAINER_NAME, ""), int(_number(found.get(labels.RESTART_COUNT, ""))),
                   found.get(labels.HASH, ""), found.get(labels.SANDBOX_ID, ""),
                   _number(found.get(labels.BACKOFF, "")))

    @property
    def id(self) -> str:
        """The container's id."""
        return self.container.id

    @property
    def state(self) -> State:
        """A container that could not be started has exited: it will not be started again."""
        if self.container.running:
            return "running"
        never_started = self.container.status == "created" and not self.failed_to_start
        return "created" if never_started else "exited"

    @property
    def failed_to_start(self) -> bool:
        """Whether the engine was asked to start it and could not."""
        box = self.container
        return box.status == "created" and bool(box.error or box.exit_code)

    @property
    def finished_at(self) -> datetime | None:
        """When it ended; for one that never started, when it was created."""
        return self.container.finished_at or self.container.created_at

    @property
    def ran_for(self) -> float:
        """Seconds from creation to its end; 0 while that is unknown."""
        begin, end = self.container.created_at, self.finished_at
        return (end - begin).total_seconds() if begin and end else 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that did not succeed: how often in a row, when to try again, and what the container's status says."""

    count: int
    retry_at: datetime
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Connection:
    """A sandbox's network: its address, and the start of the sandbox that it was made for."""

    ip: str
    sandbox_started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes say of one running container: alive, started (None: its probe has not answered yet), ready."""

    alive: bool = True
    started: bool | None = True
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Desired:
    """What should be: the pod's object, whether it is gone from the API, and whether the worker may only stop it.

    `gone`: the object was removed; nothing is reported any more. `orphan`: the agent never saw the object; the pod is
    a stand-in made from labels. `over`: a reason and message for which the pod has failed as a whole (its deadline).
    """

    pod: core_v1.Pod
    gone: bool = False
    orphan: bool = False
    over: tuple[str, str] | None = None

    @property
    def deleted(self) -> bool:
        """Whether everything of the pod has to go."""
        return self.gone or self.orphan or self.pod.metadata.deletion_timestamp is not None

    @property
    def restart_policy(self) -> str:
        """Always, OnFailure or Never."""
        return self.pod.spec.restart_policy or "Always"

    @property
    def host_network(self) -> bool:
        """Whether the pod uses the node's own network."""
        return bool(self.pod.spec.host_network)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there. Containers and sandboxes are newest first; those that the engine is removing are left out.

    `busy` holds the keys of steps under way; `failures` those of steps that failed; `killing` maps container ids to
    when they get SIGKILL at the latest; `images` holds the hashes of containers whose image is ready for their next
    start; `starting` the ids of containers whose postStart hook has not ended, `hook_failed` of those where it
    went wrong; `lost` are sandboxes that somebody removed before their network was released; `replaced` holds the ids
    of containers that were ended to make room for another; by `stop_by` the pod's last containers are to have ended;
    `over`: the pod was said to have Succeeded or Failed, which its object need not have yet.
    """

    sandboxes: tuple[Attempt, ...] = ()
    containers: tuple[Attempt, ...] = ()
    connections: Mapping[str, Connection] = field(default_factory=dict)
    detached: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    volumes_ready: bool = False
    volumes_exist: bool = False
    cgroup_ready: bool = False
    cgroup_exists: bool = False
    images: frozenset[str] = frozenset()
    health: Mapping[str, Health] = field(default_factory=dict)
    starting: frozenset[str] = frozenset()
    hook_failed: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    killing: Mapping[str, datetime] = field(default_factory=dict)
    failures: Mapping[str, Failure] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)
    image_ids: Mapping[str, str] = field(default_factory=dict)
    replaced: frozenset[str] = frozenset()
    stop_by: datetime | None = None
    final_reported: bool = False
    over: bool = False

    @property
    def sandbox(self) -> Attempt | None:
        """The newest infra container."""
        return self.sandboxes[0] if self.sandboxes else None

    def attempts(self, name: str) -> list[Attempt]:
        """The containers of that name, newest first."""
        return [attempt for attempt in self.containers if attempt.name == name]

    def running(self) -> list[Attempt]:
        """App and init containers whose process lives."""
        return [attempt for attempt in self.containers if attempt.state == "running"]


def sorted_attempts(containers: Iterable[Container]) -> tuple[tuple[Attempt, ...], tuple[Attempt, ...]]:
    """Sandboxes and containers, each newest first; what the engine is already removing counts as gone."""
    sandboxes: list[Attempt] = []
    others: list[Attempt] = []
    for container in containers:
        if container.gone:
            continue
        kind = container.labels.get(labels.TYPE)
        (sandboxes if kind == labels.SANDBOX else others).append(Attempt.of(container))

    def age(attempt: Attempt) -> tuple[int, float]:
        created = attempt.container.created_at
        return attempt.number, created.timestamp() if created else 0.0

    return tuple(sorted(sandboxes, key=age, reverse=True)), tuple(sorted(others, key=age, reverse=True))


def pod_text(pod: core_v1.Pod) -> str:
    """``name_namespace(uid)``, as in upstream's messages."""
    return f"{pod.metadata.name}_{pod.metadata.namespace}({pod.metadata.uid})"


def is_sidecar(container: core_v1.Container) -> bool:
    """Whether an init container keeps running beside the app containers (KEP-753)."""
    return container.restart_policy == "Always"


def _number(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
