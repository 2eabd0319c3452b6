"""Volumes that exist only as names, for tests and for an agent under construction."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from agent.link.protocol import ClusterView
from agent.volumes.protocol import PreparedVolume, VolumeError
from sampan.api.types import core_v1


class FakeVolumes:
    """Remembers whose volumes are ready; `failures` names volumes that cannot be prepared, and why."""

    def __init__(self) -> None:
        self.pods: set[str] = set()
        self.failures: dict[str, str] = {}
        self.refreshed: list[str] = []

    async def prepare(self, pod: core_v1.Pod, view: ClusterView) -> Mapping[str, PreparedVolume]:
        """Every volume stands at /fake/<uid>/<name>."""
        for volume in pod.spec.volumes:
            if volume.name in self.failures:
                raise VolumeError(volume.name, self.failures[volume.name])
        self.pods.add(pod.metadata.uid)
        return {volume.name: PreparedVolume(f"/fake/{pod.metadata.uid}/{volume.name}") for volume in pod.spec.volumes}

    async def refresh(self, pod: core_v1.Pod, view: ClusterView) -> None:
        """Remember the pod's UID."""
        self.refreshed.append(pod.metadata.uid)

    async def subpath(self, uid: str, place: str, volume: PreparedVolume, path: str) -> str:
        """Below the volume's path."""
        return f"{volume.path}/{path}"

    async def teardown(self, uid: str) -> None:
        """Forget the pod."""
        self.pods.discard(uid)

    async def known(self) -> Collection[str]:
        """The pods that were prepared and not torn down."""
        return frozenset(self.pods)
