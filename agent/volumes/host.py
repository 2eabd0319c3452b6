"""The volumes of this host's pods: emptyDir (disk and memory), hostPath, configMap, secret, downwardAPI, projected.

Everything of a pod lies under ``<root>/pods/<uid>/volumes/<plugin>/<name>``, upstream's layout, so that what a pod
has on the node can be found again from the disk alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from agent.link.protocol import ClusterView
from agent.pods.environment import NodeFacts
from agent.volumes import atomic, hostpath, payload, subpath
from agent.volumes.mounts import Mounter, MountError
from agent.volumes.protocol import PreparedVolume, VolumeError
from agent.volumes.tokens import Key, PodTokens, TokenError
from sampan.api import quantity
from sampan.api.types import core_v1
from sampan.loop.clock import Clock

T = TypeVar("T")

log = logging.getLogger(__name__)

WORKERS = 4
FRESHEN_SECONDS = 60.0


class HostVolumes:
    """Implements `agent.volumes.protocol.Volumes` in a directory; file work runs in a few threads of its own."""

    def __init__(self, root: Path, mounter: Mounter, now: Callable[[], datetime]) -> None:
        self._root = root.resolve() / "pods"
        self._mounter = mounter
        self._now = now
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="volumes")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._behind: set[str] = set()  # pods of which a volume could not be brought up to date
        self._tokens: PodTokens | None = None
        self._node = NodeFacts("", "")

    def serve(self, tokens: PodTokens, node: NodeFacts) -> None:
        """What projected and downwardAPI volumes are filled from; made after this by those who run pods."""
        self._tokens = tokens
        self._node = node

    async def prepare(self, pod: core_v1.Pod, view: ClusterView) -> Mapping[str, PreparedVolume]:
        """All volumes of the pod, by name."""
        if not pod.spec.volumes:
            return {}
        turn = self._turn(pod.metadata.uid)
        async with turn:
            tokens: dict[Key, str] = {}
            for volume in pod.spec.volumes:
                tokens |= await self._get_tokens(pod, volume)
            return await self._in_thread(lambda: {volume.name: self._prepare(pod, volume, view, tokens)
                                                  for volume in pod.spec.volumes})

    async def refresh(self, pod: core_v1.Pod, view: ClusterView) -> None:
        """Bring what the cluster's objects fill up to date; a volume whose source is gone keeps what it has."""
        turn = self._turn(pod.metadata.uid)
        async with turn:
            if await self._in_thread((self._root / pod.metadata.uid).exists):  # else they were just taken down
                await self._refresh(pod, view)

    async def _refresh(self, pod: core_v1.Pod, view: ClusterView) -> None:
        uid = pod.metadata.uid
        known = uid in self._behind
        self._behind.discard(uid)
        volumes = [volume for volume in pod.spec.volumes
                   if volume.config_map or volume.secret or volume.projected or volume.downward_api]
        for volume in volumes:
            try:
                tokens = await self._get_tokens(pod, volume)
                await self._in_thread(partial(self._prepare, pod, volume, view, tokens))
            except VolumeError as error:
                self._behind.add(uid)
                log.log(logging.DEBUG if known else logging.INFO, "pod %s/%s: volume %s keeps its old content: %s",
                        pod.metadata.namespace, pod.metadata.name, volume.name, error)

    async def keep_fresh(self, pods: Callable[[], Sequence[core_v1.Pod]], view: ClusterView, clock: Clock) -> None:
        """Look every minute which pods need new tokens, a new word on their labels, or what could not be written.

        Until cancelled.
        """
        while True:
            await clock.sleep(FRESHEN_SECONDS)
            for pod in pods():
                due = self._tokens is not None and self._tokens.due(pod.metadata.uid)
                if due or pod.metadata.uid in self._behind or payload.tells_labels(pod):
                    await self.refresh(pod, view)

    async def _get_tokens(self, pod: core_v1.Pod, volume: core_v1.Volume) -> dict[Key, str]:
        """The tokens that a projected volume holds, those that are there already included; VolumeError."""
        found: dict[Key, str] = {}
        for source in volume.projected.sources if volume.projected else ():
            wanted = source.service_account_token
            if wanted is None or not atomic.valid_path(wanted.path):  # refused when the volume is filled
                continue
            if self._tokens is None:
                raise VolumeError(volume.name, "failed to fetch token: there is no connection to the master")
            key = volume.name, wanted.path
            file = self._directory(pod, "projected", volume.name) / wanted.path
            try:
                found[key] = await self._tokens.get(pod, key, wanted, partial(self._read, file))
            except TokenError as error:
                raise VolumeError(volume.name, str(error)) from error
        return found

    async def _read(self, file: Path) -> bytes:
        """A file's content, nothing where there is none."""
        def read() -> bytes:
            try:
                return file.read_bytes()
            except OSError:
                return b""

        return await self._in_thread(read)

    async def subpath(self, uid: str, place: str, volume: PreparedVolume, path: str) -> str:
        """Bound to ``volume-subpaths/<volume>/<container>/<number>`` in the pod's directory, upstream's layout."""
        target = self._root / uid / "volume-subpaths" / place

        def bound() -> None:
            try:
                subpath.bind(self._mounter, Path(volume.path), path, target)
            except (OSError, MountError) as error:
                raise VolumeError(place.partition("/")[0], f'subPath "{path}": {error}') from error

        await self._in_thread(bound)
        return str(target)

    async def teardown(self, uid: str) -> None:
        """Unmount and remove everything of the pod."""
        turn = self._turn(uid)
        async with turn:
            await self._in_thread(lambda: self._teardown(uid))
            self._behind.discard(uid)
            if self._tokens is not None:
                self._tokens.forget(uid)

    async def known(self) -> Collection[str]:
        """UIDs with a directory here."""
        return await self._in_thread(lambda: {path.name for path in self._root.iterdir()}
                                     if self._root.is_dir() else set())

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False)

    def _turn(self, uid: str) -> asyncio.Lock:
        """What keeps a refresh from writing the same files at the same time, or again what a teardown removes."""
        return self._turns.setdefault(uid, asyncio.Lock())

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Do it in a thread; who is cancelled meanwhile waits for its end, so that nobody works beside it."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait((future,))
            future.cancelled() or future.exception()  # seen: nobody asks for it any more
            raise

    def _prepare(self, pod: core_v1.Pod, volume: core_v1.Volume, view: ClusterView,
                 tokens: Mapping[Key, str]) -> PreparedVolume:
        security = pod.spec.security_context
        group = security.fs_group if security else None
        try:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o750)  # its files are for containers' users only
            if volume.empty_dir is not None:
                return self._empty_dir(pod, volume, volume.empty_dir, group)
            if volume.host_path is not None:
                hostpath.check(volume.name, Path(volume.host_path.path), volume.host_path.type or "")
                return PreparedVolume(volume.host_path.path)
            if volume.config_map is not None:
                files = payload.config_map(volume, pod.metadata.namespace, view)
                return self._files(pod, volume, "configmap", files, group)
            if volume.secret is not None:
                files = payload.secret(volume, pod.metadata.namespace, view)
                return self._files(pod, volume, "secret", files, group, memory=True)
            if volume.downward_api is not None:
                files = payload.downward(volume, pod, self._node)
                return self._files(pod, volume, "downward-api", files, group)
            if volume.projected is not None:
                files = payload.projected(volume, pod, view, self._node, lambda path: tokens[volume.name, path])
                # Tokens lie on the disk, where a reboot without the master finds them again; Secrets never do.
                secret = any(source.secret for source in volume.projected.sources)
                return self._files(pod, volume, "projected", files, group, memory=secret)
        except (OSError, MountError) as error:
            raise VolumeError(volume.name, str(error)) from error
        raise VolumeError(volume.name, f"volumes of type {_kind(volume)} are not supported by this version")

    def _empty_dir(self, pod: core_v1.Pod, volume: core_v1.Volume, source: core_v1.EmptyDirVolumeSource,
                   group: int | None) -> PreparedVolume:
        path = self._directory(pod, "empty-dir", volume.name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}")  # under its name it is either not there or as it has to be
            draft.mkdir(exist_ok=True)
            _share(draft, group)
            draft.rename(path)
        if source.medium == "Memory" and path not in self._mounter.mounted_below(path):
            self._mounter.tmpfs(path, quantity.to_int(source.size_limit) if source.size_limit else 0, group)
        return PreparedVolume(str(path))

    def _files(self, pod: core_v1.Pod, volume: core_v1.Volume, plugin: str, files: atomic.Payload,
               group: int | None, *, memory: bool = False) -> PreparedVolume:
        path = self._directory(pod, plugin, volume.name)
        path.mkdir(parents=True, exist_ok=True)
        if memory and path not in self._mounter.mounted_below(path):
            self._mounter.tmpfs(path, 0)
        path.chmod(0o777 | (0o2000 if group is not None else 0))
        atomic.write(path, files, self._now(), group=group)
        return PreparedVolume(str(path), read_only=True)

    def _directory(self, pod: core_v1.Pod, plugin: str, name: str) -> Path:
        return self._root / pod.metadata.uid / "volumes" / f"kubernetes.io~{plugin}" / name

    def _teardown(self, uid: str) -> None:
        directory = self._root / uid
        if not uid or not directory.exists():
            return
        for point in self._mounter.mounted_below(directory):
            self._mounter.unmount(point)
        left = self._mounter.mounted_below(directory)
        if left:  # removing files through a mount would remove what is not ours
            raise VolumeError("", f"{left[0]} is still mounted")
        shutil.rmtree(directory)


def _share(directory: Path, group: int | None) -> None:
    """Let containers of any user write there; what they make belongs to the group (fsGroup)."""
    if group is not None:
        os.chown(directory, -1, group)
    directory.chmod(0o777 if group is None else 0o2777)


def _kind(volume: core_v1.Volume) -> str:
    return next((name for name in volume.__struct_fields__ if name != "name" and getattr(volume, name) is not None),
                "none")
