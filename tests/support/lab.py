"""A lab of three nodes for tests: brought up by `sampan lab up`, one for all tests of a session.

With SAMPAN_TEST_LAB=NAME in the environment the tests use the lab of that name, which runs already, and leave it
running: that is quicker while one works at them. `sampan lab up --name NAME` makes it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from tests.support import engine
from tests.support.engine import IMAGE
from tests.support.kubectl import Kubectl
from tests.support.space import Space, patience
from tests.support.watch import Json

SAMPAN = str(Path(sys.executable).parent / "sampan")
TOOLS = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
Part = Literal["containerd", "docker", "master", "agent", "all"]


@dataclass(frozen=True)
class LabNode:
    """One host of the lab. `processes` are those of the moment when it was asked for."""

    name: str
    ip: str
    namespace: str
    docker_host: str
    roles: tuple[str, ...]
    processes: dict[str, int]
    directories: dict[str, Path]

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that enters the host's network namespace."""
        return ("nsenter", f"--net=/run/netns/{self.namespace}")


@dataclass(frozen=True)
class LabHandle:
    """A running lab: the machine's side of it. The cluster's side is `kubectl()`."""

    name: str

    def sampan(self, *arguments: str, timeout: float = 300, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `sampan lab …` for this lab."""
        command, *rest = arguments
        done = subprocess.run([SAMPAN, "lab", command, "--name", self.name, *rest], capture_output=True, text=True,
                              timeout=timeout, check=False, env={**os.environ, "PATH": TOOLS})
        assert not check or done.returncode == 0, (
            f"sampan lab {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    @property
    def status(self) -> Json:
        """What `sampan lab status -o json` says now."""
        found: Json = json.loads(self.sampan("status", "-o", "json").stdout)
        return found

    @cached_property
    def hosts(self) -> dict[str, LabNode]:
        """The hosts by name, for what stays as it is: `processes` are those of the first time."""
        return self.nodes

    @cached_property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; it works from the machine itself."""
        return Path(self.status["kubeconfig"])

    @property
    def server(self) -> str:
        """The API server's URL."""
        return str(self.status["server"])

    @property
    def nodes(self) -> dict[str, LabNode]:
        """The hosts by name: master, node1, node2."""
        return {item["name"]: LabNode(item["name"], item["ip"], item["namespace"], item["docker_host"],
                                      tuple(item["roles"]), item["processes"],
                                      {key: Path(path) for key, path in item["directories"].items()})
                for item in self.status["nodes"]}

    @property
    def workers(self) -> list[LabNode]:
        """The hosts that take ordinary pods."""
        return [node for node in self.nodes.values() if "control-plane" not in node.roles]

    def node(self, name: str) -> LabNode:
        """One host as it is now."""
        return self.nodes[name]

    # The cluster.

    def kubectl(self, version: str = "1.32") -> Kubectl:
        """A kubectl that talks to this cluster, from the machine."""
        kubeconfig = self.kubeconfig
        home = kubeconfig.parent / f"home-{version}"
        home.mkdir(exist_ok=True)
        return Kubectl(version, kubeconfig, home)

    def until_ready(self, *names: str, seconds: float = 120) -> None:
        """Wait until these nodes (else all) are Ready."""
        kubectl = self.kubectl()
        wanted = set(names or self.hosts)
        patience(f"{sorted(wanted)} Ready", lambda: wanted <= ready_nodes(kubectl), seconds, 0.3)

    # The hosts.

    def run(self, node: str, *command: str, timeout: float = 120, check: bool = True,
            stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command on a host (its network, its DOCKER_HOST)."""
        host = self.hosts[node]
        done = subprocess.run([*host.enter, *command], capture_output=True, text=True, timeout=timeout, check=False,
                              input=stdin, env={**os.environ, "PATH": TOOLS, "DOCKER_HOST": host.docker_host})
        assert not check or done.returncode == 0, (
            f"{node}: {' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def exec(self, node: str, *command: str, timeout: float = 120, check: bool = True) -> str:
        """Run a command on a host, and return what it prints."""
        return self.run(node, *command, timeout=timeout, check=check).stdout

    def docker(self, node: str, *arguments: str, check: bool = True) -> str:
        """Run docker on a host."""
        return self.exec(node, "docker", *arguments, check=check)

    def log(self, node: str, part: Part = "agent") -> str:
        """The log of a part so far."""
        return (self.hosts[node].directories["log"] / f"{part}.log").read_text(errors="replace")

    def load_box(self, reference: str = IMAGE, **options: Any) -> str:
        """Import the test image (busybox, bash as sh) into every node's engine; options as `engine.import_image`."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda node: engine.import_image(engine_of(node), reference, **options),
                          self.hosts.values()))
        return reference

    # Trouble.

    def kill(self, node: str, part: Part = "all") -> None:
        """A power cut of the host, or the sudden end of one part; it stays away until `start`."""
        self.sampan("kill", node, part)

    def stop(self, node: str, part: Part = "all") -> None:
        """Shut the host down, or end one part politely; it stays away until `start`."""
        self.sampan("stop", node, part)

    def start(self, node: str, part: Part = "all") -> None:
        """Switch the host on, or start one part; what runs is left alone."""
        self.sampan("start", node, part)

    def restart(self, node: str, part: Part = "agent", *, kill: bool = False) -> None:
        """End one part (by SIGKILL if wanted); its supervisor starts it again, with the sockets it had stored."""
        self.sampan("restart", node, part, *(["--kill"] if kill else []))

    def partition(self, *nodes: str) -> None:
        """Cut these hosts off from the others and from the machine; among themselves they are joined."""
        self.sampan("partition", *nodes)

    def heal(self) -> None:
        """Join all hosts again."""
        self.sampan("heal")


