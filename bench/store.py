"""Durable writes of the store, and reads and watches of the cache above it, beside plain SQLite in the same run.

    python bench/store.py [--folder /var/lib/somewhere] [--seconds 3]

The floor is one row a transaction with the same settings (WAL, synchronous=FULL), from one thread, with nothing
around it: what the disk allows to a client that waits for each write. Disks and neighbours are moody, so floor and
store take turns, and the medians are shown.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from master.apiserver import keys
from master.apiserver.cache import CacheWatch, ResourceCache
from master.store.sqlite import SqliteStore
from sampan.api.resources import PODS
from sampan.loop.clock import SystemClock

PODS_COUNT = 5_000
WATCHERS = 200
ROUNDS = 5


def pod(number: int) -> tuple[bytes, int]:
    """A pod of about 3 KB, as a small Deployment makes them, and its revision's slot; one in ten has tier=front."""
    name = f"web-{number % 50}-{number:06}"
    tree = {
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {
            "name": name, "namespace": f"team-{number % 20}", "uid": f"00000000-0000-4000-8000-{number:012}",
            "resourceVersion": "", "creationTimestamp": "2026-01-01T00:00:00Z", "generateName": "web-",
            "labels": {"app": f"web-{number % 50}", "tier": "front" if number % 10 == 0 else "back"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1",
                                 "controller": True, "blockOwnerDeletion": True}]},
        "spec": {
            "containers": [{
                "name": f"main-{index}", "image": "registry.example/web:1.2.3", "imagePullPolicy": "IfNotPresent",
                "env": [{"name": f"VARIABLE_{n}", "value": f"value {n}"} for n in range(8)],
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"},
                                  "periodSeconds": 10, "timeoutSeconds": 1, "failureThreshold": 3}}
                for index in range(2)],
            "nodeName": f"node-{number % 100}", "restartPolicy": "Always", "serviceAccountName": "default",
            "tolerations": [{"key": f"node.kubernetes.io/{why}", "operator": "Exists", "effect": "NoExecute",
                             "tolerationSeconds": 300} for why in ("not-ready", "unreachable")]},
        "status": {
            "phase": "Running", "podIP": "10.244.1.2", "hostIP": "192.0.2.1", "qosClass": "Burstable",
            "conditions": [{"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
                           for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")]},
    }
    raw = json.dumps(tree, separators=(",", ":")).encode()
    mark = b'"resourceVersion":"'
    return raw, raw.index(mark) + len(mark)


def key(number: int, kind: str = "bench") -> str:
    """Where a written object lies."""
    return f"/registry/{kind}/{number:08}"


def floor(folder: Path, seconds: float) -> float:
    """Plain SQLite: durable transactions a second, a pod each."""
    connection = sqlite3.connect(folder / "floor.db", isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE IF NOT EXISTS log (revision INTEGER PRIMARY KEY, key TEXT, value BLOB)")
    raw, count, start = pod(0)[0], 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO log (key, value) VALUES (?, ?)", (key(count), raw))
        connection.execute("COMMIT")
        count += 1
    rate = count / (time.perf_counter() - start)
    connection.close()
    return rate


async def writes(store: SqliteStore, kind: str, clients: int, seconds: float) -> tuple[float, float]:
    """Creates a second of so many clients, each waiting for its last before the next; and their median in ms."""
    raw, slot = pod(0)
    times: list[float] = []
    start = time.perf_counter()

    async def client(number: int) -> None:
        count = 0
        while (began := time.perf_counter()) - start < seconds:
            await store.create(f"/registry/{kind}/{number}/{count}", raw, slot=slot)
            times.append(time.perf_counter() - began)
            count += 1

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
    return len(times) / (time.perf_counter() - start), statistics.median(times) * 1000


async def batches(store: SqliteStore, size: int, seconds: float) -> float:
    """Creates a second, handed over so many at a time."""
    raw, slot = pod(0)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        await asyncio.gather(*(store.create(key(count + n, "batch"), raw, slot=slot) for n in range(size)))
        count += size
    return count / (time.perf_counter() - start)


async def timed(work: Callable[[], Awaitable[object]], times: int = 20) -> float:
    """The median of several runs, in milliseconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


async def lists(cache: ResourceCache) -> None:
    """Reads of 5,000 pods."""
    async def whole() -> None:
        (await cache.list()).encode("v1", "PodList")

    async def labelled() -> None:
        found = await cache.list(match=lambda entry: entry.labels.get("tier") == "front")
        assert len(found.entries) == PODS_COUNT // 10
        found.encode("v1", "PodList")

    async def namespaced() -> None:
        found = await cache.list("team-3")
        assert len(found.entries) == PODS_COUNT // 20
        found.encode("v1", "PodList")

    size = len((await cache.list()).encode("v1", "PodList")) / 1e6
    start = time.perf_counter()
    await labelled()
    first = (time.perf_counter() - start) * 1000
    print(f"LIST of {PODS_COUNT} pods, {size:.0f} MB of JSON     {await timed(whole):8.2f} ms")
    print(f"LIST of 500 of them by label         {await timed(labelled):8.2f} ms   (the first time {first:.1f} ms)")
    print(f"LIST of one namespace of 250         {await timed(namespaced):8.2f} ms")


async def pages(cache: ResourceCache, change: Callable[[], Awaitable[object]]) -> None:
    """All pods in pages of 500, with a write between any two."""
    start = time.perf_counter()
    token, found = "", 0
    while True:
        page = await cache.list(limit=500, continue_token=token)
        page.encode("v1", "PodList")
        found, token = found + len(page.entries), page.continue_token
        if not token:
            break
        await change()
    assert found == PODS_COUNT
    print(f"LIST in pages of 500, a write between {(time.perf_counter() - start) * 1000:7.2f} ms")


async def watches(cache: ResourceCache, change: Callable[[], Awaitable[object]], rate: int, seconds: float) -> None:
    """The delay from the call to write to the event in each of 200 watches, and the CPU time that it takes."""
    written: dict[int, float] = {}
    delays: list[float] = []

    async def reader(watch: CacheWatch) -> None:
        async for events in watch:
            now = time.perf_counter()
            delays.extend(now - written[event.revision] for event in events if event.revision in written)

    watchers = [await cache.watch(str(cache.revision)) for _ in range(WATCHERS)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(reader(watch)) for watch in watchers]
        used = time.process_time()
        for _ in range(int(rate * seconds)):
            start = time.perf_counter()
            written[cache.revision + 1] = start
            await change()
            await asyncio.sleep(max(0.0, 1 / rate - (time.perf_counter() - start)))
        used = time.process_time() - used
        for task in tasks:
            task.cancel()
    for watch in watchers:
        await watch.aclose()
    delays.sort()
    print(f"{WATCHERS} watches at {rate} writes/s: delay       {delays[len(delays) // 2] * 1000:8.2f} ms median, "
          f"{delays[len(delays) * 99 // 100] * 1000:.2f} ms p99, {used / seconds * 100:.1f} % of a core, "
          f"{len(delays)} events")


async def cached(store: SqliteStore, seconds: float) -> None:
    """Reads and watches above the store."""
    for begin in range(0, PODS_COUNT, 500):
        await asyncio.gather(*(create_pod(store, number) for number in range(begin, begin + 500)))
    gc.collect()
    cache = ResourceCache(PODS, store, SystemClock())

    raw, slot = pod(0)
    where = keys.key(PODS, "team-0", "web-0-000000")

    async def change() -> None:
        entry = cache.peek("team-0", "web-0-000000")
        assert entry is not None
        await cache.wait_for((await store.update(where, raw, expected=entry.revision, slot=slot)).revision)

    async with asyncio.TaskGroup() as group:
        start = time.perf_counter()
        task = group.create_task(cache.run())
        await cache.list()
        print(f"cache filled with {PODS_COUNT} pods            {(time.perf_counter() - start) * 1000:8.2f} ms")
        await lists(cache)
        await pages(cache, change)
        await watches(cache, change, 20, seconds)
        task.cancel()


async def create_pod(store: SqliteStore, number: int) -> None:
    """Write a pod where pods lie."""
    raw, slot = pod(number)
    await store.create(keys.key(PODS, f"team-{number % 20}", f"web-{number % 50}-{number:06}"), raw, slot=slot)


async def compaction(store: SqliteStore, seconds: float) -> None:
    """How long a lone writer waits while history is being removed."""
    raw, slot = pod(0)
    record = await store.create("/registry/compacted/a", raw, slot=slot)
    task = asyncio.ensure_future(store.compact(store.revision))
    worst, end = 0.0, time.perf_counter() + seconds
    while not task.done() or time.perf_counter() < end:
        start = time.perf_counter()
        record = await store.update(record.key, raw, expected=record.revision, slot=slot)
        worst = max(worst, time.perf_counter() - start)
    await task
    print(f"slowest write during a compaction    {worst * 1000:8.2f} ms")


async def measure(folder: Path, seconds: float) -> None:
    """All of it."""
    store = await SqliteStore.open(folder / "store.db")
    print(f"an object has {len(pod(0)[0])} bytes")
    await write_rates(store, folder, seconds)
    await cached(store, seconds)
    await compaction(store, seconds)
    stats = store.stats()
    await store.close()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"a commit takes {stats.commit_seconds / stats.commits * 1000:.2f} ms (mean), "
          f"{stats.checkpoints} checkpoints, peak RSS {memory:.0f} MB")


async def write_rates(store: SqliteStore, folder: Path, seconds: float) -> None:
    """Writes a second, and the floor."""
    rates: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {}
    for turn in range(ROUNDS):
        rates.setdefault("floor: plain SQLite, one by one", []).append(floor(folder, seconds / ROUNDS))
        for clients in (1, 32):
            name = f"store, {clients} client" + "s" * (clients > 1)
            rate, median = await writes(store, f"clients-{clients}-{turn}", clients, seconds / ROUNDS)
            rates.setdefault(name, []).append(rate)
            waits.setdefault(name, []).append(median)
        for size in (100, 1000):
            rate = await batches(store, size, seconds / ROUNDS)
            rates.setdefault(f"store, {size} at once", []).append(rate)
            await clear(store)
        await store.compact(store.revision)
    base = statistics.median(next(iter(rates.values())))
    for name, found in rates.items():
        rate = statistics.median(found)
        wait = f", {statistics.median(waits[name]):.2f} ms each" if name in waits else ""
        print(f"{name:36} {rate:8.0f} writes/s  {rate / base:5.2f} of the floor{wait}")


async def clear(store: SqliteStore) -> None:
    """Delete what the batches wrote."""
    while found := (await store.range("/registry/batch/", limit=1000)).records:
        await asyncio.gather(*(store.delete(record.key, expected=record.revision) for record in found))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write; it is the disk that is measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        asyncio.run(measure(Path(folder), arguments.seconds))


if __name__ == "__main__":
    main()
