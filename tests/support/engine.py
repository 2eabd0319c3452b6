"""A private Docker Engine for tests: its own containerd, dockerd, folders, network namespace and cgroup.

    handle = engine_up(Path("/tmp/x"))           # handle.docker_host, handle.netns
    import_image(handle, "test/box:1")           # busybox and bash, nothing is pulled
    engine_down(handle)

As a command, for trying things by hand:

    python -m tests.support.engine up --dir /tmp/x     # prints DOCKER_HOST and the network namespace
    python -m tests.support.engine down --dir /tmp/x

Several of these run side by side. Each daemon is started with nsenter in a network namespace of its own, because
Docker owns the bridge and the firewall of the one that it runs in. (`ip netns exec` would remount /sys and hide the
cgroups.) Everything is found and ended by process id, never by name.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

from sampan.lab.engine import WRAPPER, own_score_alone

IMAGE = "sampan-test/box:1"
"""The reference under which `test_image` imports its image: busybox's tools, and bash as /bin/sh."""


class EngineDidNotStart(RuntimeError):
    """A daemon ended or did not answer in time; the message ends with its log."""


@dataclass
class Daemon:
    """A process that we started; its start time tells it from a later one with the same id."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        stat = _stat(self.pid)
        return stat is not None and stat[0] != "Z" and stat[1] == self.started


@dataclass
class EngineHandle:
    """A running engine. `docker_host` is what DOCKER_HOST wants; `netns` is a name under /run/netns."""

    directory: Path
    docker_host: str
    netns: str
    owns_netns: bool
    cgroup_parent: str
    dockerd_options: list[str] = field(default_factory=list)
    containerd: Daemon | None = None
    dockerd: Daemon | None = None

    @property
    def socket(self) -> str:
        """The path of Docker's socket."""
        return self.docker_host.removeprefix("unix://")

    def save(self) -> None:
        """Write what `load_handle` reads, so that another process can end the engine."""
        state = asdict(self) | {"directory": str(self.directory)}
        (self.directory / "engine.json").write_text(json.dumps(state))


def load_handle(directory: Path) -> EngineHandle:
    """The handle of an engine that another process started in this folder."""
    state: dict[str, Any] = json.loads((directory / "engine.json").read_text())
    state["directory"] = Path(state["directory"])
    for name in ("containerd", "dockerd"):
        state[name] = Daemon(**state[name]) if state[name] else None
    return EngineHandle(**state)


def engine_up(directory: Path | str, *, netns: str | None = None, wrap_runtime: bool = True,
              dockerd_options: Sequence[str] = (), timeout: float = 60.0) -> EngineHandle:
    """Start containerd and dockerd under `directory` (keep it short: it holds sockets) and wait until they answer.

    `netns` names an existing network namespace; without it one is made, and taken away by `engine_down`.
    """
    directory = Path(directory).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    unique = f"st-{os.getpid()}-{os.urandom(3).hex()}"
    handle = EngineHandle(directory, f"unix://{directory}/docker.sock", netns or unique, netns is None,
                          f"/sampan-test-{unique}", list(dockerd_options))
    if wrap_runtime:
        wrapper = directory / "runc-wrapper"
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        handle.dockerd_options += [f"--add-runtime=wrapped={wrapper}", "--default-runtime=wrapped"]
    try:
        if netns is None:
            netns_add(unique)
        _start_containerd(handle, timeout)
        start_dockerd(handle, timeout=timeout)
    except BaseException:
        engine_down(handle)
        raise
    return handle


def engine_down(handle: EngineHandle) -> None:
    """End the engine and its containers, and take its mounts, cgroups, namespace and folder away."""
    if handle.dockerd and handle.dockerd.alive:
        with contextlib.suppress(OSError, http.client.HTTPException, RuntimeError):
            remove_containers(handle)
    for daemon in (handle.dockerd, handle.containerd):
        if daemon is not None:
            stop(daemon)
    _end_shims(handle)
    _end_cgroups(handle.cgroup_parent)
    unmount_under(handle.directory)
    if handle.owns_netns:
        netns_delete(handle.netns)
    shutil.rmtree(handle.directory, ignore_errors=True)


def start_dockerd(handle: EngineHandle, *, timeout: float = 60.0) -> None:
    """Start (again) the engine's dockerd, and wait until it answers."""
    directory = handle.directory
    (directory / "docker.pid").unlink(missing_ok=True)
    command = ["dockerd", "--config-file", str(directory / "daemon.json"), "--host", handle.docker_host,
               "--containerd", str(directory / "containerd.sock"), "--data-root", str(directory / "data"),
               "--exec-root", str(directory / "exec"), "--pidfile", str(directory / "docker.pid"),
               "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", handle.cgroup_parent,
               *own_score_alone(_dockerd_version()), *handle.dockerd_options]
    (directory / "daemon.json").write_text("{}")
    handle.dockerd = _spawn(handle, command, "dockerd.log")
    handle.save()
    _wait(handle.dockerd, directory / "dockerd.log", lambda: ping(handle), timeout)


