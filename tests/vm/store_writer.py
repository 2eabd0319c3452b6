"""Write to a store without end and print each revision once it is acknowledged; or check that none of them is missing.

Whoever runs it cuts the power, or kills it, at any moment, and then checks the database against what was printed:

    python store_writer.py write /var/lib/test/store.db --synchronous FULL   prints a line per write
    python store_writer.py check /var/lib/test/store.db < printed            exits 1 and says what is missing

Every write's value repeats a digest of its key and number, so that a half-written one is seen. A line that was cut
short itself is left out of the check.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from master.store.protocol import Record, StoreError
from master.store.sqlite import SqliteStore

PREFIX = "/registry/test/"
KEEP = 200  # keys of a writer; then it goes over them again, updating and deleting


def value_of(key: str, number: int) -> bytes:
    """A few kilobytes that nothing else can have."""
    digest = hashlib.sha256(f"{key}:{number}".encode()).hexdigest()
    return f"{number}:{digest * 32}".encode()


def whole(record: Record) -> bool:
    """Whether the value is one that was written, from beginning to end."""
    number, _, _ = record.value.partition(b":")
    return number.isdigit() and record.value == value_of(record.key, int(number))


async def write(path: Path, synchronous: str, writers: int, seconds: float) -> None:
    """Several writers at once, so that group commits are cut as well; each changes its own keys."""
    store = await SqliteStore.open(path, synchronous="OFF" if synchronous == "OFF" else "FULL")
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds if seconds else None
    start = store.revision  # keys of an earlier run stay as they are

    async def run(writer: int) -> None:
        number = 0
        revisions: dict[str, int] = {}
        while end is None or loop.time() < end:
            key = f"{PREFIX}{start}-{writer}/{number % KEEP}"
            if key not in revisions:
                revisions[key] = (await store.create(key, value_of(key, number))).revision
            elif number % 7:
                revisions[key] = (await store.update(key, value_of(key, number), expected=revisions[key])).revision
            else:
                print(key, "-", flush=True)
                gone = await store.delete(key, expected=revisions.pop(key))
                print(key, "-", gone.revision, flush=True)
            if key in revisions:
                print(key, revisions[key], flush=True)
            number += 1

    async def compact() -> None:
        while end is None or loop.time() < end:
            await asyncio.sleep(0.2)
            await store.compact(max(store.compacted, store.revision - 300))

    async with asyncio.TaskGroup() as group:
        for writer in range(writers):
            group.create_task(run(writer))
        group.create_task(compact())
    await store.close()


@dataclass(frozen=True, slots=True)
class Promise:
    """What a key's last line says: its revision is at least this, and it is there unless it may be `gone`."""

    revision: int
    gone: bool


def acknowledged(lines: Iterable[str]) -> dict[str, Promise]:
    """Each key's last line that is whole."""
    last: dict[str, Promise] = {}
    for line in lines:
        key, *rest = line.split()
        if line.endswith("\n") and key.startswith(PREFIX):
            number = int(rest[-1]) if rest[-1].isdigit() else last[key].revision
            last[key] = Promise(number, rest[0] == "-")
    return last


async def check(path: Path, last: dict[str, Promise]) -> list[str]:
    """What is missing or broken; nothing if the store kept its word."""
    try:
        store = await SqliteStore.open(path)
    except StoreError as error:
        return [f"the store does not open: {error}"]
    try:
        found = {record.key: record for record in (await store.range(PREFIX)).records}
        revision = store.revision
    except StoreError as error:
        return [f"the store cannot be read: {error}"]
    finally:
        await store.close()
    problems = [f"{key} is half-written at {record.revision}" for key, record in found.items() if not whole(record)]
    newest = max((promise.revision for promise in last.values()), default=0)
    if revision < newest:
        problems.append(f"the store is at revision {revision}, but {newest} was acknowledged")
    for key, promise in last.items():
        record = found.get(key)
        if record is None and not promise.gone:
            problems.append(f"{key} is missing, written at {promise.revision}")
        elif record is not None and record.revision < promise.revision:
            problems.append(f"{key} is at {record.revision}, but {promise.revision} was acknowledged")
    return problems


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write", help="write until killed")
    writing.add_argument("path", type=Path)
    writing.add_argument("--synchronous", choices=("FULL", "OFF"), default="FULL")
    writing.add_argument("--writers", type=int, default=4)
    writing.add_argument("--seconds", type=float, default=0, help="stop by itself after so long; 0: never")
    checking = commands.add_parser("check", help="compare with what was printed, on standard input or in a file")
    checking.add_argument("path", type=Path)
    checking.add_argument("printed", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "write":
        print("pid", os.getpid(), flush=True)
        asyncio.run(write(arguments.path, arguments.synchronous, arguments.writers, arguments.seconds))
        return 0
    lines = (arguments.printed.read_text() if arguments.printed else sys.stdin.read()).splitlines(keepends=True)
    last = acknowledged(lines)
    problems = asyncio.run(check(arguments.path, last))
    print(*problems or [f"nothing is missing: {len(last)} keys, {len(lines)} lines"], sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
