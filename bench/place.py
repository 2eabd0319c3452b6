r"""Where a benchmark runs: a cluster that is there already, or one of its own that is gone afterwards.

    python bench/SOMETHING.py                         # as root; starts a Docker Engine and a cluster of its own
    python bench/SOMETHING.py --kubeconfig /etc/sampan/admin.kubeconfig --docker-host unix:///var/run/docker.sock \\
        --image busybox:latest --run-dir /run/sampan  # on a host where Sampan runs

A cluster of its own stands in a network namespace; the benchmark then starts itself again inside.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support import cluster

UPS = 3
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Place:
    """How to reach the cluster and the engine under it; `image` holds a shell and `sleep`."""

    kubeconfig: Path
    docker_host: str
    image: str
    run_dir: Path

    def process(self, name: str) -> int:
        """The process id of master or agent."""
        if (pidfile := self.run_dir / f"{name}.pid").exists():  # started without systemd: the supervisor's child
            supervisor = pidfile.read_text().strip()
            return int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()[0])
        shown = subprocess.run(["systemctl", "show", "-P", "MainPID", f"sampan-{name}"], capture_output=True,
                               text=True, check=True, timeout=10)
        return int(shown.stdout)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that tell of an existing cluster."""
    group = parser.add_argument_group("an existing cluster, instead of one of its own")
    group.add_argument("--kubeconfig", type=Path)
    group.add_argument("--docker-host", default="unix:///var/run/docker.sock")
    group.add_argument("--image", default="busybox:latest", help="an image with sleep that the engine has")
    group.add_argument("--run-dir", type=Path, default=Path("/run/sampan"))


def find(arguments: argparse.Namespace) -> Place | None:
    """The cluster that the options name; None where there is to be one of its own."""
    if arguments.kubeconfig is None:
        return None
    return Place(arguments.kubeconfig, arguments.docker_host, arguments.image, arguments.run_dir)


def run_in_own(*, time_up: bool = False) -> int:
    """Bring a cluster up, run this program again inside it with the same options, and take the cluster away.

    `time_up`: first take it down and up again, and tell how long `sampan up` takes to a Ready node.
    """
    sys.path.insert(0, str(ROOT))
    from tests.support import cluster, engine  # noqa: PLC0415 - not needed, and not installed, on users' hosts

    with tempfile.TemporaryDirectory(prefix="b") as directory:
        # Without the tests' runtime wrapper: it costs each infra container, and none of the floor's, a run of jq.
        own = cluster.cluster_up(Path(directory) / "c", wrap_runtime=False)
        try:
            if time_up:
                _time_up(own, cluster.up_arguments(own.engine))
            command = [*own.enter, sys.executable, *sys.argv, "--kubeconfig", str(own.kubeconfig), "--docker-host",
                       own.engine.docker_host, "--image", engine.IMAGE, "--run-dir", str(own.directory / "run")]
            return subprocess.run(command, env={**os.environ, **own.environment}, check=False).returncode
        finally:
            cluster.cluster_down(own)


def _time_up(own: cluster.ClusterHandle, arguments: Sequence[str]) -> None:
    took = []
    for _ in range(UPS):
        own.sampan("down", "--purge")
        begun = time.perf_counter()
        own.sampan(*arguments)
        took.append(time.perf_counter() - begun)
    print(f"sampan up to a Ready node: {statistics.median(took):.1f} s, the median of {UPS}   (aim: at most 5)",
          flush=True)