@functools.cache
def _dockerd_version() -> str:
    return subprocess.run(["dockerd", "--version"], check=True, capture_output=True, text=True, timeout=60).stdout


def stop_dockerd(handle: EngineHandle, how: signal.Signals = signal.SIGTERM) -> None:
    """End only dockerd (SIGKILL for a crash); with live-restore or SIGKILL its containers run on."""
    if handle.dockerd is not None:
        stop(handle.dockerd, how)
        handle.dockerd = None
        handle.save()


def api(handle: EngineHandle, method: str, path: str, body: bytes | None = None, *, timeout: float = 60.0,
        content_type: str = "application/json") -> bytes:
    """One call of the Engine API, without any library; RuntimeError with Docker's words for a refusal."""
    connection = _UnixConnection(handle.socket, timeout)
    try:
        connection.request(method, path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        data = response.read()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status}: {data.decode(errors='replace').strip()}")
        return data
    finally:
        connection.close()


def ping(handle: EngineHandle) -> bool:
    """Whether the engine answers."""
    try:
        return api(handle, "GET", "/_ping", timeout=5.0) == b"OK"
    except (OSError, http.client.HTTPException, RuntimeError):
        return False


def remove_containers(handle: EngineHandle) -> None:
    """Remove all of its containers, by force."""
    for container in json.loads(api(handle, "GET", "/containers/json?all=1")):
        with contextlib.suppress(RuntimeError):
            api(handle, "DELETE", f"/containers/{container['Id']}?force=1&v=1")


def import_image(handle: EngineHandle, reference: str = IMAGE, *, changes: Sequence[str] = ('CMD ["sh"]',),
                 files: Mapping[str, str | bytes] | None = None, programs: Sequence[str] = ()) -> str:
    """Import an image of busybox and bash as `reference` and return its id.

    `changes` are Dockerfile lines (CMD, ENTRYPOINT, ENV, USER, EXPOSE …); `files` are further ones by absolute path,
    executable if they begin with `#!`; `programs` are this machine's, taken with their libraries.
    """
    repository, _, tag = reference.rpartition(":")
    query = [("fromSrc", "-"), ("repo", repository), ("tag", tag), *(("changes", change) for change in changes)]
    answer = api(handle, "POST", f"/images/create?{urlencode(query)}", root_archive(files or {}, programs),
                 content_type="application/x-tar")
    last: dict[str, Any] = json.loads(answer.decode().strip().splitlines()[-1])
    if "status" not in last:
        raise RuntimeError(f"import of {reference}: {last}")
    return str(last["status"])


def root_archive(files: Mapping[str, str | bytes], programs: Sequence[str] = ()) -> bytes:
    """A small root file system as a tar: busybox with its links, bash with its libraries as /bin/sh and /bin/bash.

    Debian's busybox shell (and dash) drop environment names with a dash or a dot in them; bash keeps them.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "root", "tmp", "proc", "sys", "dev", "var", "var/run", "lib64", "home", "mnt"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(info)
        _add(tar, "bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
        for tool in subprocess.run(["busybox", "--list"], capture_output=True, check=True, text=True).stdout.split():
            if tool not in ("busybox", "sh"):
                _link(tar, f"bin/{tool}", "busybox")
        _add(tar, "bin/bash", Path("/bin/bash").read_bytes(), 0o755)
        _link(tar, "bin/sh", "bash")
        _link(tar, "usr", ".")  # /usr/bin/env and the like
        for library in sorted({path for program in ("/bin/bash", *programs) for path in _libraries(program)}):
            _add(tar, library.lstrip("/"), Path(library).read_bytes(), 0o755)
        for program in programs:
            _add(tar, f"bin/{Path(program).name}", Path(program).read_bytes(), 0o755)
        _add(tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"
                                b"app:x:1000:1000:app:/home:/bin/sh\n", 0o644)
        _add(tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\napp:x:1000:\n", 0o644)
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            _add(tar, name.lstrip("/"), data, 0o755 if data.startswith((b"#!", b"\x7fELF")) else 0o644)
    return buffer.getvalue()


def netns_add(name: str) -> None:
    """Make a network namespace with its loopback up."""
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=60)
    run_in(name, ["ip", "link", "set", "lo", "up"])


def netns_delete(name: str) -> None:
    """Take the namespace's name away; it ends with its last process."""
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True, timeout=60)


