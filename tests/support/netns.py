"""Network namespaces for tests: one for the test itself, and processes with one of their own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def private_network() -> Iterator[None]:
    """Have this thread, and the threads and processes that it starts, in a network namespace of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            ip("link set lo up")
            yield
        finally:
            if libc.setns(home, _CLONE_NEWNET) != 0:
                os.abort()
    finally:
        os.close(home)


@contextlib.contextmanager
def process_with_network() -> Iterator[int]:
    """The id of a process in a network namespace of its own, as a sandbox's first process is."""
    process = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 1000"],
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ip(command: str, pid: int | None = None) -> str:
    """Run `ip`, here or in the network namespace of a process."""
    return run(["ip", *command.split()], pid)


def run(command: Sequence[str], pid: int | None = None, *, check: bool = True, timeout: float = 60.0) -> str:
    """Run a command, here or in the network namespace of a process."""
    prefix = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid is not None else []
    done = subprocess.run([*prefix, *command], check=False, capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def reaches(pid: int | None, address: str) -> bool:
    """Whether a ping from there gets an answer."""
    prefix = ["nsenter", f"--net=/proc/{pid}/ns/net"] if pid is not None else []
    command = [*prefix, "busybox", "ping", "-c", "1", "-W", "2", address]
    return subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
