"""Secrets encrypted at rest: a store around another one.

Values under the given prefixes are sealed with AES-256-GCM under one key, kept in a file beside the database. The key
path of the object is bound in, so a sealed value cannot be moved to another name. What is sealed is the value before
its revision is known: the slot is kept beside the ciphertext, and the revision spliced in when the value is read.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from master.store.common import splice
from master.store.files import sync_folder
from master.store.protocol import Change, Range, Record, RevisionConflict, Store, StoreError, Watch

MAGIC = b"\x00SE1"  # no JSON begins so: values from before encryption was turned on are told apart
HEADER = struct.Struct(">4s4sq")  # magic, the key's id, the slot or -1
NONCE = 12  # bytes
FILE_HEAD = "sampan-encryption-key-v1 "


class EncryptedStore:
    """See protocol.Store; all but the sealing is the inner store's."""

    def __init__(self, inner: Store, key: bytes, prefixes: Sequence[str]) -> None:
        """`key` has 32 bytes."""
        self._inner = inner
        self._prefixes = tuple(prefixes)
        self._cipher = AESGCM(key)
        self._key_id = hashlib.sha256(b"sampan key id" + key).digest()[:4]

    @classmethod
    async def open(cls, inner: Store, key_file: Path, prefixes: Sequence[str]) -> EncryptedStore:
        """With the key from the file, which is made if missing. StoreError if it is not the one used before."""
        store = cls(inner, load_key(key_file), prefixes)
        for prefix in prefixes:
            await store.range(prefix, limit=1)
        return store

    @property
    def revision(self) -> int:
        """The revision of the last commit."""
        return self._inner.revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read or watched from."""
        return self._inner.compacted

    async def get(self, key: str) -> Record | None:
        """The key as it is now."""
        record = await self._inner.get(key)
        return record and self._read(record, record.revision)

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        """Keys with a prefix."""
        result = await self._inner.range(prefix, start=start, limit=limit, revision=revision)
        return replace(result, records=[self._read(record, record.revision) for record in result.records])

    async def create(self, key: str, value: bytes, *, slot: int | None = None) -> Record:
        """Write a new key."""
        if not key.startswith(self._prefixes):
            return await self._inner.create(key, value, slot=slot)
        record = await self._inner.create(key, self._seal(key, value, slot))
        return replace(record, value=splice(value, slot, record.revision))

    async def update(self, key: str, value: bytes, *, expected: int, slot: int | None = None) -> Record:
        """Write a key whose revision is `expected`."""
        if not key.startswith(self._prefixes):
            return await self._inner.update(key, value, expected=expected, slot=slot)
        try:
            record = await self._inner.update(key, self._seal(key, value, slot), expected=expected)
        except RevisionConflict as conflict:
            raise self._read_conflict(conflict) from conflict
        return replace(record, value=splice(value, slot, record.revision))

    async def delete(self, key: str, *, expected: int) -> Record:
        """Remove a key whose revision is `expected`."""
        try:
            record = await self._inner.delete(key, expected=expected)
        except RevisionConflict as conflict:
            raise self._read_conflict(conflict) from conflict
        return self._read(record, expected)

    def watch(self, prefix: str, *, revision: int) -> Watch:
        """Commits after `revision`."""
        inner = self._inner.watch(prefix, revision=revision)
        sealed = prefix.startswith(self._prefixes) or any(own.startswith(prefix) for own in self._prefixes)
        return _OpeningWatch(inner, self) if sealed else inner

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`."""
        await self._inner.compact(revision)

    async def ping(self) -> None:
        """Ask the inner store."""
        await self._inner.ping()

    async def close(self) -> None:
        """Close the inner store."""
        await self._inner.close()

    def opened(self, change: Change) -> Change:
        """A change with its values readable."""
        record, previous = change.record, change.previous
        if not record.key.startswith(self._prefixes):
            return change
        return replace(
            change,
            record=self._read(record, change.previous_revision if change.deleted else record.revision),
            previous=None if previous is None else self._open(record.key, previous, change.previous_revision))

    def _read(self, record: Record, written: int) -> Record:
        """`written` is the revision of the value, which for a deleted record is older than the record's."""
        if not record.key.startswith(self._prefixes):
            return record
        return replace(record, value=self._open(record.key, record.value, written))

    def _read_conflict(self, conflict: RevisionConflict) -> RevisionConflict:
        return RevisionConflict(self._read(conflict.current, conflict.current.revision))

    def _seal(self, key: str, value: bytes, slot: int | None) -> bytes:
        header = HEADER.pack(MAGIC, self._key_id, -1 if slot is None else slot)
        nonce = os.urandom(NONCE)
        return header + nonce + self._cipher.encrypt(nonce, value, header + key.encode())

    def _open(self, key: str, sealed: bytes, revision: int) -> bytes:
        if not sealed.startswith(MAGIC):
            return sealed
        header, nonce = sealed[:HEADER.size], sealed[HEADER.size:HEADER.size + NONCE]
        try:
            _, key_id, slot = HEADER.unpack(header)
            if key_id != self._key_id:
                raise StoreError(f"{key} was encrypted with the key {key_id.hex()}, but the key file holds "
                                 f"{self._key_id.hex()}: put the right key file back")
            value = self._cipher.decrypt(nonce, sealed[HEADER.size + NONCE:], header + key.encode())
        except (InvalidTag, struct.error, ValueError) as error:
            raise StoreError(f"{key} cannot be decrypted: its value has been damaged, or belongs to another "
                             "object") from error
        return splice(value, None if slot < 0 else slot, revision)


class _OpeningWatch:
    """A watch whose changes are readable."""

    def __init__(self, inner: Watch, store: EncryptedStore) -> None:
        self._inner = inner
        self._store = store

    @property
    def progress(self) -> int:
        return self._inner.progress

    def __aiter__(self) -> _OpeningWatch:
        return self

    async def __anext__(self) -> Sequence[Change]:
        return [self._store.opened(change) for change in await self._inner.__anext__()]

    async def aclose(self) -> None:
        await self._inner.aclose()


def load_key(path: Path) -> bytes:
    """The key in a file, which is made, for its owner alone, if it is missing. StoreError if it is no key file."""
    try:
        if not path.exists():
            _make_key(path)
        if path.stat().st_mode & 0o077:
            raise StoreError(f"{path} can be read by others: chmod 600 it")
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the encryption key {path} cannot be read: {error}") from error
    try:
        key = base64.b64decode(text.removeprefix(FILE_HEAD).strip(), validate=True)
    except ValueError as error:
        raise StoreError(f"{path} is not an encryption key of this version") from error
    if not text.startswith(FILE_HEAD) or len(key) != 32:
        raise StoreError(f"{path} is not an encryption key of this version")
    return key


def _make_key(path: Path) -> None:
    """Whole or not at all, even if the power fails: a Secret must not outlive its key."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, f"{FILE_HEAD}{base64.b64encode(os.urandom(32)).decode()}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    draft.rename(path)
    sync_folder(path.parent)
