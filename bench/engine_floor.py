"""How long the engine takes for a pod's two containers: by the bare SDK, and through our adapter.

    python bench/engine_floor.py unix:///path/docker.sock IMAGE [ROUNDS]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import docker

from agent.engine.docker import DockerEngine
from agent.engine.infra import ensure_infra_image
from agent.engine.protocol import ContainerSpec


def bare(host: str, infra: str, image: str, rounds: int) -> list[float]:
    """Create and start both, with nothing of ours."""
    api = docker.APIClient(host, version="auto")
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        first = api.create_container(infra, host_config=api.create_host_config(network_mode="none"))["Id"]
        api.start(first)
        shared = api.create_host_config(network_mode=f"container:{first}")
        second = api.create_container(image, ["sleep", "1000"], host_config=shared)["Id"]
        api.start(second)
        took.append(time.perf_counter() - begun)
        for container in (second, first):
            api.remove_container(container, force=True)
    return took


async def adapted(host: str, infra: str, image: str, rounds: int) -> list[float]:
    """The same through the adapter."""
    engine = DockerEngine(host)
    took = []
    for number in range(rounds):
        begun = time.perf_counter()
        first = await engine.create(ContainerSpec(f"bench-infra-{number}", infra))
        await engine.start(first)
        second = await engine.create(ContainerSpec(f"bench-app-{number}", image, command=["sleep", "1000"],
                                                   network_mode=f"container:{first}"))
        await engine.start(second)
        took.append(time.perf_counter() - begun)
        for container in (second, first):
            await engine.remove(container)
    await engine.close()
    return took


async def prepared(host: str) -> str:
    """Have the infra image there."""
    engine = DockerEngine(host)
    try:
        return await ensure_infra_image(engine)
    finally:
        await engine.close()


def report(name: str, took: Sequence[float]) -> None:
    """Median and extremes, in milliseconds."""
    print(f"{name}: median {statistics.median(took) * 1e3:.0f} ms, "
          f"{min(took) * 1e3:.0f} to {max(took) * 1e3:.0f} ms of {len(took)}")


def main() -> None:
    """Both, in turn, so that neither profits from a warm machine alone."""
    host, image = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 10
    infra = asyncio.run(prepared(host))
    bare(host, infra, image, 1)
    for _ in range(2):
        report("bare SDK", bare(host, infra, image, rounds))
        report("adapter ", asyncio.run(adapted(host, infra, image, rounds)))
    status = Path("/proc/self/status").read_text()
    print(next(line for line in status.splitlines() if line.startswith("VmRSS")))


if __name__ == "__main__":
    main()
