"""The single looks at a host: commands, files, sockets. Each has a time limit, and raises LookError or OSError."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import random
import shutil
import ssl
import time
from collections.abc import Iterable, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path

from sampan.cli import engine, preflight
from sampan.cli.doctor import checks, parse
from sampan.cli.doctor.facts import Disk, Firewalld, Iptables, Kernel, Names, Reached, Resolver, Rules, Ufw
from sampan.cli.doctor.site import Place, Port, Site
from sampan.cli.progress import CommandError

COMMAND_SECONDS = 20.0
"""For one command; firewall-cmd asks a daemon."""
ANSWER_SECONDS = 5.0
"""For one answer of the master or the DNS."""
DNS_TRIES = 2
HEAD_LIMIT = 16384
SERVICE_FOLDERS = ("/etc/firewalld/services", "/usr/lib/firewalld/services")


class LookError(Exception):
    """Something could not be looked at; the message says why."""


async def run(*command: str, fails: bool = False) -> str:
    """What a command prints; "" where there is no such command, or where it fails and may (`fails`)."""
    pipe, path = asyncio.subprocess.PIPE, preflight.search_path()
    if shutil.which(command[0], path=path) is None:
        return ""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        env={**os.environ, "PATH": path, "LC_ALL": "C"})
    try:
        async with asyncio.timeout(COMMAND_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise LookError(f"{' '.join(command)} did not end within {COMMAND_SECONDS:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode and not fails:
        raise LookError(f"{' '.join(command)}: {errors.decode(errors='replace').strip() or 'it failed'}")
    return "" if process.returncode else output.decode(errors="replace")


# The kernel and its rules

def kernel() -> Kernel:
    """Blocks. Nothing is loaded."""
    absent = preflight.missing_modules(load=lambda _: None)
    names = (checks.IP_FORWARD, checks.BRIDGE_NF, *checks.SETTINGS)
    files = {name: Path("/proc/sys", *name.split(".")) for name in names}
    return Kernel({name: preflight.modprobe(name, "--dry-run") for name in absent},
                  {name: int(file.read_text("ascii")) for name, file in files.items() if file.exists()})


async def iptables() -> Iptables | None:
    """Both flavours; None where the host has no iptables."""
    shown = await run("iptables", "--version")
    if not shown:
        return None
    version, flavour = parse.iptables_version(shown)
    other = "iptables-legacy-save" if flavour == "nf_tables" else "iptables-nft-save"
    return Iptables(version, flavour, await _rules("iptables-save"), await _rules(other))


async def _rules(command: str) -> Rules:
    return parse.filter_table(await run(command, "-t", "filter"))


async def firewalld(node_ip: str, node_interface: str) -> Firewalld | None:
    """None where it does not run. The interface counts where the host no longer has the address."""
    if not await run("firewall-cmd", "--state", fails=True):
        return None
    interface = await _interface(node_ip) or node_interface
    zone = await run("firewall-cmd", f"--get-zone-of-interface={interface}", fails=True) if interface else ""
    zone = zone.strip() or (await run("firewall-cmd", "--get-default-zone")).strip()
    return parse.firewalld(await run("firewall-cmd", f"--zone={zone}", "--list-all"),
                           await run("firewall-cmd", "--zone=trusted", "--list-all"), service_ports)


def service_ports(name: str) -> Sequence[Port]:
    """The ports of one of firewalld's services; the administrator's file goes before the distribution's."""
    for folder in SERVICE_FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            return parse.firewalld_service(Path(folder, f"{name}.xml").read_text("utf-8"))
    return ()


async def _interface(address: str) -> str:
    if not address:
        return ""
    shown = await run("ip", "-j", "-4", "addr", "show", "to", address)
    return next((item["ifname"] for item in json.loads(shown or "[]") if "ifname" in item), "")


async def ufw() -> Ufw | None:
    """None where it is not active."""
    return parse.ufw(await run("ufw", "status", "verbose"))


# Docker and disks

async def docker(host: str) -> engine.EngineFacts | preflight.Problem:
    """What Docker says of itself, or why it does not."""
    try:
        return await engine.facts(host)
    except CommandError as error:
        return preflight.Problem(str(error), error.hint)


def daemon_json() -> bool:
    """Whether Docker has a configuration file."""
    return Path(checks.DAEMON_JSON).exists()


def disks(folders: Iterable[str]) -> list[Disk]:
    """One for each file system that the folders are on; those that are not there are left out."""
    found: dict[int, Disk] = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            device, room = Path(folder).stat().st_dev, os.statvfs(folder)
            found.setdefault(device, Disk(folder, room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize,
                                          room.f_files, room.f_favail))
    return list(found.values())


# The master

async def master(site: Site) -> list[Reached]:
    """Connect to each of its ports once."""
    wanted = [*(((site.server, "the API server"),) if site.server else ()),
              *((line, "the master's node service") for line in site.lines if site.agent)]
    return list(await asyncio.gather(*(_reach(place, what) for place, what in wanted)))


async def _reach(place: Place, what: str) -> Reached:
    host, port = place
    try:
        await preflight.reach(host, port, what)
    except CommandError as error:
        return Reached(what, f"{host}:{port}", preflight.Problem(str(error), error.hint))
    return Reached(what, f"{host}:{port}")


async def clock(server: Place) -> float | None:
    """How far this host's clock is ahead of the master's, by the Date of an answer; None where the master is away."""
    careless = ssl.create_default_context()
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE  # with the clock wrong its certificate may not be valid; nothing is confided
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(*server, ssl=careless, limit=HEAD_LIMIT)
            try:
                writer.write(f"HEAD /cacerts HTTP/1.1\r\nHost: {server[0]}\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                now = time.time()
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError):
        return None  # that it does not answer is told by `master`
    except asyncio.LimitOverrunError as error:
        raise LookError("the master's answer is too long") from error
    dates = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"date:")]
    if not dates:
        raise LookError("the master's answer has no date")
    return now - parsedate_to_datetime(dates[0].decode("latin-1").strip()).timestamp()


# Names

class _Answer(asyncio.DatagramProtocol):
    """Waits for one datagram."""

    def __init__(self) -> None:
        self.received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """The answer, or somebody's guess at it: the number decides."""
        if not self.received.done():
            self.received.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Such as: nobody listens there."""
        if not self.received.done():
            self.received.set_exception(exc)


async def dns(server: Place, name: str) -> Names:
    """Ask for a name's addresses by UDP; what is wrong with the answer."""
    address, problem = server[0], ""
    for _ in range(DNS_TRIES):
        number = random.randrange(1 << 16)  # noqa: S311 - tells this question's answer from an earlier one's
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                transport, answer = await asyncio.get_running_loop().create_datagram_endpoint(_Answer,
                                                                                              remote_addr=server)
                try:
                    transport.sendto(parse.dns_question(number, name))
                    problem = parse.dns_problem(number, await answer.received)
                finally:
                    transport.close()
        except TimeoutError:
            problem = f"no answer within {ANSWER_SECONDS:g} s"
        except OSError as error:
            problem = f"no answer: {error.strerror or error}"
            if error.errno == errno.ENETUNREACH:
                return Names(address, problem, routed=False)
        if not problem:
            return Names(address)
    return Names(address, f"asked for {name}: {problem}")


def resolver(path: str) -> Resolver:
    """The host's name servers; none where there is no file."""
    return Resolver(path, _servers(path), _servers(checks.RESOLVED_FILE))


def _servers(path: str) -> list[str]:
    try:
        return parse.nameservers(Path(path).read_text("utf-8", "replace"))
    except OSError:
        return []
