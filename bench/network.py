"""Throughput between pods of two nodes, beside a bare VXLAN device between the same two hosts in the same run.

    sudo python bench/network.py [--rounds 9] [--seconds 2] [--streams 1]

Two network namespaces are hosts, joined by a switch in a third; the pod network runs on both as an agent runs it. The
bare device is set up with `ip link add` on the same hosts: no pod, no bridge, no rules, iperf3 from host to host. It
is measured twice: with checksum offload turned off as on our device (the peer), and as the kernel makes it. All take
turns, and in the next round in the opposite order; the share is the median of the rounds' shares.

With offload, packets of 64 KB cross between namespaces unsegmented and unchecked, as they never do between machines.
`--offload` turns it on for our device too (`--vxlan-checksum-offload on` of the agent).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.hosts import Host, hosts
from tests.support.netns import process_with_network, run

PLAIN, EQUAL = "bare, as the kernel makes it", "bare, checksums as on ours"
OURS = "pod to pod"
NODE = "node to pod"
DEVICE = "node to node, over our device"


@dataclass(frozen=True)
class Way:
    """From a namespace to an address in another; `device` carries it on the sending host."""

    client: int
    server: int
    address: str


def bare(sender: Host, receiver: Host, name: str, vni: int) -> str:
    """A VXLAN device by hand on both hosts; the receiver's address."""
    for host, other in ((sender, receiver), (receiver, sender)):
        host.ip(f"link add {name} type vxlan id {vni} local {host.address} remote {other.address} dstport {8472 + vni} "
                "nolearning")
        host.ip(f"addr add 10.{vni}.0.{host.number}/24 dev {name}")
        host.ip(f"link set {name} up mtu 1450")
    return f"10.{vni}.0.{receiver.number}"


def gigabits(way: Way, seconds: float, streams: int) -> float:
    """What arrives in Gbit/s over TCP."""
    server = subprocess.Popen(["nsenter", f"--net=/proc/{way.server}/ns/net", "iperf3", "-s", "-1", "-B", way.address],
                              stdout=subprocess.DEVNULL)
    try:
        _wait_for_server(way)
        printed = run(["iperf3", "-c", way.address, "-t", str(seconds), "-P", str(streams), "-J"], way.client,
                      timeout=seconds + 60)
    finally:
        server.kill()
        server.wait()
    told = json.loads(printed)
    if "error" in told:
        raise RuntimeError(f"iperf3: {told['error']}")
    return float(told["end"]["sum_received"]["bits_per_second"]) / 1e9


def _wait_for_server(way: Way) -> None:
    """Until something listens there; connecting would use up its one client."""
    wanted = [f"{socket.inet_aton(way.address)[::-1].hex().upper()}:{5201:04X}", "0A"]  # its address, LISTEN
    deadline = time.monotonic() + 10
    while wanted not in [line.split()[1:4:2] for line in Path(f"/proc/{way.server}/net/tcp").read_text().splitlines()]:
        if time.monotonic() > deadline:
            raise TimeoutError("iperf3 does not listen")
        time.sleep(0.02)


def measure(ways: Mapping[str, Way], rounds: int, seconds: float, streams: int) -> dict[str, list[float]]:
    """Gbit/s of each round, in turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in (list(ways) if number % 2 == 0 else list(reversed(ways))):
            found[name].append(gigabits(ways[name], seconds, streams))
    return found


def report(found: Mapping[str, list[float]], peer: str) -> None:
    """A line a way; the share is of the peer's figure in the same round."""
    print(f"{'':32} {'Gbit/s':>8} {'lowest':>8} {'highest':>8} {'share':>7}")
    for name, figures in found.items():
        share = statistics.median(one / other for one, other in zip(figures, found[peer], strict=True))
        print(f"{name:32} {statistics.median(figures):8.2f} {min(figures):8.2f} {max(figures):8.2f} {share:7.2f}")


async def main(arguments: argparse.Namespace) -> None:
    """Set up, measure, print."""
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as state:
        pids = [stack.enter_context(process_with_network()) for _ in range(2)]
        async with hosts(2, Path(state), offload=arguments.offload) as (sender, receiver):
            await sender.pod(1, pids[0])
            pod = await receiver.pod(1, pids[1])
            plain, equal = bare(sender, receiver, "plain", 2), bare(sender, receiver, "equal", 3)
            if not arguments.offload:
                for host in (sender, receiver):
                    host.run("ethtool", "-K", "equal", "tx-checksum-ip-generic", "off")
            ways = {OURS: Way(pids[0], pids[1], pod), NODE: Way(sender.pid, pids[1], pod),
                    DEVICE: Way(sender.pid, receiver.pid, f"10.42.{receiver.number}.0"),
                    EQUAL: Way(sender.pid, receiver.pid, equal), PLAIN: Way(sender.pid, receiver.pid, plain)}
            gigabits(ways[EQUAL], 1, 1)  # warm up
            found = await asyncio.to_thread(measure, ways, arguments.rounds, arguments.seconds, arguments.streams)
    report(found, EQUAL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--offload", action="store_true", help="leave checksum offload on, on our device too")
    asyncio.run(main(parser.parse_args()))
