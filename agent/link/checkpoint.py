"""The view on disk, so that a node restarted without its master knows its pods.

The file is one JSON document a line: a header with format, version and number of objects, then one object a line,
then a line with the SHA-256 of all before it. It is written aside, synced and renamed, mode 0600. Secrets' objects
are encrypted with a key that lies beside it (AES-256-GCM): a backup of the one without the other gives nothing away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from agent.link.view import Entry, View
from sampan.api import codec, resources
from sampan.loop.clock import Clock
from sampan.nodeline import Key
from sampan.pki.files import write_atomically

if TYPE_CHECKING:  # 6 MB that a node without Secrets does not need
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

log = logging.getLogger(__name__)

FORMAT = "sampan-checkpoint"
VERSION = 1
_NONCE = 12
_KEY_BYTES = 32


class CheckpointTooNew(Exception):
    """A newer agent wrote the file: this one must not guess at it, nor overwrite it."""


class _Corrupt(Exception):
    """The file is not what was written."""


class Checkpoint:
    """The file and its key, in one directory that only root reads."""

    def __init__(self, directory: Path, node: str) -> None:
        self.path = directory / "checkpoint.json"
        self._key_path = directory / "checkpoint.key"
        self._node = node

    def save(self, entries: Iterable[Entry]) -> None:
        """Replace the file; OSError where the disk refuses."""
        cipher = cache(self._cipher)
        lines = [msgspec.json.encode(_line(entry, cipher)) for entry in entries]
        header = {"format": FORMAT, "version": VERSION, "node": self._node, "objects": len(lines)}
        body = b"\n".join([msgspec.json.encode(header), *lines]) + b"\n"
        write_atomically(self.path, body + hashlib.sha256(body).hexdigest().encode() + b"\n", 0o600)

    def load(self, view: View) -> bool:
        """Fill the view; False where there is nothing to go by. A damaged file is put aside; CheckpointTooNew."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        try:
            objects = self._read(data)
        except (_Corrupt, msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
            aside = self.path.with_name(f"{self.path.name}.corrupt")
            self.path.replace(aside)
            log.warning("the checkpoint %s is damaged (%s): ignored, and kept as %s", self.path, error, aside.name)
            return False
        for key, uid, revision, payload in objects:
            view.put(key, uid, revision, payload)
        return True

    def _read(self, data: bytes) -> Sequence[tuple[Key, str, str, bytes]]:
        body, _, digest = data.removesuffix(b"\n").rpartition(b"\n")
        body += b"\n"
        header = _tree(data.partition(b"\n")[0])
        if header.get("format") != FORMAT:
            raise _Corrupt("it has no header")
        if int(header["version"]) > VERSION:
            raise CheckpointTooNew(f"{self.path} was written by a newer agent (format {header['version']}, this one "
                                   f"reads up to {VERSION}): install that version, or remove the file")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise _Corrupt("its checksum is wrong")
        if header.get("node") != self._node:
            raise _Corrupt(f"it is of node {header.get('node')!r}")
        cipher = cache(self._cipher)
        return [_object(_tree(line), cipher) for line in body.splitlines()[1:]]

    def _cipher(self) -> AESGCM:
        """With the key beside the checkpoint, which is made with the first Secret."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - as above

        try:
            key = self._key_path.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) != _KEY_BYTES:
            key = AESGCM.generate_key(bit_length=_KEY_BYTES * 8)
            write_atomically(self._key_path, key, 0o600)
        return AESGCM(key)


def _tree(line: bytes) -> dict[str, Any]:
    return msgspec.json.decode(line, type=dict[str, Any])


def _line(entry: Entry, cipher: Callable[[], AESGCM]) -> dict[str, Any]:
    line: dict[str, Any] = {"key": list(entry.key), "uid": entry.uid, "revision": entry.revision}
    payload = codec.encode(entry.object)
    if entry.key.resource != resources.SECRETS.key:
        return line | {"object": msgspec.Raw(payload)}
    nonce = os.urandom(_NONCE)
    return line | {"sealed": b64encode(nonce + cipher().encrypt(nonce, payload, str(entry.key).encode())).decode()}


def _object(line: dict[str, Any], cipher: Callable[[], AESGCM]) -> tuple[Key, str, str, bytes]:
    key = Key(*line["key"])
    if "sealed" not in line:
        return key, line["uid"], line["revision"], msgspec.json.encode(line["object"])
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - as above

    sealed = b64decode(line["sealed"])
    try:
        payload = cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], str(key).encode())
    except InvalidTag as error:
        raise _Corrupt(f"{key} was sealed with another key") from error
    return key, line["uid"], line["revision"], payload


class CheckpointWriter:
    """Saves the view soon after it changed, but never busies the disk: saving takes at most a tenth of the time."""

    def __init__(self, checkpoint: Checkpoint, view: View, clock: Clock, *, delay: float = 0.5) -> None:
        """`delay` is how many seconds changes are gathered at least."""
        self._checkpoint = checkpoint
        self._view = view
        self._clock = clock
        self._delay = delay
        self._turn = threading.Lock()  # a save that outlives its cancellation comes before the last one

    async def run(self) -> None:
        """Until cancelled; what has changed by then is saved once more."""
        pause = self._delay
        try:
            while True:
                await self._view.changed.wait()
                await self._clock.sleep(pause)
                started = self._clock.monotonic()
                await self._save()
                pause = max(self._delay, 9 * (self._clock.monotonic() - started))
        finally:
            if self._view.changed.is_set():
                self._try_to_save(list(self._view.entries()))

    async def _save(self) -> None:
        self._view.changed.clear()
        entries, saved = list(self._view.entries()), False
        try:
            saved = await asyncio.to_thread(self._try_to_save, entries)
        finally:
            if not saved:  # or not known to be, where we are cancelled
                self._view.changed.set()
        if not saved:
            await self._clock.sleep(5.0)

    def _try_to_save(self, entries: Sequence[Entry]) -> bool:
        try:
            with self._turn:
                self._checkpoint.save(entries)
        except OSError as error:
            log.warning("the checkpoint could not be saved: %s", error)
            return False
        return True
