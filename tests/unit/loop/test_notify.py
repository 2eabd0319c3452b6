"""What systemd is told."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from pathlib import Path

import pytest

from sampan.loop.clock import FakeClock
from sampan.loop.notify import Notifier


async def test_the_watchdog_hears_of_the_loop_twice_in_its_time(tmp_path: Path) -> None:
    clock = FakeClock()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000",
                             "WATCHDOG_PID": str(os.getpid())})
        task = asyncio.create_task(notifier.keep_alive(clock))
        heard = []
        for _ in range(3):
            await clock.settle(20)
            heard.append(listener.recv(100))
            await clock.advance(30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert heard == [b"WATCHDOG=1"] * 3


async def test_without_a_watchdog_nothing_is_said() -> None:
    clock = FakeClock()
    await Notifier({}).keep_alive(clock)
    await Notifier({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}).keep_alive(clock)
    assert clock.monotonic() == 0.0


async def test_a_process_without_descriptors_left_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life is not worth the service."""
    def exhausted(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    clock = FakeClock()
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "60000000"})
    with monkeypatch.context() as patches:
        patches.setattr(socket, "socket", exhausted)
        task = asyncio.create_task(notifier.keep_alive(clock))
        await clock.settle()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        await clock.advance(30)
        assert listener.recv(100) == b"WATCHDOG=1"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
