"""The embedded store: one SQLite database.

It is a log. Every write adds a row whose number is the revision; the newest row of a key is its value, the rows
before it are history until they are compacted. So watching and reading the past need nothing beside, and a write is
an append. Keys without history lose their old row in the same transaction.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from master.store.common import History, Unversioned, Write, check, future_revision, prefix_end, splice
from master.store.feed import Feed
from master.store.files import claim, size
from master.store.protocol import Change, Compacted, Range, Record, StoreError, Watch
from master.store.stats import StoreStats, Tally
from master.store.writer import Writer

T = TypeVar("T")
Synchronous = Literal["FULL", "OFF"]

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE log (
    revision INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    created INTEGER NOT NULL,   -- the revision of the key's first write
    previous INTEGER NOT NULL,  -- the revision of the key's write before this one, 0 for none
    deleted INTEGER NOT NULL,   -- 1: this write removed the key
    value BLOB                  -- last, so that the other columns are read without it
);
CREATE INDEX log_key ON log (key);
"""
# revision: the last commit's. compacted: the oldest revision that may be read. swept: up to here the rows that
# compaction makes superfluous have been removed.
META = {"version": SCHEMA_VERSION, "revision": 0, "compacted": 0, "swept": 0}

# The write-ahead log is copied into the database after so many bytes, sooner if nobody waits. Its file is then written
# over from the beginning, which is cheaper than making it longer again; it is cut only if it has become large.
CHECKPOINT_WHEN_IDLE = 4 << 20
CHECKPOINT_ALWAYS = 32 << 20
WAL_LARGE = 64 << 20
CHECKPOINT_PATIENCE = 100  # milliseconds that cutting the file may wait for a reader to be done with it
LOCK_PATIENCE = 5000  # milliseconds that a write may wait for somebody else's, such as a backup's
PAGE = 4096
UPKEEP_SECONDS = 0.005  # of compaction between two batches of writes
SWEEP_ROWS = 100  # looked at between two looks at the time
VACUUM_PAGES = 64  # given back to the file system between two batches of writes
VACUUM_FROM = 1024  # free pages (of 4 KiB) that are not worth giving back; nor is less than a quarter of the file
REPLAY_ROWS = 500


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's errors as the store's."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or type(error).__name__
        advice = {"SQLITE_FULL": ": the disk is full, make room on it",
                  "SQLITE_CORRUPT": ": the database is damaged, restore it from a backup",
                  "SQLITE_NOTADB": ": this is not a database, or it is damaged",
                  "SQLITE_READONLY": ": it may not be written, check its owner and mode",
                  "SQLITE_CANTOPEN": ": check that its folder exists and may be written"}.get(name, "")
        raise StoreError(f"{path}: {error} ({name}){advice}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # Every connection stays with one thread after it has been made. Transactions are begun and ended by hand.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False,
                                 timeout=LOCK_PATIENCE / 1000, cached_statements=64)
    connection.execute("PRAGMA cache_size = -4000")  # KiB
    return connection


