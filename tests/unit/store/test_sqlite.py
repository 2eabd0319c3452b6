"""What is SQLite's own: commits together, housekeeping, refusals, files."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from master.store import sqlite
from master.store.protocol import KeyExists, StoreError
from master.store.sqlite import SqliteStore
from master.store.stats import COMMIT_BUCKETS

EVENTS = "/events/"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, unversioned=[EVENTS])
    yield store
    await store.close()


def query(path: Path, statement: str, *parameters: Any) -> list[Any]:
    """Look into the database, or change it, from outside."""
    connection = sqlite3.connect(path)
    try:
        with connection:
            return connection.execute(statement, parameters).fetchall()
    finally:
        connection.close()


async def churn(store: SqliteStore, count: int, size: int = 100) -> int:
    """Write one key over and over; returns its revision."""
    record = await store.create("/churn", b"")
    for _ in range(count):
        record = await store.update("/churn", b"x" * size, expected=record.revision)
    return record.revision


async def test_the_settings(store: SqliteStore, path: Path) -> None:
    assert query(path, "PRAGMA journal_mode") == [("wal",)]
    assert query(path, "PRAGMA auto_vacuum") == [(2,)]
    assert store._database._connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_synchronous_off_is_there_for_tests(path: Path) -> None:
    store = await SqliteStore.open(path, synchronous="OFF")
    assert store._database._connection.execute("PRAGMA synchronous").fetchone() == (0,)
    await store.close()
    with pytest.raises(StoreError, match="FULL or OFF"):
        await SqliteStore.open(path, synchronous="NORMAL")  # type: ignore[arg-type]


async def test_all_is_there_after_reopening(path: Path) -> None:
    store = await SqliteStore.open(path, unversioned=[EVENTS])
    first = await store.create("/a", b"one")
    second = await store.update("/a", b"two", expected=first.revision)
    event = await store.create(EVENTS + "a", b"event")
    await store.compact(1)
    await store.close()
    store = await SqliteStore.open(path, unversioned=[EVENTS])
    assert (store.revision, store.compacted) == (3, 1)
    assert (await store.range("/")).records == [second, event]
    assert (await store.range("/a", revision=1)).records == [first]
    async with aclosing(store.watch("/a", revision=1)) as watch:
        assert [change.record for change in await watch.__anext__()] == [second]
    await store.close()


async def test_a_deleted_key_without_history_keeps_the_revision_alive(path: Path) -> None:
    store = await SqliteStore.open(path, unversioned=[EVENTS])
    event = await store.create(EVENTS + "a", b"")
    await store.delete(EVENTS + "a", expected=event.revision)
    await store.close()
    assert query(path, "SELECT COUNT(*) FROM log") == [(0,)]
    store = await SqliteStore.open(path, unversioned=[EVENTS])
    assert (await store.create("/b", b"")).revision == 3
    await store.close()


async def test_waiting_writes_share_commits(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.create(f"/{number}", b"")) for number in range(200)]
    assert sorted(task.result().revision for task in tasks) == list(range(1, 201))
    stats = store.stats()
    assert stats.writes == 200
    assert stats.commits < 20
    assert sum(stats.commit_counts) == stats.commits
    assert len(stats.commit_counts) == len(COMMIT_BUCKETS) + 1
    assert stats.commit_seconds > 0
    assert stats.database_bytes > 0
    assert stats.wal_bytes > 0
    assert (stats.revision, stats.compacted, stats.failures) == (200, 0, 0)


async def test_one_refused_write_does_not_harm_those_that_share_its_commit(store: SqliteStore) -> None:
    results = await asyncio.gather(*(store.create(f"/{number // 2}", b"") for number in range(20)),
                                   return_exceptions=True)
    assert [isinstance(result, KeyExists) for result in results] == [False, True] * 10
    assert store.revision == 10


async def test_a_writer_that_is_cancelled_leaves_the_others_alone(store: SqliteStore) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(store.create(f"/{number}", b"")) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
    assert tasks[0].result().revision == 1
    assert tasks[2].result().revision == 3


async def test_revisions_have_64_bits(path: Path) -> None:
    await (await SqliteStore.open(path)).close()
    for start in (2**31, 2**53):
        query(path, "UPDATE meta SET value = ? WHERE name = 'revision'", start)
        store = await SqliteStore.open(path)
        record = await store.create(f"/{start}", b"-", slot=0)
        assert record.revision == start + 1
        async with aclosing(store.watch("/", revision=start)) as watch:
            assert (await watch.__anext__())[0].record == record
        await store.compact(start)
        await store.close()
    assert query(path, "SELECT value FROM log") == [(b"%d-" % (2**31 + 1),), (b"%d-" % (2**53 + 1),)]


async def test_compaction_removes_rows(store: SqliteStore, path: Path) -> None:
    last = await churn(store, 50)
    gone = await store.create("/gone", b"")
    await store.delete("/gone", expected=gone.revision)
    await store.compact(store.revision)
    assert query(path, "SELECT revision FROM log") == [(last,)]


async def test_an_interrupted_compaction_is_finished_after_the_start(path: Path) -> None:
    store = await SqliteStore.open(path)
    last = await churn(store, 20)
    await store.close()
    query(path, "UPDATE meta SET value = ? WHERE name = 'compacted'", last)
    store = await SqliteStore.open(path)
    await store.compact(1)  # returns when there is nothing left to remove
    assert query(path, "SELECT revision FROM log") == [(last,)]
    await store.close()


async def test_a_writer_that_is_stuck_does_not_answer(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release, commit = threading.Event(), threading.Event(), store._database.commit

    def stuck(writes: Any) -> Any:
        begun.set()
        release.wait(60)
        return commit(writes)

    monkeypatch.setattr(store._database, "commit", stuck)
    writing = asyncio.create_task(store.create("/a", b""))
    await asyncio.to_thread(begun.wait, 60)
    answer = asyncio.create_task(store.ping())
    done, _ = await asyncio.wait([answer], timeout=0.1)
    release.set()
    await asyncio.gather(writing, answer)
    assert not done


async def test_writes_go_on_during_a_compaction(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    last = await churn(store, 300)
    monkeypatch.setattr(sqlite, "UPKEEP_SECONDS", 0)
    monkeypatch.setattr(sqlite, "SWEEP_ROWS", 10)
    order: list[str] = []

    async def note(name: str, work: Any) -> None:
        await work
        order.append(name)

    async with asyncio.TaskGroup() as group:
        group.create_task(note("compaction", store.compact(last)))
        for _ in range(3):
            await store.create(f"/{len(order)}{_}", b"")
            order.append("write")
    assert order == ["write", "write", "write", "compaction"]


async def test_the_write_ahead_log_is_written_back_and_over(
        store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKPOINT_WHEN_IDLE", "CHECKPOINT_ALWAYS"):  # whether anybody waits is a matter of chance
        monkeypatch.setattr(sqlite, name, 100_000)
    before = store.stats().checkpoints
    await churn(store, 100, size=10_000)
    assert store.stats().checkpoints > before
    assert 100_000 < store.stats().wal_bytes < 600_000, "a megabyte went through it"
    await store.close()
    assert not path.with_name("store.db-wal").exists()


async def test_a_large_write_ahead_log_is_cut_once_no_reader_needs_it(
        store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKPOINT_WHEN_IDLE", "CHECKPOINT_ALWAYS"):  # whether anybody waits is a matter of chance
        monkeypatch.setattr(sqlite, name, 100_000)
    monkeypatch.setattr(sqlite, "CHECKPOINT_PATIENCE", 1)
    monkeypatch.setattr(sqlite, "WAL_LARGE", 200_000)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM meta").fetchall()
    revision = await churn(store, 50, size=10_000)
    assert store.stats().wal_bytes > 500_000
    reader.close()
    for _ in range(20):
        revision = (await store.update("/churn", b"x" * 10_000, expected=revision)).revision
    assert store.stats().wal_bytes < 300_000


async def test_free_space_is_given_back(store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "VACUUM_FROM", 50)
    await churn(store, 300, size=20_000)
    store._database._checkpoint(cut=True)
    before = path.stat().st_size
    bites = Mock(wraps=store._database._vacuum)
    monkeypatch.setattr(store._database, "_vacuum", bites)
    await store.compact(store.revision)
    assert store.stats().free_bytes > 5_000_000
    assert bites.call_count < 40  # of many pages each
    await store.close()
    assert path.stat().st_size < before / 2


async def test_a_full_disk_loses_nothing_and_passes(store: SqliteStore) -> None:
    first = await store.create("/a", b"one")
    pages = store._database._connection.execute("PRAGMA page_count").fetchone()[0]
    store._database._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"SQLITE_FULL\): the disk is full"):
        await store.create("/big", b"x" * 1_000_000)
    assert store.revision == 1
    assert store.stats().failures == 1
    store._database._connection.execute("PRAGMA max_page_count = 1000000")
    assert (await store.create("/big", b"x" * 1_000_000)).revision == 2
    assert await store.get("/a") == first


async def test_a_fault_of_ours_reaches_the_caller(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store._database, "_apply", Mock(side_effect=ZeroDivisionError("on purpose")))
        with pytest.raises(StoreError, match="on purpose"):
            await store.create("/a", b"")
    assert (await store.create("/a", b"")).revision == 1


def _newer(path: Path) -> None:
    query(path, "UPDATE meta SET value = 2 WHERE name = 'version'")


def _foreign(path: Path) -> None:
    path.unlink()
    query(path, "CREATE TABLE cats (name)")


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


@pytest.mark.parametrize(("spoil", "message"), [
    (_newer, "has the format 2 of a newer Sampan; this one knows 1: upgrade it"),
    (_foreign, "is the database of something else"),
    (_garbage, "this is not a database, or it is damaged"),
])
async def test_databases_that_are_refused(path: Path, spoil: Callable[[Path], None], message: str) -> None:
    await (await SqliteStore.open(path)).close()
    spoil(path)
    with pytest.raises(StoreError, match=message):
        await SqliteStore.open(path)


@pytest.mark.usefixtures("store")
async def test_a_second_master_is_refused(path: Path) -> None:
    with pytest.raises(StoreError, match="is in use by another process"):
        await SqliteStore.open(path)


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="File exists"):
        await SqliteStore.open(tmp_path / "file" / "store.db")
