"""From a pod's creation to its being Ready, beside what the engine alone takes for the same two containers.

    sudo python bench/pod_start.py [--samples 20] [--rounds 3]     # options for an existing cluster: --help

The floor is the Docker SDK in plain use: create and start an infra container, create and start an app container in
its network. Samples of both take turns, so that whatever else the machine does hits both. The pod's time is what a
client sees: from sending the POST to the watch event (both over HTTPS) whose Ready condition is True. Deleting is not
part of either time, and is waited for before the next sample.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import docker
import place
import uvloop

from sampan.api.resources import PODS, SERVICEACCOUNTS
from sampan.api.types import core_v1, meta_v1
from sampan.client import kubeconfig
from sampan.client.http import HttpClient
from sampan.client.protocol import DeleteOptions

NAMESPACE = "default"
INFRA_LABEL = "io.kubernetes.docker.type=podsandbox"
PATIENCE = 60.0
AT_ONCE = 30


class Floor:
    """The engine with nothing around it."""

    def __init__(self, host: str, image: str) -> None:
        self._host = host
        self._image = image
        self._infra = ""
        self._clients = [docker.APIClient(host, version="auto") for _ in range(AT_ONCE)]
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._made: list[str] = []

    def learn(self) -> None:
        """Find the infra image that the cluster uses; a pod is running."""
        found = self._clients[0].containers(filters={"label": INFRA_LABEL})
        self._infra = found[0]["ImageID"]

    def _start_one(self, api: docker.APIClient) -> None:
        first = api.create_container(self._infra, host_config=api.create_host_config(network_mode="none"))["Id"]
        self._made.append(first)
        api.start(first)
        shared = api.create_host_config(network_mode=f"container:{first}")
        second = api.create_container(self._image, ["sleep", "100000"], host_config=shared)["Id"]
        self._made.append(second)
        api.start(second)

    async def start(self, count: int) -> float:
        """Start as many at once; seconds until all run."""
        loop = asyncio.get_running_loop()
        begun = time.perf_counter()
        await asyncio.gather(*(loop.run_in_executor(self._pool, self._start_one, api)
                               for api in self._clients[:count]))
        return time.perf_counter() - begun

    async def clear(self) -> None:
        """Remove them."""
        made, self._made = self._made, []
        for batch in (made[1::2], made[::2]):  # any order does: both are removed by force
            await asyncio.gather(*(asyncio.to_thread(self._clients[0].remove_container, each, force=True)
                                   for each in batch))

    def containers(self) -> int:
        """How many containers the engine has."""
        return len(self._clients[0].containers(all=True, quiet=True))


class Pods:
    """The same through the cluster."""

    def __init__(self, client: HttpClient, image: str) -> None:
        self._client = client
        self._image = image
        self._ready: dict[str, float] = {}
        self._gone: set[str] = set()
        self._news = asyncio.Event()
        self._count = 0
        self._names: list[str] = []

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Within, the times at which pods become Ready are noted."""
        page = await self._client.list(PODS, NAMESPACE)
        task = asyncio.ensure_future(self._watch(page.revision))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, revision: str) -> None:
        async with contextlib.aclosing(self._client.watch(PODS, NAMESPACE, revision=revision)) as events:
            async for event in events:
                pod = event.object
                if pod is None:
                    continue
                name = pod.metadata.name
                if event.type == "DELETED":
                    self._gone.add(name)
                elif name not in self._ready and is_ready(pod):
                    self._ready[name] = time.perf_counter()
                self._news.set()

    async def start(self, count: int) -> float:
        """Create as many at once; seconds until all are Ready."""
        names = [f"bench-{self._count + number}" for number in range(count)]
        self._count += count
        self._names += names
        begun = time.perf_counter()
        await asyncio.gather(*(self._client.create(PODS, self._pod(name), NAMESPACE) for name in names))
        await self._until(names, self._ready)
        return max(self._ready[name] for name in names) - begun

    async def clear(self) -> None:
        """Delete them, and wait until they are gone."""
        now = DeleteOptions(grace_period=1)
        await asyncio.gather(*(self._client.delete(PODS, name, NAMESPACE, now) for name in self._names))
        await self._until(self._names, self._gone)
        self._names.clear()

    async def _until(self, names: Sequence[str], seen: Any) -> None:
        async with asyncio.timeout(PATIENCE):
            while not all(name in seen for name in names):
                self._news.clear()
                await self._news.wait()

    def _pod(self, name: str) -> core_v1.Pod:
        return core_v1.Pod(metadata=meta_v1.ObjectMeta(name=name, namespace=NAMESPACE), spec=core_v1.PodSpec(
            termination_grace_period_seconds=1,
            containers=[core_v1.Container(name="main", image=self._image, command=["sleep", "100000"])]))