def _meta(connection: sqlite3.Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT name, value FROM meta"))


class _Database:
    """The writing side (see writer.Backend): used by the writer's thread alone once it runs."""

    def __init__(self, path: Path, unversioned: Unversioned, synchronous: Synchronous, tally: Tally) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._unversioned = unversioned
        self._tally = tally
        self._connection = _connect(path)
        run = self._connection.execute
        run(f"PRAGMA page_size = {PAGE}")
        run("PRAGMA auto_vacuum = INCREMENTAL")  # has to come before the first table
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {synchronous}")
        run("PRAGMA wal_autocheckpoint = 0")  # upkeep does it, between commits instead of in one
        self._prepare_schema()
        meta = _meta(self._connection)
        self.revision, self.compacted, self._swept = meta["revision"], meta["compacted"], meta["swept"]
        self._vacuum_down_to: int | None = None
        self._unsaved = 0  # bytes in the write-ahead log since the last checkpoint, roughly
        self._checkpoint(cut=True)

    def _prepare_schema(self) -> None:
        run = self._connection.execute
        tables = {name for (name,) in run("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            self._connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", META.items())
            run("COMMIT")
            return
        version = _meta(self._connection).get("version") if "meta" in tables else None
        if version is None:
            raise StoreError(f"{self._path} is the database of something else")
        if version > SCHEMA_VERSION:
            raise StoreError(f"{self._path} has the format {version} of a newer Sampan; this one knows "
                             f"{SCHEMA_VERSION}: upgrade it, or restore a backup made before the upgrade")

    # Writes

    def commit(self, writes: Sequence[Write]) -> list[Change | StoreError]:
        """Do the writes in one durable transaction."""
        started = time.perf_counter()
        before = self.revision
        try:
            with self._transaction():
                results = [self._attempt(write) for write in writes]
                if self.revision > before:
                    self._set_meta("revision", self.revision)
        except BaseException:
            self.revision = before
            self._tally.failures += 1
            raise
        if self.revision > before:
            self._tally.committed(self.revision - before, time.perf_counter() - started)
        return results

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _attempt(self, write: Write) -> Change | StoreError:
        try:
            return self._apply(write)
        except StoreError as refusal:
            return refusal

    def _apply(self, write: Write) -> Change:
        current = _get(self._connection, write.key)
        check(write, current)
        revision = self.revision + 1
        created = current.created if current else revision
        previous = current.revision if current else 0
        stored = None if write.value is None else splice(write.value, write.slot, revision)
        kept = write.key not in self._unversioned
        if current and not kept:
            self._connection.execute("DELETE FROM log WHERE revision = ?", (previous,))
        self._unsaved += 2 * PAGE + len(stored or b"")
        if stored is not None or kept:
            self._connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)", (
                revision, write.key, created, previous if kept else 0, stored is None, stored))
        self.revision = revision
        value = stored if stored is not None else current.value if current else b""
        return Change(Record(write.key, value, revision, created), current.value if current else None, previous,
                      stored is None)

    def _set_meta(self, name: str, value: int) -> None:
        self._connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))

    # Housekeeping

    def compact(self, revision: int) -> None:
        """Refuse reads before `revision` from now on."""
        if revision > self.revision:
            raise future_revision(revision, self.revision)
        if revision > self.compacted:
            with self._transaction():
                self._set_meta("compacted", revision)
            self.compacted = revision

    def compaction_done(self) -> bool:
        """Whether all superfluous rows are gone, and their room is given back."""
        return self._swept >= self.compacted and self._vacuum_down_to is None

    def upkeep(self, *, idle: bool) -> bool:
        """A few milliseconds of checkpoint, compaction or vacuum."""
        if self._unsaved > (CHECKPOINT_WHEN_IDLE if idle else CHECKPOINT_ALWAYS):
            self._checkpoint(cut=size(self._wal) > WAL_LARGE)
        if self._swept < self.compacted:
            self._sweep()
        elif self._vacuum_down_to is not None:
            self._vacuum(self._vacuum_down_to)
        return not self.compaction_done()

    def _checkpoint(self, *, cut: bool) -> None:
        """Copy the write-ahead log into the database, as far as readers allow."""
        self._unsaved = 0
        run = self._connection.execute
        with _translated(self._path):
            run(f"PRAGMA busy_timeout = {CHECKPOINT_PATIENCE}")
            try:
                busy, _, _ = run(f"PRAGMA wal_checkpoint({'TRUNCATE' if cut else 'PASSIVE'})").fetchone()
            finally:
                run(f"PRAGMA busy_timeout = {LOCK_PATIENCE}")
        self._tally.checkpoints += not busy

    def _sweep(self) -> None:
        """Remove rows that nobody may read any more: those that a write up to `compacted` replaced, and deletions."""
        deadline = time.monotonic() + UPKEEP_SECONDS
        swept = self._swept
        with self._transaction():
            while swept < self.compacted:
                rows = self._connection.execute(
                    "SELECT revision, previous, deleted FROM log WHERE revision > ? AND revision <= ? "
                    "ORDER BY revision LIMIT ?", (swept, self.compacted, SWEEP_ROWS)).fetchall()
                gone = [(previous,) for _, previous, _ in rows if previous]
                gone += [(revision,) for revision, _, deleted in rows if deleted]
                self._connection.executemany("DELETE FROM log WHERE revision = ?", gone)
                self._unsaved += len(gone) * PAGE // 2
                swept = rows[-1][0] if len(rows) == SWEEP_ROWS else self.compacted
                if time.monotonic() > deadline:
                    break
            self._set_meta("swept", swept)
        self._swept = swept
        if swept >= self.compacted:
            self._plan_vacuum()

    def _plan_vacuum(self) -> None:
        with _translated(self._path):
            (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._tally.free_bytes = free * PAGE
        worth = max(VACUUM_FROM, pages // 4)
        self._vacuum_down_to = worth // 2 if free > worth else None

    def _vacuum(self, down_to: int) -> None:
        run = self._connection.execute
        with _translated(self._path):
            (before,) = run("PRAGMA freelist_count").fetchone()
            # `execute` would stop after the first page: this pragma gives a row without columns for each.
            self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")
            (free,) = run("PRAGMA freelist_count").fetchone()
        self._unsaved += VACUUM_PAGES * PAGE
        if free <= down_to or free >= before:
            self._vacuum_down_to = None

    def close(self) -> None:
        """Write the log back and close."""
        try:
            self._checkpoint(cut=True)
        except StoreError as error:
            log.warning("closing: %s", error)  # nothing is lost: the next start reads the log
        self._connection.close()


def _get(connection: sqlite3.Connection, key: str) -> Record | None:
    row = connection.execute("SELECT value, revision, created, deleted FROM log WHERE key = ? "
                             "ORDER BY revision DESC LIMIT 1", (key,)).fetchone()
    return None if row is None or row[3] else Record(key, *row[:3])


class _Reader:
    """The reading side: runs in the reader thread, in read transactions that see one revision."""

    def __init__(self, path: Path, unversioned: Unversioned) -> None:
        self._path = path
        self._unversioned = unversioned
        self._connection = _connect(path)
        self._connection.execute("PRAGMA query_only = 1")

    @contextmanager
    def _snapshot(self) -> Iterator[dict[str, int]]:
        with _translated(self._path):
            self._connection.execute("BEGIN")
            try:
                yield _meta(self._connection)
            finally:
                self._connection.execute("COMMIT")

    def get(self, key: str) -> Record | None:
        with _translated(self._path):
            return _get(self._connection, key)

    def range(self, prefix: str, start: str, limit: int, revision: int) -> Range:
        first, end = max(prefix, start), prefix_end(prefix)
        with self._snapshot() as meta:
            current = meta["revision"]
            revision = revision or current
            if revision > current:
                raise future_revision(revision, current)
            if revision < meta["compacted"]:
                raise Compacted(meta["compacted"])
            if revision < current and self._unversioned.history(prefix) is not History.KEPT:
                raise Compacted(current)
            records = [Record(*row) for row in self._connection.execute(
                "SELECT log.key, log.value, log.revision, log.created FROM "
                "(SELECT MAX(revision) AS newest FROM log WHERE key >= ? AND key < ? AND revision <= ? GROUP BY key)"
                " CROSS JOIN log ON log.revision = newest WHERE NOT log.deleted ORDER BY log.key LIMIT ?",
                (first, end, revision, limit or -1))]
            remaining = self._count(records[-1].key + "\0", end, revision) if limit and len(records) == limit else 0
        return Range(records, revision, remaining > 0, remaining)

    def _count(self, first: str, end: str, revision: int) -> int:
        (count,) = self._connection.execute(
            "SELECT COUNT(*) FROM (SELECT MAX(revision) AS newest FROM log WHERE key >= ? AND key < ? "
            "AND revision <= ? GROUP BY key) CROSS JOIN log ON log.revision = newest WHERE NOT log.deleted",
            (first, end, revision)).fetchone()
        return int(count)

    def history(self, prefix: str, after: int, until: int) -> tuple[Sequence[Change], int]:
        """Some changes after one revision and up to another, and how far they reach."""
        with self._snapshot() as meta:
            if after < meta["compacted"]:
                raise Compacted(meta["compacted"])
            # The plus keeps SQLite from walking the index on keys: the rows are wanted in the order of revisions.
            rows = self._connection.execute(
                "SELECT log.key, log.value, log.revision, log.created, before.value, log.previous, log.deleted "
                "FROM log LEFT JOIN log AS before ON before.revision = log.previous "
                "WHERE log.revision > ? AND log.revision <= ? AND +log.key >= ? AND +log.key < ? "
                "ORDER BY log.revision LIMIT ?",
                (after, until, prefix, prefix_end(prefix), REPLAY_ROWS)).fetchall()
        changes = [Change(Record(key, before if deleted else value, revision, created), before, previous,
                          bool(deleted)) for key, value, revision, created, before, previous, deleted in rows]
        return changes, changes[-1].record.revision if len(changes) == REPLAY_ROWS else until

    def close(self) -> None:
        self._connection.close()


class SqliteStore:
    """See protocol.Store. Made by `open`."""

    def __init__(self, path: Path, database: _Database, reader: _Reader, lock: int, unversioned: Unversioned,
                 tally: Tally, watch_buffer: int) -> None:
        self._path = path
        self._database = database
        self._reader = reader
        self._lock = lock
        self._tally = tally
        self._threads = ThreadPoolExecutor(1, "store-reader")
        self._feed = Feed(unversioned, database.revision, self._history, buffer=watch_buffer, recent=1_000)
        self._writer = Writer("store-writer", database, self._feed.publish)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, *, unversioned: Sequence[str] = (), synchronous: Synchronous = "FULL",
                   watch_buffer: int = 10_000) -> SqliteStore:
        """Open the database, or make it. StoreError: in use, of a newer version, damaged, not to be written.

        `synchronous` OFF does not wait for the disk, so that a power cut loses acknowledged writes: it is there for
        the test that shows that FULL does not. `watch_buffer` is how many changes a watch may be behind.
        """
        prefixes = Unversioned(tuple(unversioned))
        tally = Tally()
        database, reader, lock = await asyncio.to_thread(_open, path, prefixes, synchronous, tally)
        return cls(path, database, reader, lock, prefixes, tally, watch_buffer)

    @property
    def revision(self) -> int:
        """The revision of the last commit."""
        return self._feed.revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can be read or watched from."""
        return self._database.compacted

    async def get(self, key: str) -> Record | None:
        """The key as it is now."""
        return await self._read(lambda: self._reader.get(key))

    async def range(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Range:
        """Keys with a prefix."""
        return await self._read(lambda: self._reader.range(prefix, start, limit, revision))

    async def create(self, key: str, value: bytes, *, slot: int | None = None) -> Record:
        """Write a new key."""
        return await self._writer.write(Write(key, value, None, slot))

    async def update(self, key: str, value: bytes, *, expected: int, slot: int | None = None) -> Record:
        """Write a key whose revision is `expected`."""
        return await self._writer.write(Write(key, value, expected, slot))

    async def delete(self, key: str, *, expected: int) -> Record:
        """Remove a key whose revision is `expected`."""
        return await self._writer.write(Write(key, None, expected))

    def watch(self, prefix: str, *, revision: int) -> Watch:
        """Commits after `revision`."""
        return self._feed.watch(prefix, revision)

    async def compact(self, revision: int) -> None:
        """Forget history before `revision`, a few milliseconds at a time, between writes."""
        await self._writer.compact(revision)

    async def ping(self) -> None:
        """Return once the writer's thread has answered."""
        await self._writer.ping()

    async def close(self) -> None:
        """Finish what is being written, then stop."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        self._feed.close()
        await asyncio.to_thread(self._threads.shutdown)
        self._reader.close()
        os.close(self._lock)

    def stats(self) -> StoreStats:
        """The figures now."""
        return self._tally.stats(revision=self.revision, compacted=self.compacted, database_bytes=size(self._path),
                                 wal_bytes=size(self._path.with_name(self._path.name + "-wal")))

    async def _history(self, prefix: str, after: int, until: int) -> tuple[Sequence[Change], int]:
        return await self._read(lambda: self._reader.history(prefix, after, until))

    async def _read(self, read: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)


def _open(path: Path, unversioned: Unversioned, synchronous: Synchronous,
          tally: Tally) -> tuple[_Database, _Reader, int]:
    if synchronous not in ("FULL", "OFF"):
        raise StoreError(f"synchronous is FULL or OFF, not {synchronous}")
    lock = claim(path)
    try:
        with _translated(path):
            database = _Database(path, unversioned, synchronous, tally)
            return database, _Reader(path, unversioned), lock
    except StoreError:
        os.close(lock)
        raise
