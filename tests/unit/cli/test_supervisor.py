from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli.background import Supervised
from sampan.cli.fdstore import LIMIT, FdStore
from sampan.cli.paths import Paths
from sampan.cli.units import BackgroundUnits

SERVICE = """
import os, socket, sys, time
names = os.environ.get("LISTEN_FDNAMES", "").split(":")
if "LISTEN_FDS" in os.environ:
    assert os.environ["LISTEN_PID"] == str(os.getpid())
    listener = socket.socket(fileno=3 + names.index("dns"))
else:
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(os.environ["NOTIFY_SOCKET"])
        notify.sendmsg([b"READY=1"])
        socket.send_fds(notify, [b"FDSTORE=1\\nFDNAME=dns"], [listener.fileno()])
print("port", listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
"""


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path / "x.pid", tmp_path / "x.log")
    yield made
    made.kill()


def start(unit: Supervised, *command: str) -> None:
    subprocess.run(unit.launch(command), check=True, timeout=60)


def ask(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        return int(connection.recv(20))


def test_a_stored_socket_outlives_a_restart_and_a_crash_and_refuses_nobody(unit: Supervised) -> None:
    start(unit, sys.executable, "-c", SERVICE)
    until(lambda: unit.log.exists() and unit.log.read_text().endswith("\n"))  # else the number may not be there yet
    port = int(unit.log.read_text().split()[1])
    first = ask(port)
    assert first == unit.child
    unit.restart()
    until(lambda: unit.child not in (0, first))
    second = ask(port)
    assert second != first
    os.kill(second, signal.SIGKILL)
    until(lambda: unit.child != second)  # else it may take one more connection with it as it dies
    third = ask(port)  # is connected while there is no service, and answered by the next one
    assert third not in (first, second)
    assert "starts again as asked" in unit.log.read_text()
    assert "ended with code -9; again in 0.5 s" in unit.log.read_text()


PATIENT = """
from sampan.cli import supervisor
supervisor.Backoff = lambda **_: type("Long", (), {"delay": lambda self, failures: 100.0})()
"""
ELSEWHERE = """
import os, signal, threading, time
mask, leave = signal.pthread_sigmask, os.setsid
def listen():
    mask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    time.sleep(100)
os.setsid = lambda: (leave(), threading.Thread(target=listen, daemon=True).start())
mask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.pthread_sigmask = lambda *_: None
"""
"""The signal reaches another thread, so it interrupts no wait; as one that comes right before the wait."""


@pytest.mark.parametrize("circumstances", ["", ELSEWHERE])
def test_stop_ends_the_pause_before_the_next_try(tmp_path: Path, unit: Supervised, circumstances: str) -> None:
    script = tmp_path / "patient.py"
    script.write_text(f"{circumstances}{PATIENT}supervisor.main()\n")
    launch = unit.launch(["/bin/false"])
    subprocess.run([sys.executable, str(script), *launch[launch.index("--pidfile"):]], check=True, timeout=60)
    until(lambda: "again in 100.0 s" in unit.log.read_text())
    os.kill(unit.pid, signal.SIGTERM)
    until(lambda: not unit.pid)


def test_a_stop_while_the_command_is_being_started_is_not_lost(tmp_path: Path, unit: Supervised) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import os, time\nfork = os.fork\n"
                    "os.fork = lambda: fork() or (time.sleep(1), 0)[1]\n"
                    "from sampan.cli import supervisor\nsupervisor.main()\n")
    launch = unit.launch(["sleep", "600"])
    subprocess.run([sys.executable, str(slow), *launch[launch.index("--pidfile"):]], check=True, timeout=60)
    until(lambda: unit.child)
    started = time.monotonic()
    assert unit.stop(30)
    assert time.monotonic() - started < 25


def test_a_command_that_cannot_be_run_is_told(unit: Supervised) -> None:
    start(unit, "/nowhere/at-all")
    until(lambda: unit.log.exists() and "ended with code 127" in unit.log.read_text())
    assert "/nowhere/at-all: No such file or directory" in unit.log.read_text()


def test_a_second_supervisor_leaves_the_first_its_place(unit: Supervised) -> None:
    """Two commands that start the same service at the same time both find that it does not run."""
    start(unit, "sleep", "600")
    first = unit.pid
    try:
        assert subprocess.run(unit.launch(["sleep", "601"]), check=False, timeout=60).returncode == 1
        assert unit.pid == first
    finally:
        if unit.pid != first:
            os.kill(first, signal.SIGTERM)


def test_the_supervisors_lock_is_not_its_services(unit: Supervised) -> None:
    """The agent locks `agent.lock` in the folder of its pid file."""
    start(unit, "flock", "--nonblock", str(unit.pidfile.with_suffix(".lock")), "sleep", "600")
    until(lambda: unit.child and Path(f"/proc/{unit.child}/task/{unit.child}/children").read_text())