def is_ready(pod: core_v1.Pod) -> bool:
    """Whether the Ready condition is True."""
    return any(item.type == "Ready" and item.status == "True" for item in pod.status.conditions)


async def settled(floor: Floor, expected: int) -> None:
    """Wait until the engine has no containers of earlier samples, and a moment more."""
    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(floor.containers) > expected:
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.3)


def report(name: str, took: Sequence[float]) -> None:
    """Median and 90th percentile in milliseconds."""
    ordered = sorted(took)
    print(f"{name:34} median {statistics.median(took) * 1e3:5.0f} ms   p90 {ordered[len(took) * 9 // 10] * 1e3:5.0f} ms"
          f"   min {ordered[0] * 1e3:5.0f} ms   ({len(took)} samples)")


async def one_by_one(floor: Floor, pods: Pods, samples: int, expected: int) -> None:
    """One at a time, in turns."""
    bare: list[float] = []
    whole: list[float] = []
    for number in range(samples):
        for who, took in ((floor, bare), (pods, whole)) if number % 2 else ((pods, whole), (floor, bare)):
            took.append(await who.start(1))
            await who.clear()
            await settled(floor, expected)
    report("floor: the SDK's two containers", bare)
    report("pod: create to Ready", whole)
    difference = statistics.median(whole) - statistics.median(bare)
    paired = statistics.median(b - a for a, b in zip(bare, whole, strict=True))
    print(f"{'difference':34} {difference * 1e3:+.0f} ms of the medians, {paired * 1e3:+.0f} ms the median of pairs"
          "   (aim: at most +100)")


async def at_once(floor: Floor, pods: Pods, rounds: int, expected: int) -> None:
    """Thirty at once, in turns."""
    bare: list[float] = []
    whole: list[float] = []
    for number in range(rounds):
        for who, took in ((floor, bare), (pods, whole)) if number % 2 else ((pods, whole), (floor, bare)):
            took.append(AT_ONCE / await who.start(AT_ONCE))
            await who.clear()
            await settled(floor, expected)
    for name, rates in ((f"floor: {AT_ONCE} at once", bare), (f"pods: {AT_ONCE} at once", whole)):
        print(f"{name:34} median {statistics.median(rates):5.2f} pods/s   "
              f"({', '.join(f'{rate:.2f}' for rate in rates)})")
    print(f"{'of the floor':34} {statistics.median(whole) / statistics.median(bare):.2f}   (aim: at least 0.95)")


async def measure(where: place.Place, samples: int, rounds: int) -> None:
    """Both measurements."""
    floor = Floor(where.docker_host, where.image)
    async with HttpClient(kubeconfig.load(where.kubeconfig)) as client:
        async with asyncio.timeout(PATIENCE):
            while not any(found.metadata.name == "default"
                          for found in (await client.list(SERVICEACCOUNTS, NAMESPACE)).items):
                await asyncio.sleep(0.1)
        pods = Pods(client, where.image)
        async with pods.watched():
            expected = await asyncio.to_thread(floor.containers)
            await pods.start(1)  # not counted: the infra image is made with the first pod
            floor.learn()
            await floor.start(1)
            for who in (pods, floor):
                await who.clear()
            await settled(floor, expected)
            if samples:
                await one_by_one(floor, pods, samples, expected)
            if rounds:
                await at_once(floor, pods, rounds, expected)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20, help="of single pods, and of the floor")
    parser.add_argument("--rounds", type=int, default=3, help=f"of {AT_ONCE} pods at once, and of the floor")
    place.add_options(parser)
    arguments = parser.parse_args()
    where = place.find(arguments)
    if where is None:
        return place.run_in_own()
    uvloop.run(measure(where, arguments.samples, arguments.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
