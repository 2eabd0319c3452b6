"""What the pods' worker asks of volumes. A fake stands in agent/volumes/fake.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.link.protocol import ClusterView
from sampan.api.types import core_v1


class VolumeError(Exception):
    """A volume cannot be made ready now; `volume` is its name in the pod ("" for the pod as a whole).

    The message is the text that users read in a FailedMount event after upstream's
    ``MountVolume.SetUp failed for volume "name" : ``, such as ``configmap "x" not found``. It is tried again.
    """

    def __init__(self, volume: str, message: str) -> None:
        super().__init__(message)
        self.volume = volume


@dataclass(frozen=True, slots=True)
class PreparedVolume:
    """A volume that is ready: `path` on the host; `read_only` where its kind allows no writing (configMap, …)."""

    path: str
    read_only: bool = False


class Volumes(Protocol):
    """The volumes of this node's pods. Every call may be repeated and then changes nothing."""

    async def prepare(self, pod: core_v1.Pod, view: ClusterView) -> Mapping[str, PreparedVolume]:
        """Make all volumes of the pod ready, by name; VolumeError for the first that cannot be."""

    async def refresh(self, pod: core_v1.Pod, view: ClusterView) -> None:
        """Write changed ConfigMaps and Secrets into volumes that are ready; what is gone keeps its old content."""

    async def subpath(self, uid: str, place: str, volume: PreparedVolume, path: str) -> str:
        """The host's path by which to mount a subPath of a volume of the pod; it is made where it is missing.

        `place` tells the pod's subPaths apart: volume, container and number of the mount. The path never leads out
        of the volume, whatever links a container leaves there; VolumeError where it would.
        """

    async def teardown(self, uid: str) -> None:
        """Unmount (lazily where busy) and remove everything of the pod."""

    async def known(self) -> Collection[str]:
        """UIDs of pods that have something on this node, found on disk."""
