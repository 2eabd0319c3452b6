"""A master killed at any moment loses no acknowledged write."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

PROGRAM = Path(__file__).parents[2] / "vm" / "store_writer.py"
ROUNDS = 25


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_writer", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def write_and_kill(database: Path, rng: random.Random) -> list[str]:
    """The lines that the program printed until it was killed, the last perhaps cut short."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), "write", str(database), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    lines: list[bytes] = []
    try:
        count = rng.choice((1, 2, 10, 100, 1000, 2000))
        async with asyncio.timeout(60):
            while len(lines) < count:
                lines += [await process.stdout.readline()]
        await asyncio.sleep(rng.random() * 0.02)
    finally:
        process.kill()
    rest = await process.stdout.read()
    await process.wait()
    return [line.decode() for line in lines + rest.splitlines(keepends=True)]


async def test_sigkill_loses_nothing(tmp_path: Path, writer: ModuleType) -> None:
    seed = random.randrange(1 << 32)
    rng = random.Random(seed)
    database, lines = tmp_path / "store.db", list[str]()
    for number in range(ROUNDS):
        lines += await write_and_kill(database, rng)
        problems = await writer.check(database, writer.acknowledged(lines))
        assert not problems, f"round {number}, seed {seed}: {problems[:5]}"
    assert len(writer.acknowledged(lines)) > 100


async def test_the_check_finds_what_is_missing(tmp_path: Path, writer: ModuleType) -> None:
    database = tmp_path / "store.db"
    store = await writer.SqliteStore.open(database)
    await store.create(writer.PREFIX + "a", writer.value_of(writer.PREFIX + "a", 1))
    await store.create(writer.PREFIX + "half", writer.value_of(writer.PREFIX + "half", 1)[:-1])
    await store.close()
    printed = [f"{writer.PREFIX}a 3\n", f"{writer.PREFIX}b 2\n", f"{writer.PREFIX}c 1\n", f"{writer.PREFIX}c -\n",
               f"{writer.PREFIX}cut 1"]
    assert await writer.check(database, writer.acknowledged(printed)) == [
        f"{writer.PREFIX}half is half-written at 2",
        "the store is at revision 2, but 3 was acknowledged",
        f"{writer.PREFIX}a is at 1, but 3 was acknowledged",
        f"{writer.PREFIX}b is missing, written at 2",
    ]