class LabSpace(Space):
    """A namespace of the lab's cluster; as `Space`, with the node of a pod where an engine is asked."""

    def __init__(self, lab: LabHandle, name: str) -> None:
        self.lab = lab
        super().__init__(_AnyNode(lab), name)  # type: ignore[arg-type]  # what Space needs of a cluster, lab-wide

    def node_of(self, name: str) -> str:
        """The node that a pod is bound to."""
        return str(self.pods.until(f"{name} is bound", lambda pods: pods[name]["spec"]["nodeName"])[name]
                   ["spec"]["nodeName"])

    def boxes(self, name: str, container: str = "app", *, every: bool = False) -> list[Json]:
        """The containers of a pod in its node's engine."""
        return boxes_on(self.lab, self.node_of(name), self.name, name, container, every=every)


class _AnyNode:
    """What `Space` asks of a cluster, answered for all of the lab's nodes together."""

    def __init__(self, lab: LabHandle) -> None:
        self._lab = lab

    def kubectl(self) -> Kubectl:
        """The cluster's."""
        return self._lab.kubectl()

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Of every engine, one after the other."""
        return "".join(self._lab.docker(name, *arguments, check=check) for name in self._lab.hosts)

    def log(self, part: Literal["master", "agent"]) -> str:
        """The ends of all logs."""
        names = ["master"] if part == "master" else list(self._lab.hosts)
        return "".join(f"--- {name}\n{self._lab.log(name, part)[-3000:]}\n" for name in names)


def ready_nodes(kubectl: Kubectl) -> set[str]:
    """The names of the nodes that are Ready."""
    listed = kubectl.run("get", "nodes", "-o", "json", timeout=60)
    if listed.code != 0:
        return set()
    return {item["metadata"]["name"] for item in json.loads(listed.out)["items"]
            if any(entry["type"] == "Ready" and entry["status"] == "True"
                   for entry in item["status"].get("conditions", ()))}


def engine_of(node: LabNode) -> engine.EngineHandle:
    """A node's engine, for what tests.support.engine can do."""
    return engine.EngineHandle(node.directories["data"], node.docker_host, node.namespace, owns_netns=False,
                               cgroup_parent=f"/{node.namespace}")


def boxes_on(lab: LabHandle, node: str, namespace: str, name: str, container: str, *, every: bool) -> list[Json]:
    """The containers of a pod in one engine."""
    wanted = {"pod.name": name, "pod.namespace": namespace, **({"container.name": container} if container else {})}
    filters = [word for key, value in wanted.items() for word in ("--filter", f"label=io.kubernetes.{key}={value}")]
    found = lab.docker(node, "ps", "--no-trunc", "-q", *(["--all"] if every else []), *filters).split()
    # It shows those that are there still, and fails for those that went between the two looks.
    return json.loads(lab.docker(node, "inspect", *found, check=False)) if found else []


# What is left behind.

def strays(lab: LabHandle, pods: Iterable[Json]) -> list[str]:
    """What is on the nodes of a running lab that belongs to none of these pods, or twice to one.

    It is still being taken away, perhaps: look again for less.
    """
    of_node: dict[str, set[str]] = {}
    for pod in pods:
        of_node.setdefault(pod["spec"].get("nodeName", ""), set()).add(pod["metadata"]["uid"])
    try:
        return [f"{node.name}: {what}" for node in lab.hosts.values()
                for what in node_strays(lab, node, of_node.get(node.name, set()))]
    except FileNotFoundError as error:
        return [f"{error.filename}, which went while it was looked at"]


