"""What a request for a pod's stream means: node, container, options. Refusals are worded as upstream words them."""

from __future__ import annotations

from typing import Any

from master.apiserver.request import Query
from sampan.api.errors import FieldError, bad_request, forbidden, invalid, invalid_object
from sampan.api.times import Time
from sampan.pb.node_pb2 import Attach, Exec, Logs, PodRef

Tree = dict[str, Any]


def node_of(pod: Tree) -> str:
    """The node that the pod is bound to; 400 where it is not."""
    node = pod["spec"].get("nodeName") or ""
    if not node:
        raise bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return str(node)


def reference(pod: Tree) -> PodRef:
    """The pod, as its node is asked for it."""
    meta = pod["metadata"]
    return PodRef(namespace=meta.get("namespace", ""), name=meta["name"], uid=meta.get("uid", ""))


def choose_container(pod: Tree, asked: str) -> Tree:
    """The container that is asked for, or the only one; 400 with the choice where that is not clear."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    everything = [*spec.get("initContainers", ()), *spec.get("containers", ()), *spec.get("ephemeralContainers", ())]
    if not asked:
        containers = spec.get("containers", ())
        if len(containers) == 1:
            return dict(containers[0])
        names = " ".join(container["name"] for container in everything)
        choice = f", choose one of: [{names}]" if containers else ""
        raise bad_request(f"a container name must be specified for pod {name}{choice}")
    for container in everything:
        if container["name"] == asked:
            return dict(container)
    raise bad_request(f"container {asked} is not valid for pod {name}")


def _streams(query: Query) -> tuple[bool, bool, bool, bool]:
    stdin, stdout, stderr = query.flag("stdin"), query.flag("stdout"), query.flag("stderr")
    if not (stdin or stdout or stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    tty = query.flag("tty")
    return stdin, stdout, stderr and not tty, tty  # a terminal has one output only


def exec_request(pod: Tree, query: Query) -> Exec:
    """What `kubectl exec` asks."""
    container = choose_container(pod, query.get("container"))
    stdin, stdout, stderr, tty = _streams(query)
    command = query.all("command")
    if not command:
        raise bad_request("you must specify at least 1 command")
    return Exec(pod=reference(pod), container=container["name"], command=command, stdin=stdin, stdout=stdout,
                stderr=stderr, tty=tty)


def attach_request(pod: Tree, query: Query) -> Attach:
    """What `kubectl attach` asks. Whether there is a terminal, the container decides."""
    container = choose_container(pod, query.get("container"))
    stdin, stdout, stderr, _ = _streams(query)
    tty = bool(container.get("tty"))
    return Attach(pod=reference(pod), container=container["name"], stdin=stdin and bool(container.get("stdin")),
                  stdout=stdout, stderr=stderr and not tty, tty=tty)


def log_request(pod: Tree, query: Query) -> Logs:
    """What `kubectl logs` asks; 422 for options that make no sense (upstream's ValidatePodLogOptions)."""
    container = choose_container(pod, query.get("container"))
    since, since_time = query.integer("sinceSeconds"), query.get("sinceTime")
    tail, limit = query.integer("tailLines"), query.integer("limitBytes")
    wrong: list[FieldError] = []
    if tail is not None and tail < 0:
        wrong.append(invalid("tailLines", tail, "must be greater than or equal to 0"))
    if limit is not None and limit < 1:
        wrong.append(invalid("limitBytes", limit, "must be greater than 0"))
    if since is not None and since_time:
        wrong.append(forbidden("sinceSeconds", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    elif since is not None and since < 1:
        wrong.append(invalid("sinceSeconds", since, "must be greater than 0"))
    if wrong:
        raise invalid_object("", "PodLogOptions", pod["metadata"]["name"], wrong)
    if since_time:
        try:
            Time.parse(since_time)
        except ValueError as error:
            raise bad_request(f'parsing time "{since_time}" as "2006-01-02T15:04:05Z07:00": cannot parse') from error
    return Logs(pod=reference(pod), container=container["name"], follow=query.flag("follow"),
                previous=query.flag("previous"), timestamps=query.flag("timestamps"), since_seconds=since,
                since_time=since_time, tail_lines=tail, limit_bytes=limit)
