"""A whole one-node cluster for tests, brought up by `sampan up` itself, on a private Docker Engine in its own network
namespace.

    python -m tests.support.cluster up --dir /tmp/c      # for trying things by hand; prints how to reach it
    python -m tests.support.cluster down --dir /tmp/c
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support import engine
from tests.support.kubectl import Kubectl

NODE = "node-1"
NODE_IP = "192.168.77.10"
SAMPAN = str(Path(sys.executable).parent / "sampan")


@dataclass(frozen=True)
class ClusterHandle:
    """A running cluster and the engine under it."""

    directory: Path
    engine: engine.EngineHandle

    @property
    def environment(self) -> dict[str, str]:
        """What the `sampan` command needs to find this cluster."""
        place = {f"SAMPAN_{name.upper()}_DIR": str(self.directory / name) for name in ("config", "data", "run", "log")}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": str(self.directory),
                "LC_ALL": "C.UTF-8", "DOCKER_HOST": self.engine.docker_host, **place}

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that enters the node's network namespace."""
        return ("nsenter", f"--net=/run/netns/{self.engine.netns}")

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "config" / "admin.kubeconfig"

    def run(self, *command: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on the node."""
        done = subprocess.run([*self.enter, *command], env=self.environment, capture_output=True, text=True,
                              timeout=timeout, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def sampan(self, *arguments: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the sampan command on the node."""
        return self.run(SAMPAN, *arguments, timeout=timeout, check=check)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run docker on the node."""
        return self.run("docker", *arguments, check=check).stdout

    def kubectl(self, version: str = "1.32") -> Kubectl:
        """A kubectl that talks to this cluster."""
        home = self.directory / f"home-{version}"
        home.mkdir(exist_ok=True)
        return Kubectl(version, self.kubeconfig, home, self.enter)

    def process(self, name: Literal["master", "agent"]) -> int:
        """The process id of master or agent (the supervisor's child)."""
        supervisor = int((self.directory / "run" / f"{name}.pid").read_text())
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return int(children[0]) if children else 0

    def kill(self, name: Literal["master", "agent"], how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to master or agent; their supervisor starts them again."""
        os.kill(self.process(name), how)

    def log(self, name: Literal["master", "agent"]) -> str:
        """The log so far."""
        return (self.directory / "log" / f"{name}.log").read_text()


def up_arguments(handle: engine.EngineHandle) -> Sequence[str]:
    """The options of `sampan up` for this engine."""
    return ("up", "--node-name", NODE, "--node-ip", NODE_IP, "--docker-host", handle.docker_host,
            "--cgroup-root", f"{handle.cgroup_parent}-pods")


def cluster_up(directory: Path, *, dockerd_options: Sequence[str] = ()) -> ClusterHandle:
    """Start an engine and a cluster on it; keep `directory` short, it holds sockets."""
    private = engine.engine_up(directory / "engine", dockerd_options=dockerd_options)
    cluster = ClusterHandle(directory, private)
    try:
        engine.import_image(private)
        cluster.run("ip", "link", "set", "lo", "up")
        cluster.run("ip", "link", "add", "host0", "type", "bridge")
        cluster.run("ip", "addr", "add", f"{NODE_IP}/24", "dev", "host0")
        cluster.run("ip", "link", "set", "host0", "up")
        cluster.sampan(*up_arguments(private))
    except BaseException:
        sys.stderr.write("".join(f"--- {path}\n{path.read_text()[-6000:]}\n"
                                 for path in sorted((directory / "log").glob("*.log"))))
        cluster_down(cluster)
        raise
    return cluster


def cluster_down(cluster: ClusterHandle) -> None:
    """Take everything away; `sampan down` first, so that it is exercised too."""
    try:
        cluster.sampan("down", "--purge", check=False)
    finally:
        engine.engine_down(cluster.engine)


def leftovers(cluster: ClusterHandle) -> list[str]:
    """What is on the node that belongs to pods: containers, links, rules, addresses, cgroups, mounts."""
    found = [f"container {line}" for line in cluster.docker("ps", "-a", "--format", "{{.Names}}").split()]
    links = cluster.run("ip", "-o", "link").stdout
    found += [f"link {name}" for name in re.findall(r"^\d+: ([^:@]+)", links, re.MULTILINE)
              if name not in ("lo", "docker0", "host0") and not name.startswith(("ip", "tunl", "sit", "gre", "erspan"))]
    rules = cluster.run("iptables-save").stdout
    found += [f"rule {line}" for line in rules.splitlines() if "SAMPAN" in line or "10.244." in line]
    found += [f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if f"{cluster.directory}/data" in line]
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("up", "down"))
    parser.add_argument("--dir", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "down":
        cluster_down(ClusterHandle(arguments.dir, engine.load_handle(arguments.dir / "engine")))
        return 0
    cluster = cluster_up(arguments.dir)
    print(" ".join([*cluster.enter, "kubectl", f"--kubeconfig={cluster.kubeconfig}", "get pods -A"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
