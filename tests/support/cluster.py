"""A whole one-node cluster for tests, brought up by `sampan up` itself, on a private Docker Engine in its own network
namespace.

    python -m tests.support.cluster up --dir /tmp/c      # for trying things by hand; prints how to reach it
    python -m tests.support.cluster down --dir /tmp/c
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
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
        """The process id of master or agent (the supervisor's child); waits for it while it is being started again."""
        supervisor = int((self.directory / "run" / f"{name}.pid").read_text())
        deadline = time.monotonic() + 60
        while not (children := Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()):
            assert time.monotonic() < deadline, f"{name} does not run"
            time.sleep(0.05)
        return int(children[0])

    def kill(self, name: Literal["master", "agent"], how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to master or agent; their supervisor starts them again."""
        os.kill(self.process(name), how)

    def crash(self, *names: Literal["master", "agent"]) -> None:
        """Kill master or agent with their supervisors: they stay away until `start`."""
        for name in names:
            child = self.process(name)
            os.kill(int((self.directory / "run" / f"{name}.pid").read_text()), signal.SIGKILL)
            os.kill(child, signal.SIGKILL)

    def start(self) -> None:
        """Start what does not run, and wait until master and node are ready."""
        self.sampan(*up_arguments(self.engine))

    def start_agent(self) -> None:
        """Start the agent alone, as after a boot that the master has no part in."""
        configuration = self.directory / "config" / "agent.yaml"
        run, log = self.directory / "run" / "agent.pid", self.directory / "log" / "agent.log"
        subprocess.Popen([*self.enter, sys.executable, "-m", "sampan.cli.supervisor", "--pidfile", run, "--log", log,
                          "--", str(Path(SAMPAN).with_name("sampan-agent")), "--config", configuration],
                         env=self.environment, stdin=subprocess.DEVNULL, start_new_session=True).returncode = 0

    def log(self, name: Literal["master", "agent"]) -> str:
        """The log so far."""
        return (self.directory / "log" / f"{name}.log").read_text(errors="replace")


def up_arguments(handle: engine.EngineHandle) -> Sequence[str]:
    """The options of `sampan up` for this engine."""
    return ("up", "--node-name", NODE, "--node-ip", NODE_IP, "--docker-host", handle.docker_host,
            "--cgroup-root", f"{handle.cgroup_parent}-pods")


def cluster_up(directory: Path, *, dockerd_options: Sequence[str] = (), wrap_runtime: bool = True) -> ClusterHandle:
    """Start an engine and a cluster on it; keep `directory` short, it holds sockets."""
    private = engine.engine_up(directory / "engine", dockerd_options=dockerd_options, wrap_runtime=wrap_runtime)
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
    """What is on the node that belongs to pods or to the agent: to be nothing once the cluster is down."""
    found = [f"container {line}" for line in cluster.docker("ps", "-a", "--format", "{{.Names}}").split()]
    found += [f"link {name}" for name in links(cluster)
              if name not in ("lo", "docker0", "host0") and not name.startswith(("ip", "tunl", "sit", "gre", "erspan"))]
    rules = cluster.run("iptables-save").stdout
    found += [f"rule {line}" for line in rules.splitlines() if "SAMPAN" in line or "10.244." in line]
    found += [f"cgroup {path}" for path in pod_cgroups(cluster)]
    found += [f"lease {path.name}" for path in leases(cluster)]
    found += [f"directory {path.name}" for path in pod_directories(cluster)]
    return found + [f"mount {path}" for path in mounts(cluster)]


def strays(cluster: ClusterHandle, uids: Collection[str]) -> list[str]:
    """What is on the node of a running cluster that belongs to none of the pods with these UIDs, or twice to one.

    It is still being taken away, perhaps: look again for less.
    """
    try:
        return _strays(cluster, uids)
    except FileNotFoundError as error:
        return [f"{error.filename}, which went while it was looked at"]


def _strays(cluster: ClusterHandle, uids: Collection[str]) -> list[str]:
    listed = cluster.docker("ps", "-a", "--no-trunc", "--filter", f"label=sampan.node={NODE}", "--format",
                            '{{.ID}} {{.State}} {{.Label "io.kubernetes.pod.uid"}} '
                            '{{.Label "io.kubernetes.container.name"}} {{.Names}}')
    boxes = [line.split() for line in listed.splitlines()]
    found = [f"container {box[4]}" for box in boxes if box[2] not in uids]
    running = Counter((uid, name) for _, state, uid, name, _ in boxes if state == "running")
    found += [f"{count} containers {name} of pod {uid}" for (uid, name), count in running.items() if count > 1]
    sandboxes = {box[0] for box in boxes if box[1] == "running" and box[3] == "POD" and box[2] in uids}
    ports = {f"smp{sandbox[:12]}" for sandbox in sandboxes}
    found += [f"link {name}" for name in links(cluster) if re.fullmatch("smp[0-9a-f]{12}", name) and name not in ports]
    owned = set()
    for path in leases(cluster):
        if json.loads(path.read_text())["sandbox"] in sandboxes:
            owned.add(path.name)
        else:
            found.append(f"lease {path.name}")
    targets = re.findall(r"-A SAMPAN-HOSTPORTS .*--to-destination ([0-9.]+):", cluster.run("iptables-save").stdout)
    found += [f"rule to {address}" for address in targets if address not in owned]
    found += [f"cgroup {path}" for path in pod_cgroups(cluster) if path.name.removeprefix("pod") not in uids]
    found += [f"directory {path.name}" for path in pod_directories(cluster) if path.name not in uids]
    found += [f"mount {path}" for path in mounts(cluster)
              if not any(uid in path.parts for uid in uids)]
    return found + [f"volume {name}" for name in cluster.docker("volume", "ls", "-q").split()]


def links(cluster: ClusterHandle) -> list[str]:
    """The node's network interfaces."""
    return re.findall(r"^\d+: ([^:@]+)", cluster.run("ip", "-o", "link").stdout, re.MULTILINE)


def leases(cluster: ClusterHandle) -> list[Path]:
    """The files of addresses in use."""
    folder = cluster.directory / "run" / "ipam" / "sampan"
    return sorted(path for path in folder.glob("*") if re.fullmatch(r"[0-9.]+", path.name))


def pod_cgroups(cluster: ClusterHandle) -> list[Path]:
    """The pods' cgroups, in every hierarchy."""
    root = f"{cluster.engine.cgroup_parent}-pods".lstrip("/")
    found = [path for pattern in ("*", "*/*") for path in Path("/sys/fs/cgroup").glob(f"*/{root}/kubepods/{pattern}")]
    return sorted(path for path in found if path.is_dir() and path.name.startswith("pod"))


def pod_directories(cluster: ClusterHandle) -> list[Path]:
    """The pods' directories."""
    return sorted((cluster.directory / "data" / "agent" / "pods").glob("*"))


def mounts(cluster: ClusterHandle) -> list[Path]:
    """What is mounted below the cluster's data directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(point) for point in points if point.startswith(f"{cluster.directory}/data/")]


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
