"""Services in the kernel: how long a change takes, and how long all of them.

    sudo python bench/services.py [--services 1000 5000 10000] [--changes 20]

Each size runs in a network namespace of its own, in a process of its own: an agent's proxy whose master is this
program. Beside it, in another namespace, one `iptables-restore` writes the same rules at once, as a proxy without
batches would. Times are wall-clock; processor times are those of this process and of the commands that it ran.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.link.view import View  # noqa: E402 - needs the path
from agent.proxy.chains import NodeFacts, wanted  # noqa: E402
from agent.proxy.proxier import Proxier  # noqa: E402
from netplugin.host import HostFlows, HostTables  # noqa: E402
from netplugin.tables import Edit, restore_input  # noqa: E402
from sampan.api.resources import ENDPOINTSLICES, SERVICES  # noqa: E402
from sampan.api.types.discovery_v1 import EndpointSlice  # noqa: E402
from sampan.loop.clock import SystemClock  # noqa: E402
from tests.support.services import NODE, delete, put, service, slice_of  # noqa: E402

ENDPOINTS = 5
FACTS = NodeFacts(NODE, "192.0.2.1", "10.244.0.0/16")
WHOLE_LIMIT = 900.0
_QUIET_LOOP = """
import json, socket, sys, time
address = sys.argv[1]
print("ready", flush=True)
lost, slowest, count = 0, 0.0, 0
import select
while not select.select([sys.stdin], [], [], 0)[0]:
    begun = time.monotonic()
    try:
        with socket.create_connection((address, 80), timeout=10) as sock:
            sock.sendall(b"?")
            sock.recv(10)
        count += 1
    except OSError:
        lost += 1
    slowest = max(slowest, time.monotonic() - begun)
    time.sleep(0.005)
print(json.dumps([count, lost, slowest]))
"""
"""Asks a Service that does not change, all the time."""


def members(number: int, tweak: int = 0) -> EndpointSlice:
    """The endpoints of a Service; `tweak` makes the first one another."""
    hosts = [number * ENDPOINTS + index for index in range(ENDPOINTS)]
    addresses = [f"10.{244 + host // 62500}.{host // 250 % 250}.{host % 250 + 2}" for host in hosts]
    if tweak:
        addresses[0] = f"10.250.{tweak // 250}.{tweak % 250 + 2}"
    return slice_of(f"s{number}", *addresses)


def fill(view: View, count: int) -> None:
    """So many Services."""
    for number in range(count):
        put(view, service(f"s{number}", f"10.{96 + number // 62500}.{number // 250 % 250}.{number % 250 + 2}"),
            members(number))


def memory() -> float:
    """Resident memory of this process in MB."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def processor() -> tuple[float, float]:
    """Seconds of this process, and of the commands that it ran."""
    own, commands = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, commands.ru_utime + commands.ru_stime