def node_strays(lab: LabHandle, node: LabNode, uids: Collection[str]) -> list[str]:
    """The same for one node."""
    listed = lab.docker(node.name, "ps", "-a", "--no-trunc", "--filter", f"label=sampan.node={node.name}", "--format",
                        '{{.ID}} {{.State}} {{.Label "io.kubernetes.pod.uid"}} '
                        '{{.Label "io.kubernetes.container.name"}} {{.Names}}')
    boxes = [line.split() for line in listed.splitlines()]
    found = [f"container {box[4]}" for box in boxes if box[2] not in uids]
    running = Counter((uid, name) for _, state, uid, name, _ in boxes if state == "running")
    found += [f"{count} containers {name} of pod {uid}" for (uid, name), count in running.items() if count > 1]
    sandboxes = {box[0] for box in boxes if box[1] == "running" and box[3] == "POD" and box[2] in uids}
    ports = {f"smp{sandbox[:12]}" for sandbox in sandboxes}
    links = re.findall(r"^\d+: ([^:@]+)", lab.exec(node.name, "ip", "-o", "link"), re.MULTILINE)
    found += [f"link {name}" for name in links if re.fullmatch("smp[0-9a-f]{12}", name) and name not in ports]
    owned = set()
    for path in leases(node):
        if json.loads(path.read_text())["sandbox"] in sandboxes:
            owned.add(path.name)
        else:
            found.append(f"lease {path.name}")
    targets = re.findall(r"-A SAMPAN-HOSTPORTS .*--to-destination ([0-9.]+):", lab.exec(node.name, "iptables-save"))
    found += [f"rule to {address}" for address in targets if address not in owned]
    found += [f"cgroup {path}" for path in pod_cgroups(node) if path.name.removeprefix("pod") not in uids]
    found += [f"directory {path}" for path in (node.directories["data"] / "agent" / "pods").glob("*")
              if path.name not in uids]
    found += [f"mount {path}" for path in mounts(node.directories["data"]) if not set(uids) & set(path.parts)]
    return found + [f"volume {name}" for name in lab.docker(node.name, "volume", "ls", "-q").split()]


def leases(node: LabNode) -> list[Path]:
    """The files of addresses in use."""
    folder = node.directories["run"] / "ipam"
    return sorted(path for path in folder.glob("*/*") if re.fullmatch(r"[0-9.]+", path.name))


def pod_cgroups(node: LabNode) -> list[Path]:
    """The pods' cgroups, in every hierarchy."""
    top = Path("/sys/fs/cgroup")
    places = [place for root in (top, *top.iterdir())
              for place in root.glob(f"{node.namespace}-pods/kubepods/**/pod*")]
    return sorted(path for path in places if path.is_dir())


def mounts(below: Path) -> list[Path]:
    """What is mounted below a directory."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [Path(point) for point in points if point.startswith(f"{below}/")]


def remains(name: str) -> list[str]:
    """What a lab that was taken down has left on this machine: to be nothing."""
    marks = (f"sampan-{name}-", f"/sampan-lab/{name}/")
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"sampan-{name}-*")]
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(f"lab-{name}")]
    found += [f"directory {path}" for path in (Path("/run/sampan-lab") / name, Path("/var/lib/sampan-lab") / name)
              if path.exists()]
    found += [f"mount {line.split()[4]}" for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if any(mark in line for mark in marks)]
    top = Path("/sys/fs/cgroup")
    found += [f"cgroup {path}" for root in (top, *top.iterdir()) if root.is_dir()
              for path in root.glob(f"sampan-{name}-*")]
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False, timeout=60).stdout
    found += [f"rule {line}" for line in rules.splitlines() if f"lab-{name}" in line.split() or f"lab {name}" in line]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            found += [f"process {entry.name}: {words}"] if any(mark in words for mark in marks) else []
    return found


def main() -> int:
    """The command: give a lab's nodes the test image."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.lab", description="for trying things by hand")
    parser.add_argument("action", choices=["box"], help=f"import {IMAGE} into every node's engine")
    parser.add_argument("--name", default="lab", help="the lab (default: %(default)s)")
    LabHandle(parser.parse_args().name).load_box()
    return 0


if __name__ == "__main__":
    sys.exit(main())
