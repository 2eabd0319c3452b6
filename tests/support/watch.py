"""What a cluster's objects are and were, followed with `kubectl get --raw …watch=true`: tests wait for events, and do
not ask again and again."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.support.kubectl import Kubectl

Json = dict[str, Any]


class Watcher:
    """The objects of one collection by name, kept up to date; `history` holds every state that was seen.

    It lists, watches from there, and begins again when the server ends the watch or goes away. `close` ends it.
    """

    def __init__(self, kubectl: Kubectl, path: str, *, selector: str = "") -> None:
        """`path` is the collection's, such as /api/v1/namespaces/default/pods."""
        self._kubectl = kubectl
        self._path = path
        self._query = f"labelSelector={quote(selector)}" if selector else ""
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        self._ready = False
        self.objects: dict[str, Json] = {}
        self.history: list[tuple[str, Json]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def until(self, what: str, holds: Callable[[dict[str, Json]], object], seconds: float = 120) -> dict[str, Json]:
        """Return the objects once `holds` of them is true; AssertionError with what there was instead, when late."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not (self._ready and _tries(holds, self.objects)):
                left = deadline - time.monotonic()
                assert left > 0, f"not within {seconds:g} s: {what}\n{_short(self.objects)}"
                self._changed.wait(left)
            return dict(self.objects)

    def close(self) -> None:
        """End it."""
        self._closed.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._closed.is_set():
            listed = self._kubectl.run("get", "--raw", f"{self._path}?{self._query}")
            if listed.code != 0:
                self._closed.wait(0.2)  # the server is away: that is what some tests are about
                continue
            tree = json.loads(listed.out)
            with self._changed:
                self.objects = {item["metadata"]["name"]: item for item in tree["items"]}
                self.history += [("LISTED", item) for item in tree["items"]]
                self._ready = True
                self._changed.notify_all()
            self._follow(tree["metadata"]["resourceVersion"])

    def _follow(self, revision: str) -> None:
        url = f"{self._path}?watch=true&resourceVersion={revision}&{self._query}"
        command = self._kubectl.command("get", "--raw", url)
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True, env=self._kubectl.env) as process:
            self._process = process
            assert process.stdout is not None
            if self._closed.is_set():
                process.kill()
            for line in process.stdout:
                event = json.loads(line)
                if event["type"] not in ("ADDED", "MODIFIED", "DELETED"):
                    break  # ERROR: the list is begun anew
                with self._changed:
                    name = event["object"]["metadata"]["name"]
                    self.history.append((event["type"], event["object"]))
                    if event["type"] == "DELETED":
                        self.objects.pop(name, None)
                    else:
                        self.objects[name] = event["object"]
                    self._changed.notify_all()
            process.kill()


def _tries(holds: Callable[[dict[str, Json]], object], objects: dict[str, Json]) -> bool:
    """What is not there yet is no error: it does not hold."""
    try:
        return bool(holds(objects))
    except (KeyError, IndexError, TypeError):
        return False


def _short(objects: dict[str, Json]) -> str:
    return "\n".join(json.dumps({"metadata": {"name": name}, **{key: item[key] for key in item if key not in (
        "metadata", "spec")}}) for name, item in sorted(objects.items())) or "nothing is there"