def test_a_service_that_somebody_else_has_just_started_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = BackgroundUnits(Paths(*[tmp_path] * 4))
    unit = Supervised(tmp_path / "agent.pid", tmp_path / "agent.log")
    find = Supervised.pid.fget  # type: ignore[attr-defined]  # a property
    looks: list[int] = []

    def look(self: Supervised) -> int:
        looks.append(find(self))
        if len(looks) == 1:
            start(unit, "sleep", "600")
        return looks[-1]

    monkeypatch.setattr(Supervised, "pid", property(look))
    try:
        assert not units.start("agent", ["--help"])
        assert unit.pid
    finally:
        unit.kill()


def test_a_full_disk_does_not_end_the_supervisor(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    unit = Supervised(tmp_path / "x.pid", Path("/dev/full"))
    start(unit, "/bin/sh", "-c", f"echo again >> {runs}; exit 1")
    try:
        until(lambda: runs.exists() and len(runs.read_text().splitlines()) > 1)
    finally:
        unit.kill()


def test_a_host_without_room_for_a_process_gets_it_later(tmp_path: Path, unit: Supervised) -> None:
    crowded = tmp_path / "crowded.py"
    crowded.write_text("import os\nfork = os.fork\n"
                       "def refuse():\n    os.fork = fork\n    raise BlockingIOError(11, 'full')\n"
                       "def detach():\n    os.fork = refuse\n    return fork()\n"
                       "os.fork = detach\nfrom sampan.cli import supervisor\nsupervisor.main()\n")
    launch = unit.launch(["sleep", "600"])
    subprocess.run([sys.executable, str(crowded), *launch[launch.index("--pidfile"):]], check=True, timeout=60)
    until(lambda: unit.child)
    assert unit.stop(30)


def test_kill_leaves_nothing_that_the_supervisor_is_about_to_start(
        tmp_path: Path, unit: Supervised, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, again = tmp_path / "ran", tmp_path / "again"
    start(unit, "/bin/sh", "-c", f"test -e {ran} && echo $$ > {again} && exec sleep 600; touch {ran}; exit 1")
    until(lambda: unit.log.exists() and "again in" in unit.log.read_text())
    find = Supervised.child.fget  # type: ignore[attr-defined]  # a property

    def look(self: Supervised) -> int:
        """What was there a moment ago; meanwhile the supervisor, if it can, goes on."""
        found: int = find(self)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and not (again.exists() and again.read_text()):
            time.sleep(0.01)
        return found

    monkeypatch.setattr(Supervised, "child", property(look))
    assert unit.kill()
    left = int(again.read_text()) if again.exists() else 0  # on a busy host it has been started before the look
    with contextlib.suppress(OSError):
        assert not left or Path(f"/proc/{left}/stat").read_text().split()[2] == "Z"


def test_kill_ends_supervisor_and_process(unit: Supervised) -> None:
    start(unit, "/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done", "--", "kept")
    until(lambda: (started := unit.child) and b"--\0kept\0" in Path(f"/proc/{started}/cmdline").read_bytes())
    child = unit.child
    assert unit.kill()
    with contextlib.suppress(OSError):  # nobody has that number any more
        assert Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
    assert not unit.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FdStore]:
    made = FdStore(tmp_path / "n")
    yield made
    made.close()


def send(store: FdStore, message: bytes, *files: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(str(store.path))
        socket.send_fds(notify, [message], files)
    store.receive()


def test_the_store_keeps_each_file_once_and_removes_by_name(store: FdStore) -> None:
    pipe = os.pipe()
    send(store, b"FDSTORE=1\nFDNAME=a", *pipe)
    send(store, b"FDSTORE=1\nFDNAME=b", pipe[0])
    assert store.names == ["a", "a"]
    send(store, b"FDSTOREREMOVE=1\nFDNAME=b")
    assert store.names == ["a", "a"]
    send(store, b"FDSTOREREMOVE=1\nFDNAME=a")
    assert store.names == []
    for end in pipe:
        os.close(end)


def test_the_store_drops_what_it_does_not_keep(store: FdStore) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Path(os.devnull).open() as null:
        send(store, b"\xff\xfe no message", null.fileno())
        send(store, b"READY=1\nSTATUS=well", null.fileno())
    assert store.names == []
    sockets = [socket.socket() for _ in range(LIMIT + 5)]
    for one in sockets:
        send(store, b"FDSTORE=1", one.fileno())
        one.close()
    assert len(store.names) == LIMIT
    assert set(store.names) == {"stored"}
    store.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before - 1
