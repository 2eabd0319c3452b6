"""The steps that a pod's life is made of. Each can be repeated; an agent that died between two goes on with the next.

`key` says what a step works on: two steps with one key never run at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

KillCause = Literal["stopping", "sandbox", "stray", "definition", "liveness", "startup", "hook"]

VOLUMES = "volumes"
CGROUP = "cgroup"
SANDBOX = "sandbox"
REMOVE = "remove"
REPORT = "report"


def image_key(name: str) -> str:
    """The key of finding or pulling a container's image."""
    return f"image/{name}"


def container_key(name: str) -> str:
    """The key of creating and starting a container."""
    return f"container/{name}"


def hook_key(container_id: str) -> str:
    """The key of a postStart hook."""
    return f"hook/{container_id}"


def kill_key(container_id: str) -> str:
    """The key of stopping one container."""
    return f"kill/{container_id}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something happens, or until that time."""

    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left of the pod: its worker ends."""


@dataclass(frozen=True, slots=True)
class PrepareVolumes:
    """Make the pod's volumes ready."""

    key: str = VOLUMES


@dataclass(frozen=True, slots=True)
class TearDownVolumes:
    """Unmount and remove the pod's volumes and its directory."""

    key: str = VOLUMES


@dataclass(frozen=True, slots=True)
class EnsureCgroup:
    """Make the pod's cgroup with its limits."""

    key: str = CGROUP


@dataclass(frozen=True, slots=True)
class RemoveCgroup:
    """Take the pod's cgroup away."""

    key: str = CGROUP


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """Create the infra container; an `attempt` above 0 replaces one that died."""

    attempt: int
    key: str = SANDBOX


@dataclass(frozen=True, slots=True)
class ConnectSandbox:
    """Start the infra container where it does not run yet, and connect it to the pod network."""

    id: str
    key: str = SANDBOX


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """Release the network of an infra container, and end it."""

    id: str
    key: str = SANDBOX


@dataclass(frozen=True, slots=True)
class PullImage:
    """Find the container's image, or begin to pull it, as its pull policy says."""

    name: str

    @property
    def key(self) -> str:
        """One at a time for a container."""
        return image_key(self.name)


@dataclass(frozen=True, slots=True)
class CreateContainer:
    """Create a container. `attempt` is its restart count, `backoff` what the next one will have to wait (seconds)."""

    name: str
    attempt: int
    backoff: float

    @property
    def key(self) -> str:
        """One at a time for a container."""
        return container_key(self.name)


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Start a container that was created."""

    name: str
    id: str

    @property
    def key(self) -> str:
        """One at a time for a container."""
        return container_key(self.name)


@dataclass(frozen=True, slots=True)
class RunPostStart:
    """Run the postStart hook of a container that has just been started."""

    name: str
    id: str

    @property
    def key(self) -> str:
        """Once for a container."""
        return hook_key(self.id)


@dataclass(frozen=True, slots=True)
class KillContainer:
    """Run the preStop hook, ask the container to end, and end it after `grace` seconds."""

    name: str
    id: str
    grace: float
    cause: KillCause
    message: str

    @property
    def key(self) -> str:
        """A later kill of the same container with less grace replaces the one under way."""
        return kill_key(self.id)


@dataclass(frozen=True, slots=True)
class RemoveContainers:
    """Remove containers that have ended and are not looked at any more."""

    ids: tuple[str, ...]
    key: str = REMOVE


@dataclass(frozen=True, slots=True)
class ReportTerminated:
    """Tell the master that nothing of the deleted pod is left here."""

    key: str = REPORT


Action = (PrepareVolumes | TearDownVolumes | EnsureCgroup | RemoveCgroup | CreateSandbox | ConnectSandbox | StopSandbox
          | PullImage | CreateContainer | StartContainer | RunPostStart | KillContainer | RemoveContainers
          | ReportTerminated)
Step = Action | Wait | Finish
