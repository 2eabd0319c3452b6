"""What master and agent cost while nothing happens: memory, CPU time and wake-ups with 30 running pods.

    sudo python bench/idle.py [--seconds 60] [--pods 30]     # options for an existing cluster: --help

Memory is the resident set (VmRSS), with shared pages. A wake-up is a voluntary context switch of any thread. With a
cluster of its own, the time of `sampan up` to a Ready node on an installed host is measured first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import place
import uvloop

from sampan.api.resources import PODS, SERVICEACCOUNTS
from sampan.api.types import core_v1, meta_v1
from sampan.client import kubeconfig
from sampan.client.http import HttpClient
from sampan.client.protocol import DeleteOptions

NAMESPACE = "default"
SETTLE = 15.0
PATIENCE = 120.0
TICKS = os.sysconf("SC_CLK_TCK")
AIMS = {"master": 120, "agent": 80}


@dataclass(frozen=True)
class Use:
    """Of one process until now: memory in MB, CPU seconds, voluntary context switches of its threads."""

    memory: float
    cpu: float
    wakes: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Use:
        """Read /proc (proc(5))."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        memory = next(line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                      if line.startswith("VmRSS:"))
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        wakes = sum(int(line.split()[1]) for thread in threads for line in (thread / "status").read_text().splitlines()
                    if line.startswith("voluntary_ctxt_switches:"))
        return cls(int(memory) / 1024, (int(fields[11]) + int(fields[12])) / TICKS, wakes, len(threads))


async def run_pods(client: HttpClient, image: str, count: int) -> list[str]:
    """Create pods and wait until all are Running."""
    async with asyncio.timeout(PATIENCE):
        while not (await client.list(SERVICEACCOUNTS, NAMESPACE)).items:
            await asyncio.sleep(0.1)
        names = [f"idle-{number}" for number in range(count)]
        for name in names:
            await client.create(PODS, core_v1.Pod(
                metadata=meta_v1.ObjectMeta(name=name, namespace=NAMESPACE),
                spec=core_v1.PodSpec(termination_grace_period_seconds=1, containers=[
                    core_v1.Container(name="main", image=image, command=["sleep", "100000"])])), NAMESPACE)
        while not all(pod.status.phase == "Running" for pod in (await client.list(PODS, NAMESPACE)).items):
            await asyncio.sleep(0.2)
    return names


async def remove_pods(client: HttpClient, names: list[str]) -> None:
    """Delete them and wait."""
    for name in names:
        await client.delete(PODS, name, NAMESPACE, DeleteOptions(grace_period=1))
    async with asyncio.timeout(PATIENCE):
        while {pod.metadata.name for pod in (await client.list(PODS, NAMESPACE)).items} & set(names):
            await asyncio.sleep(0.2)


def report(name: str, before: Use, after: Use, seconds: float) -> float:
    """One process; returns its share of a core in percent."""
    share = (after.cpu - before.cpu) / seconds * 100
    print(f"{name:8} RSS {after.memory:6.1f} MB (aim: at most {AIMS[name]})   CPU {after.cpu - before.cpu:5.2f} s in "
          f"{seconds:.0f} s = {share:4.2f} % of a core   {(after.wakes - before.wakes) / seconds:5.1f} wake-ups/s   "
          f"{after.threads} threads")
    return share


async def measure(where: place.Place, pods: int, seconds: float) -> None:
    """Run the pods, let things settle, look twice."""
    async with HttpClient(kubeconfig.load(where.kubeconfig)) as client:
        names = await run_pods(client, where.image, pods)
    await asyncio.sleep(SETTLE)
    ids = {name: where.process(name) for name in AIMS}
    before = {name: Use.of(pid) for name, pid in ids.items()}
    begun = time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - begun
    print(f"{pods} running pods, over {passed:.0f} s:")
    together = sum(report(name, before[name], Use.of(pid), passed) for name, pid in ids.items())
    print(f"together {together:.2f} % of a core (aim: under 2)")
    async with HttpClient(kubeconfig.load(where.kubeconfig)) as client:
        await remove_pods(client, names)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pods", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60.0)
    place.add_options(parser)
    arguments = parser.parse_args()
    where = place.find(arguments)
    if where is None:
        return place.run_in_own(time_up=True)
    uvloop.run(measure(where, arguments.pods, arguments.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