def run_in(netns: str, command: Sequence[str], *, timeout: float = 60.0, check: bool = True,
           stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace, keeping the rest of this process's view (/sys, cgroups)."""
    return subprocess.run(["nsenter", f"--net=/run/netns/{netns}", *command], check=check, capture_output=True,
                          text=True, timeout=timeout, input=stdin)


def stop(daemon: Daemon, how: signal.Signals = signal.SIGTERM, timeout: float = 60.0) -> None:
    """End a process: `how`, then SIGKILL when it has not gone after `timeout` seconds."""
    for sign, patience in ((how, timeout), (signal.SIGKILL, 5.0)):
        if not daemon.alive:
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(daemon.pid, sign)
        deadline = time.monotonic() + patience
        while daemon.alive and time.monotonic() < deadline:
            time.sleep(0.02)
            _reap(daemon.pid)
    _reap(daemon.pid)


def unmount_under(directory: Path) -> None:
    """Unmount whatever is mounted below a folder, deepest first."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    below = [mount for mount in mounts if mount == str(directory) or mount.startswith(f"{directory}/")]
    for mount in sorted(below, key=len, reverse=True):
        subprocess.run(["umount", "-l", mount], check=False, capture_output=True, timeout=60)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _start_containerd(handle: EngineHandle, timeout: float) -> None:
    directory = handle.directory
    config = directory / "containerd.toml"
    config.write_text(f"""version = 2
root = "{directory}/containerd"
state = "{directory}/containerd-run"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{directory}/containerd.sock"
""")
    handle.containerd = _spawn(handle, ["containerd", "--config", str(config)], "containerd.log")
    handle.save()

    def answers() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(str(directory / "containerd.sock")) == 0

    _wait(handle.containerd, directory / "containerd.log", answers, timeout)


def _spawn(handle: EngineHandle, command: Sequence[str], log: str) -> Daemon:
    """Start a daemon in the engine's network namespace, in a session of its own, its output in a log file."""
    with (handle.directory / log).open("ab") as output:
        process = subprocess.Popen(["nsenter", f"--net=/run/netns/{handle.netns}", *command],
                                   stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
    stat = _stat(process.pid)
    process.returncode = 0  # we wait for it by id; Popen need not warn that it is still running
    return Daemon(process.pid, stat[1] if stat else "")


def _wait(daemon: Daemon, log: Path, ready: Any, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not ready():
        _reap(daemon.pid)
        if not daemon.alive or time.monotonic() > deadline:
            why = "did not answer in time" if daemon.alive else "ended"
            raise EngineDidNotStart(f"{log.name}: {why}\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)


def _stat(pid: int) -> tuple[str, str, str] | None:
    """A process's state letter, start time and parent, None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19], fields[1]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _end_shims(handle: EngineHandle) -> None:
    """Kill the containers and shims that a crashed daemon left: the shims that speak to this engine's containerd."""
    address = str(handle.directory / "containerd.sock").encode()
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    shims = {pid for pid in processes if _is_shim(pid, address)}
    children = {pid for pid in processes if shims and (stat := _stat(pid)) and int(stat[2]) in shims}
    for pid in (*children, *shims):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_shim(pid: int, address: bytes) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return address in words and Path(os.fsdecode(words[0])).name.startswith("containerd-shim")


def _end_cgroups(parent: str) -> None:
    """Kill what is left in the engine's cgroups, and remove them."""
    roots = [root for root in Path("/sys/fs/cgroup").iterdir() if root.is_dir()]
    for tree in [root / parent.lstrip("/") for root in (*roots, Path("/sys/fs/cgroup"))]:
        end_cgroup_tree(tree)


def end_cgroup_tree(tree: Path, timeout: float = 5.0) -> None:
    """Kill every process in a cgroup and those below it, and remove them; nothing happens where there is none."""
    deadline = time.monotonic() + timeout
    while tree.is_dir() and time.monotonic() < deadline:
        for folder in sorted(_folders(tree), key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                folder.rmdir()
        if tree.is_dir():
            time.sleep(0.02)


def _folders(tree: Path) -> Iterator[Path]:
    yield tree
    for name, folders, _ in os.walk(tree):
        for folder in folders:
            yield Path(name) / folder


def _libraries(binary: str) -> list[str]:
    listing = subprocess.run(["ldd", binary], capture_output=True, check=True, text=True).stdout
    words = [word for line in listing.splitlines() for word in line.split() if word.startswith("/")]
    return sorted(set(words))


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    tar.addfile(info, io.BytesIO(data))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(info)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: `up` or `down`."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.engine", description="a private Docker Engine")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("--dir", required=True, type=Path, help="folder for everything the engine keeps")
    parser.add_argument("--netns", help="an existing network namespace; else one is made")
    parser.add_argument("--no-image", action="store_true", help=f"do not import {IMAGE}")
    options = parser.parse_args(arguments)
    action: Literal["up", "down"] = options.action
    if action == "down":
        engine_down(load_handle(options.dir.absolute()))
        return 0
    handle = engine_up(options.dir, netns=options.netns)
    if not options.no_image:
        import_image(handle)
    sys.stdout.write(f"DOCKER_HOST={handle.docker_host}\nNETNS={handle.netns}\nIMAGE={IMAGE}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