@contextlib.asynccontextmanager
async def steady() -> AsyncIterator[list[float]]:
    """A client that asks an unchanging Service on loopback meanwhile; its count, losses and slowest answer."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-ISc", "import socket\ns = socket.create_server(('0.0.0.0', 8080), backlog=128)\n"
        "print('ready', flush=True)\nwhile True:\n    c, _ = s.accept()\n    c.recv(10)\n    c.sendall(b'!')\n"
        "    c.close()", stdout=asyncio.subprocess.PIPE)
    assert server.stdout is not None
    await server.stdout.readline()
    client = await asyncio.create_subprocess_exec(sys.executable, "-ISc", _QUIET_LOOP, "10.111.0.1",
                                                  stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    await client.stdout.readline()
    result: list[float] = []
    try:
        yield result
        output, _ = await client.communicate(b"\n")
        result += json.loads(output)
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
        server.kill()
        await server.wait()


def prepare() -> None:
    """An address to ask from and to answer at."""
    for words in ("link set lo up", f"addr add {FACTS.ip}/32 dev lo", f"route add 10.96.0.0/11 dev lo src {FACTS.ip}"):
        subprocess.run(["ip", *words.split()], check=True)


async def measure(count: int, changes: int) -> None:
    """One size."""
    view = View()
    bare = memory()
    fill(view, count)
    put(view, service("steady", "10.111.0.1"), slice_of("steady", FACTS.ip))
    gc.collect()
    held = memory()
    tables = HostTables()
    proxier = Proxier(view, tables, HostFlows(), FACTS, SystemClock())
    running = asyncio.create_task(proxier.run())

    async def synced() -> float:
        proxier.synced.clear()
        begun = time.perf_counter()
        await proxier.synced.wait()
        return time.perf_counter() - begun

    before = processor()
    view.confirm()
    full = await synced()
    own, commands = (after - first for after, first in zip(processor(), before, strict=True))
    gc.collect()
    print(f"full sync: {full:.2f} s ({own:.2f} s of it our own processor time, {commands:.2f} s iptables')")
    print(f"memory: {memory():.0f} MB; before the rules {held:.0f}, before the Services {bare:.0f}", flush=True)
    async with steady() as asked:
        await asyncio.sleep(1)
        took, spent = [], 0.0
        for step in range(changes):
            before = processor()
            put(view, members(step * 7919 % count, step + 1))
            took.append(await synced())
            spent += sum(processor()) - sum(before)
            await asyncio.sleep(0.5)
        print(f"one endpoint's change: {tell(took)}; processor {1000 * spent / changes:.0f} ms each")
        took = []
        for step in range(max(3, changes // 4)):
            put(view, service(f"n{step}", f"10.110.0.{step + 1}"), slice_of(f"n{step}", "10.244.0.9"))
            took.append(await synced())
            await asyncio.sleep(0.5)
            delete(view, service(f"n{step}", ""), slice_of(f"n{step}"))
            took.append(await synced())
            await asyncio.sleep(0.5)
        print(f"a Service comes or goes: {tell(took)}", flush=True)
    print(f"an unchanged Service meanwhile: {asked[0]:.0f} connections, {asked[1]:.0f} lost, the slowest "
          f"{1000 * asked[2]:.0f} ms")
    await asyncio.to_thread(subprocess.run, ["iptables", "-t", "nat", "-N", "STRANGER"], check=True)
    begun = time.perf_counter()
    await proxier._disturbed()  # noqa: SLF001 - to measure the look, not the time until it is made
    print(f"a look whether others changed our rules: {1000 * (time.perf_counter() - begun):.0f} ms")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    proxier = Proxier(view, tables, HostFlows(), FACTS, SystemClock())
    running = asyncio.create_task(proxier.run())
    print(f"a restarted proxy finds everything in place: {await synced():.2f} s", flush=True)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await tables.close()
    before = processor()
    whole = one_restore(view)
    whole_commands = processor()[1] - before[1]
    print(f"one iptables-restore of the whole: {whole:.2f} s, {whole_commands:.2f} s of it processor time\n"
          f"full sync is {full / whole:.2f} of it (aim at 5,000: 0.3), by processor time "
          f"{(own + commands) / whole_commands:.2f}", flush=True)


def one_restore(view: View) -> float:
    """Seconds to write all rules at once into an empty namespace."""
    slices: dict[tuple[str, str], list[EndpointSlice]] = {}
    for item in view.list(ENDPOINTSLICES):
        slices.setdefault(("default", item.metadata.labels["kubernetes.io/service-name"]), []).append(item)
    text = restore_input(Edit(write=wanted(view.list(SERVICES), slices, FACTS)))
    begun = time.perf_counter()
    try:
        subprocess.run(["unshare", "--net", "iptables-restore", "--noflush"], input=text, text=True, check=True,
                       timeout=WHOLE_LIMIT)
    except subprocess.TimeoutExpired:
        print(f"(the whole at once took more than {WHOLE_LIMIT:.0f} s)")
    return time.perf_counter() - begun


def tell(took: list[float]) -> str:
    """Median and worst in ms."""
    return f"median {1000 * statistics.median(took):.0f} ms, worst of {len(took)} {1000 * max(took):.0f} ms"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        prepare()
        asyncio.run(measure(arguments.services[0], arguments.changes))
        return 0
    for count in arguments.services:
        print(f"--- {count} Services of {ENDPOINTS} endpoints, load {os.getloadavg()[0]:.1f}", flush=True)
        subprocess.run(["unshare", "--net", sys.executable, __file__, "--inside", "--services", str(count),
                        "--changes", str(arguments.changes)], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
