"""Images from a folder: archives that `docker save` wrote are loaded, for nodes without a registry.

An archive is loaded when it is first seen and when it changes; one that is still being copied is left until it rests.
After a restart an uncompressed archive whose images are on the node is passed over: its manifest names them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.engine.protocol import Engine, EngineError, EngineUnavailable
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

INTERVAL = 10.0
"""Seconds between two looks."""
REST = 2.0
"""Seconds without a change after which a file counts as complete."""
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Archive:
    """A file as it was seen; `changed` is its modification time in seconds."""

    path: Path
    size: int
    changed: float


@dataclass(frozen=True, slots=True)
class Content:
    """One image of an archive: its id (``sha256:…``) and names."""

    id: str
    names: tuple[str, ...]


def due(found: Sequence[Archive], done: Sequence[Archive], now: float) -> list[Archive]:
    """Which of the archives are to be loaded now: new or changed, and at rest. A clock set back holds nothing up."""
    known = set(done)
    return [archive for archive in found if archive not in known and not 0 <= now - archive.changed < REST]


def look(folder: Path) -> list[Archive]:
    """The archives in the folder by name; none where there is no folder."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted(folder.iterdir()):
            if path.name.endswith(SUFFIXES) and path.is_file():
                stat = path.stat()
                found.append(Archive(path, stat.st_size, stat.st_mtime))
    return found


def content(path: Path) -> list[Content]:
    """What an uncompressed archive holds; nothing where that cannot be told without unpacking it."""
    import tarfile  # noqa: PLC0415 - only nodes with such a folder need it

    if path.suffix != ".tar":
        return []
    try:
        with tarfile.open(path, "r:") as tar:
            member = tar.extractfile(_MANIFEST)
            entries = json.load(member) if member else []
        return [Content(f"sha256:{Path(entry['Config']).name.removesuffix('.json')}", tuple(entry["RepoTags"] or ()))
                for entry in entries]
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError):
        return []  # Docker will say what is wrong with it


class ImageFolder:
    """Follows one folder."""

    def __init__(self, folder: Path, engine: Engine, clock: Clock) -> None:
        self._folder = folder
        self._engine = engine
        self._clock = clock
        self._done: dict[Path, Archive] = {}

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await self.reconcile()
            await self._clock.sleep(INTERVAL)

    async def reconcile(self) -> None:
        """Load what is due. An archive that Docker refuses is tried again once it has changed."""
        try:
            found = await asyncio.to_thread(look, self._folder)
        except OSError as error:
            log.warning("images in %s cannot be listed: %s", self._folder, error)
            return
        self._done = {archive.path: self._done[archive.path] for archive in found if archive.path in self._done}
        for archive in due(found, list(self._done.values()), self._clock.now().timestamp()):
            try:
                await self._load(archive)
            except EngineUnavailable as error:
                log.warning("images wait for Docker: %s", error)
                return
            except EngineError as error:
                log.warning("%s cannot be loaded: %s", archive.path, error)
            self._done[archive.path] = archive

    async def _load(self, archive: Archive) -> None:
        images = await asyncio.to_thread(content, archive.path)
        if images and all([await self._here(image) for image in images]):
            return
        log.info("loading images from %s", archive.path)
        await self._engine.load(archive.path)

    async def _here(self, image: Content) -> bool:
        """Whether the engine has that very image under all of its names."""
        for name in image.names or (image.id,):
            found = await self._engine.image(name)
            if found is None or found.id != image.id:
                return False
        return True
