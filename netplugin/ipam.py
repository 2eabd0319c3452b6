"""Which sandbox has which address, in files: /run/sampan/ipam/<network>/<ip>.

/run is emptied at boot, as the sandboxes are. One file per address, written whole under another name and then linked
into place: a crash at any moment leaves either no file or a complete one, and no two owners. Addresses are given out
in a circle, so that one that was just released is not reused at once, while others still remember it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from netplugin.protocol import AddressesExhausted, HostPort, NetworkError, Sandbox

VERSION = 1

_CURSOR = "last"
_LOCK = "lock"
_VERSION_FILE = "version"


@dataclass(frozen=True, slots=True)
class Lease:
    """One address and its sandbox; the host's ports are kept here too, because their rules are rebuilt from it."""

    ip: IPv4Address
    sandbox_id: str
    namespace: str = ""
    name: str = ""
    uid: str = ""
    host_ports: tuple[HostPort, ...] = ()
    owner: str = ""
    """Whose the sandbox is: "" for the agent's own, else the CNI network that another runtime asked for."""


class Ipam:
    """The addresses of one network on this node. Its calls block for as long as files on a tmpfs take."""

    def __init__(self, root: Path, network: str = "sampan") -> None:
        self._folder = root / network
        self._known: dict[str, tuple[tuple[int, int, int], Lease]] = {}  # by file name; inode, size, time

    def allocate(self, subnet: IPv4Network, sandbox: Sandbox) -> Lease:
        """The sandbox's lease, a new one if it has none in this subnet; the first address is the bridge's."""
        with self._locked():
            leases = self._read()
            for lease in leases:
                if lease.sandbox_id == sandbox.id:
                    if lease.ip in subnet:
                        return lease
                    self._delete(lease)
            ip = next_free(subnet, {lease.ip for lease in leases}, self._cursor())
            lease = Lease(ip, sandbox.id, sandbox.namespace, sandbox.name, sandbox.uid, tuple(sandbox.host_ports),
                          sandbox.owner)
            self._write(lease)
            return lease

    def release(self, sandbox_id: str) -> None:
        """Free the sandbox's address, if it has one."""
        with self._locked():
            for lease in self._read():
                if lease.sandbox_id == sandbox_id:
                    self._delete(lease)

    def leases(self) -> Sequence[Lease]:
        """All leases, in order of address."""
        with self._locked():
            return self._read()

    def clear(self) -> None:
        """Free everything."""
        with self._locked():
            for lease in self._read():
                self._delete(lease)
            (self._folder / _CURSOR).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: the CNI executable may work beside the agent."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # whoever may read the lock could hold it
            with (self._folder / _LOCK).open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._check_version()
                yield
        except OSError as error:
            raise NetworkError(f"address files in {self._folder}: {error}") from error

    def _check_version(self) -> None:
        path = self._folder / _VERSION_FILE
        try:
            text = path.read_text().strip()
        except FileNotFoundError:
            text = ""
        if not text:
            path.write_text(f"{VERSION}\n")
        elif not text.isdigit() or int(text) > VERSION:
            raise NetworkError(f"address files in {self._folder} have version {text!r}; this program knows {VERSION}")

    def _read(self) -> list[Lease]:
        """All leases. A file is never changed once it is there, so that each has to be read only once."""
        known: dict[str, tuple[tuple[int, int, int], Lease]] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name in (_CURSOR, _LOCK, _VERSION_FILE):
                    continue
                if entry.name.startswith(".new-"):
                    Path(entry).unlink(missing_ok=True)  # we hold the lock, so its writer has died
                    continue
                status = entry.stat()
                stamp = status.st_ino, status.st_size, status.st_mtime_ns
                before = self._known.get(entry.name)
                if before is not None and before[0] == stamp:
                    known[entry.name] = before
                    continue
                try:
                    ip = IPv4Address(entry.name)
                except ValueError:
                    continue
                known[entry.name] = stamp, _decode(ip, Path(entry))
        self._known = known
        return sorted((lease for _, lease in known.values()), key=lambda lease: lease.ip)

    def _write(self, lease: Lease) -> None:
        temporary = self._folder / f".new-{lease.ip}"
        temporary.write_text(_encode(lease))
        os.link(temporary, self._folder / str(lease.ip))  # fails if the address is taken, whatever we believe
        temporary.unlink()
        cursor = self._folder / f".new-{_CURSOR}"
        cursor.write_text(f"{lease.ip}\n")
        cursor.replace(self._folder / _CURSOR)

    def _delete(self, lease: Lease) -> None:
        (self._folder / str(lease.ip)).unlink(missing_ok=True)

    def _cursor(self) -> IPv4Address | None:
        try:
            return IPv4Address((self._folder / _CURSOR).read_text().strip())
        except (FileNotFoundError, ValueError):
            return None


def next_free(subnet: IPv4Network, taken: set[IPv4Address], last: IPv4Address | None) -> IPv4Address:
    """The first free address behind `last`, going round; never the network's, the bridge's or the broadcast one."""
    first, size = int(subnet.network_address) + 2, subnet.num_addresses - 3
    if size <= 0:
        raise AddressesExhausted(f"{subnet} is too small for a pod")
    start = int(last) + 1 - first if last is not None and last in subnet else 0
    for step in range(size):
        candidate = IPv4Address(first + (start + step) % size)
        if candidate not in taken:
            return candidate
    raise AddressesExhausted(f"no free address in {subnet}: all {size} are in use")


def _encode(lease: Lease) -> str:
    return json.dumps({
        "sandbox": lease.sandbox_id, "namespace": lease.namespace, "name": lease.name, "uid": lease.uid,
        "hostPorts": [[port.host_port, port.container_port, port.protocol, port.host_ip] for port in lease.host_ports],
        **({"owner": lease.owner} if lease.owner else {}),
    }) + "\n"


def _decode(ip: IPv4Address, path: Path) -> Lease:
    try:
        data = json.loads(path.read_text())
        ports = tuple(HostPort(*port) for port in data["hostPorts"])
        return Lease(ip, data["sandbox"], data["namespace"], data["name"], data["uid"], ports, data.get("owner", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"{path} is no address file of version {VERSION}: {error}") from error
