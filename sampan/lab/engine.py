"""A host's containerd and Docker Engine, started as a host's init system would, each under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal

from sampan.cli.background import ENVIRONMENT, Supervised
from sampan.lab import shell
from sampan.lab.plan import Host, LabError, Part

START_SECONDS = 90.0
PAUSE = 0.05
CAP_SYS_RESOURCE = 24
RESOLV_CONF = Path("/etc/resolv.conf")
REAL_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
"""Where systemd-resolved lists the servers behind its own address, which no host of a lab can reach."""

CONTAINERD = """\
version = 2
root = "{data}"
state = "{run}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{socket}"
[debug]
  address = "{run}/debug.sock"
"""

WRAPPER = r"""#!/bin/sh
# Takes out of a bundle what the kernel refuses to a root without CAP_SYS_RESOURCE, then lets runc go on.
clean() {
    grep -qE '"oomScoreAdj": ?-|CAP_SYS_RESOURCE|"RLIMIT_NOFILE"' "$1" || return 0
    jq -c '
        def allowed:
            (if (.oomScoreAdj // 0) < 0 then .oomScoreAdj = 0 else . end)
            | (if .capabilities then .capabilities |= map_values(map(select(. != "CAP_SYS_RESOURCE"))) else . end)
            | (if .rlimits then .rlimits |= map(if .type == "RLIMIT_NOFILE"
                then (.hard |= ([., 20000] | min)) | (.soft |= ([., 20000] | min)) else . end) else . end);
        if .process then .process |= allowed else allowed end
    ' "$1" > "$1.clean" && cat "$1.clean" > "$1" && rm -f "$1.clean"
}
previous= command= bundle=. process=
for word in "$@"; do
    case "$previous" in
        --bundle|-b) bundle=$word ;;
        --process|-p) process=$word ;;
    esac
    case "$word" in
        create|run|exec) [ -n "$command" ] || command=$word ;;
        --bundle=*) bundle=${word#*=} ;;
        --process=*) process=${word#*=} ;;
    esac
    previous=$word
done
case "$command" in
    create|run) clean "$bundle/config.json" ;;
    exec) [ -z "$process" ] || clean "$process" ;;
esac
exec runc "$@"
"""


def unit(host: Host, part: Part | Literal["mounts"]) -> Supervised:
    """The supervisor of a part of a host, or of what holds its mounts."""
    return Supervised(host.paths.run / f"{part}.pid", host.paths.log / f"{part}.log")


async def start_unit(host: Host, part: Part | Literal["mounts"], command: list[str]) -> bool:
    """Have a part run on a host; tells whether it had to be started."""
    supervised = unit(host, part)
    if supervised.pid:
        return False
    await shell.run(*enter(host), *supervised.launch(command), more={**host.environment, **ENVIRONMENT})
    return True


async def start_containerd(host: Host) -> None:
    """Start the host's containerd, and return once it listens."""
    run = host.paths.run / "containerd"
    listening = host.paths.run / "containerd.sock"
    config = host.paths.config / "containerd.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(CONTAINERD.format(data=host.docker_data / "containerd", run=run, socket=listening))
    await start_unit(host, "containerd", ["containerd", "--config", str(config)])

    async def listens() -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(str(listening)) == 0

    await until(host, "containerd", listens)


async def start_docker(host: Host) -> None:
    """Start the host's Docker Engine, and return once it answers."""
    run, data = host.paths.run, host.docker_data
    command = ["dockerd", "--config-file", str(host.paths.config / "daemon.json"), "--host", host.docker_host,
               "--containerd", str(run / "containerd.sock"), "--data-root", str(data / "docker"),
               "--exec-root", str(run / "docker"), "--pidfile", str(run / "docker-engine.pid"),
               "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", host.docker_cgroup]
    if not has_capability(CAP_SYS_RESOURCE):
        command += await without_resource_rights(host)
    (host.paths.config / "daemon.json").write_text("{}\n")
    # A pid file that a killed engine left may name a process that is another's by now.
    script = f"rm -f {run}/docker-engine.pid; exec {shlex.join(command)}"
    await start_unit(host, "docker", ["sh", "-c", script])
    await until(host, "docker", lambda: answers(host))


