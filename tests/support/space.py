"""A namespace of a test cluster, with short ways to make pods and to see what became of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.support.cluster import ClusterHandle
from tests.support.engine import IMAGE
from tests.support.watch import Json, Watcher

SLEEP = ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"]
"""Runs until it is asked to end, and then ends at once."""


class Space:
    """One namespace. Calling it runs kubectl in it; `pods` and `events` follow what happens there."""

    def __init__(self, cluster: ClusterHandle, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.kubectl = cluster.kubectl()
        self.kubectl("create", "namespace", name)
        self.pods = Watcher(self.kubectl, f"/api/v1/namespaces/{name}/pods")
        self._events: Watcher | None = None

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 150) -> str:
        """Run kubectl in the namespace."""
        return self.kubectl("--namespace", self.name, *arguments, stdin=stdin, timeout=timeout)

    def close(self) -> None:
        """End the watches, and delete everything; the namespace goes with its last pod."""
        self.pods.close()
        if self._events:
            self._events.close()
        self.kubectl("delete", "namespace", self.name, "--timeout=120s", timeout=150)

    # Making.

    def create(self, *objects: Json) -> None:
        """Create objects of any kind."""
        for item in objects:
            item["metadata"].setdefault("namespace", self.name)
        self("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))

    def pod(self, name: str, command: list[str] | None = None, **spec: Any) -> str:
        """Create a pod of one container "app", or of what `spec` says; returns its name."""
        self.create(pod(name, command, **spec))
        return name

    # Seeing.

    @property
    def events(self) -> Watcher:
        """The namespace's events."""
        if self._events is None:
            self._events = Watcher(self.kubectl, f"/api/v1/namespaces/{self.name}/events")
        return self._events

    def until(self, name: str, what: str, holds: Callable[[Json], object], seconds: float = 120) -> Json:
        """Wait until something holds of one pod, and return the pod."""
        try:
            return self.pods.until(f"pod {name}: {what}", lambda pods: holds(pods[name]), seconds)[name]
        except AssertionError as error:
            error.add_note(self("get", "events", "--sort-by=.metadata.creationTimestamp"))
            error.add_note(self.cluster.docker("ps", "-a"))
            error.add_note(self.cluster.log("agent")[-4000:])
            raise

    def ready(self, *names: str, seconds: float = 120) -> list[Json]:
        """Wait until the pods are ready."""
        return [self.until(name, "is ready", is_ready, seconds) for name in names]

    def phase(self, name: str, phase: str, seconds: float = 120) -> Json:
        """Wait until the pod has reached a phase."""
        return self.until(name, f"is {phase}", lambda seen: seen["status"]["phase"] == phase, seconds)

    def gone(self, *names: str, seconds: float = 120) -> None:
        """Wait until the pods' objects are gone."""
        self.pods.until(f"{', '.join(names)} gone", lambda pods: not set(names) & set(pods), seconds)

    def told(self, reason: str, name: str, text: str = "", seconds: float = 120) -> Json:
        """Wait for an event of a pod whose message holds a text, and return it."""

        def fits(event: Json) -> bool:
            return (event["reason"] == reason and event["involvedObject"]["name"] == name
                    and text in event.get("message", ""))

        found = self.events.until(f"an event {reason} of {name} with {text!r}",
                                  lambda events: any(map(fits, events.values())), seconds)
        return next(filter(fits, found.values()))

    def boxes(self, name: str, container: str = "app", *, every: bool = False) -> list[Json]:
        """The engine's containers of a pod ("POD" is the infra container), newest first; with `every` dead ones too."""
        wanted = {"pod.name": name, "pod.namespace": self.name, **({"container.name": container} if container else {})}
        filters = [word for key, value in wanted.items() for word in ("--filter", f"label=io.kubernetes.{key}={value}")]
        found = self.cluster.docker("ps", "--no-trunc", "-q", *(["--all"] if every else []), *filters).split()
        # It shows those that are there still, and fails for those that went between the two looks.
        return json.loads(self.cluster.docker("inspect", *found, check=False)) if found else []

    def box(self, name: str, container: str = "app") -> Json:
        """The one running container."""
        found = self.boxes(name, container)
        assert len(found) == 1, [box["Name"] for box in found]
        return found[0]

    def run(self, name: str, *command: str, container: str = "app", check: bool = True) -> str:
        """Run a command in a pod's container, through kubectl."""
        arguments = ("exec", name, "-c", container, "--", *command)
        if check:
            return self(*arguments)
        result = self.kubectl.run("--namespace", self.name, *arguments)
        return result.out + result.err

    def reaches(self, name: str, address: str, seconds: float = 120) -> None:
        """Wait until a pod reaches an address (its first packets may be lost while links come up)."""
        patience(f"{name} reaches {address}", lambda: "1 packets received" in self.run(
            name, "ping", "-c", "1", "-W", "1", address, check=False), seconds)


def pod(name: str, command: list[str] | None = None, **spec: Any) -> Json:
    """A pod's manifest; `app` are further fields of its one container."""
    app = spec.pop("app", {})
    labels = spec.pop("labels", {})
    spec.setdefault("terminationGracePeriodSeconds", 5)
    spec.setdefault("containers", [box("app", command, **app)])
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def box(name: str, command: list[str] | None = None, **fields: Any) -> Json:
    """A container."""
    return {"name": name, "image": IMAGE, "command": command or SLEEP, **fields}


def is_ready(seen: Json) -> bool:
    """Whether a pod's condition Ready is True, and it is not being deleted."""
    conditions = {entry["type"]: entry["status"] for entry in seen["status"].get("conditions", ())}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in seen["metadata"]


def condition(seen: Json, kind: str) -> str:
    """A condition's status, "" where there is none."""
    return next((str(entry["status"]) for entry in seen["status"].get("conditions", ()) if entry["type"] == kind), "")


def state(seen: Json, container: str = "app") -> Json:
    """A container's status, of whichever list it is in; KeyError where there is none yet."""
    lists = ("containerStatuses", "initContainerStatuses")
    found = {entry["name"]: entry for key in lists for entry in seen["status"].get(key, ())}
    status: Json = found[container]
    return status


def restarts(seen: Json, container: str = "app") -> int:
    """A container's restart count."""
    return int(state(seen, container)["restartCount"])


def waiting(seen: Json, container: str = "app") -> str:
    """Why a container waits, "" where it does not."""
    return str(state(seen, container)["state"].get("waiting", {}).get("reason", ""))


def terminated(seen: Json, container: str = "app", *, last: bool = False) -> Json:
    """How a container ended; KeyError where it did not."""
    found: Json = state(seen, container)["lastState" if last else "state"]["terminated"]
    return found


def patience(what: str, holds: Callable[[], object], seconds: float = 120, pause: float = 0.1) -> None:
    """For what nothing tells of: look now and then until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