async def without_resource_rights(host: Host) -> list[str]:
    """Further options of dockerd where root may not raise limits: see the runtime wrapper."""
    wrapper = host.paths.config / "runc"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    version = await shell.run("dockerd", "--version")
    return ["--add-runtime", f"limited={wrapper}", "--default-runtime", "limited", *own_score_alone(version)]


def own_score_alone(version: str) -> list[str]:
    """The option for a dockerd, by what its --version says, that would else lower its own OOM score.

    From 25 on they leave it alone, and do not know the option.
    """
    found = re.search(r"version (\d+)", version)
    return ["--oom-score-adjust", "0"] if found and int(found[1]) < 25 else []


def own_name_servers_needed() -> bool:
    """Whether the machine's name servers are on its loopback only, as systemd-resolved's, and the real ones known."""
    servers = re.findall(r"^nameserver\s+(\S+)", shell.read_setting(RESOLV_CONF), re.MULTILINE)
    return bool(servers) and all(server.startswith("127.") for server in servers) and REAL_RESOLV_CONF.exists()


async def make_mounts(host: Host) -> None:
    """A mount namespace for the host where it needs an /etc/resolv.conf of its own; a sleeping process holds it.

    What is mounted in it, the machine does not see. (Held by a mount, as unshare(1) can do, it would need no process;
    kernels that number namespaces by CPU refuse that now and then.)
    """
    ready = host.paths.run / "mounts.ready"
    if unit(host, "mounts").pid or not own_name_servers_needed():
        return
    ready.unlink(missing_ok=True)
    script = (f"mount --make-rshared / && mount --bind {REAL_RESOLV_CONF} {RESOLV_CONF} && touch {ready} && "
              "exec sleep infinity")
    await start_unit(host, "mounts", ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script])

    async def done() -> bool:
        return ready.exists()

    await until(host, "mounts", done)


def enter(host: Host) -> list[str]:
    """The command that enters a host. (`ip netns exec` would remount /sys and hide the cgroups.)"""
    holder = unit(host, "mounts").child
    mounts = [f"--mount=/proc/{holder}/ns/mnt"] if holder else []
    return ["nsenter", f"--net=/run/netns/{host.namespace}", *mounts, "--"]


def has_capability(number: int) -> bool:
    """Whether this process has a capability (capabilities(7))."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text("utf-8"), re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> number & 1)


async def answers(host: Host) -> bool:
    """Whether the host's engine answers."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_unix_connection(host.docker_host.removeprefix("unix://"))
            try:
                writer.write(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
                return (await reader.read()).endswith(b"OK")
            finally:
                writer.close()
    return False


async def until(host: Host, part: Part | Literal["mounts"], holds: Callable[[], Awaitable[bool]],
                seconds: float = START_SECONDS, pause: float = PAUSE) -> None:
    """Wait until a part of a host does what it should; LabError with the end of its log when it does not."""
    try:
        async with asyncio.timeout(seconds):
            while not await holds():  # noqa: ASYNC110 - other processes' doings set no event of ours
                await asyncio.sleep(pause)
    except TimeoutError as error:
        log = unit(host, part).log
        last = log.read_text("utf-8", "replace").splitlines()[-3:] if log.exists() else []
        raise LabError("\n  ".join([f"{host.name}: {part} is not ready after {seconds:g} s", *last]),
                       f"see: less {log}") from error


async def docker(host: Host | None, *arguments: str, timeout: float = 600) -> str:
    """Run docker on a host, or with the machine's own engine."""
    return await shell.run("docker", *arguments, timeout=timeout,
                           more={"DOCKER_HOST": host.docker_host} if host else {})
