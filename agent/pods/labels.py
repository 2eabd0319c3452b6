"""Container names and labels: dockershim's, so that `docker ps` and existing tools stay useful.

Labels are the only durable memory of what the agent runs. Names are for people: nothing is ever read from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from sampan.api.codec import encode
from sampan.api.types import core_v1

VERSION = 1
"""Of the set of labels; an agent refuses containers that carry a newer one."""

POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
TYPE = "io.kubernetes.docker.type"
SANDBOX_ID = "io.kubernetes.sandbox.id"
HASH = "annotation.io.kubernetes.container.hash"
RESTART_COUNT = "annotation.io.kubernetes.container.restartCount"
MESSAGE_PATH = "annotation.io.kubernetes.container.terminationMessagePath"
MESSAGE_POLICY = "annotation.io.kubernetes.container.terminationMessagePolicy"
GRACE_PERIOD = "annotation.io.kubernetes.pod.terminationGracePeriod"
NODE = "sampan.node"
LABELS_VERSION = "sampan.labels-version"
BACKOFF = "sampan.restart-backoff"
MESSAGE_FILE = "sampan.termination-message-file"

SANDBOX = "podsandbox"
CONTAINER = "container"
INFRA_NAME = "POD"


class UnknownLabels(Exception):
    """A container carries labels of a newer version than this agent understands."""


def check_version(labels: Mapping[str, str]) -> None:
    """Refuse what a newer agent wrote; UnknownLabels."""
    version = labels.get(LABELS_VERSION, "1")
    if not version.isdigit() or int(version) > VERSION:
        pod = f"{labels.get(POD_NAMESPACE, '')}/{labels.get(POD_NAME, '')}"
        raise UnknownLabels(f"the containers of pod {pod} carry labels of version {version}, this agent knows up to "
                            f"{VERSION}: they were made by a newer sampan-agent; upgrade this one, or remove them")


def container_name(pod: core_v1.Pod, name: str, attempt: int) -> str:
    """``k8s_<container>_<pod>_<namespace>_<uid>_<attempt>``."""
    meta = pod.metadata
    return f"k8s_{name}_{meta.name}_{meta.namespace}_{meta.uid}_{attempt}"


def container_hash(container: core_v1.Container) -> str:
    """Changes when the container must be replaced: as upstream since 1.31, with its name or its image."""
    return hashlib.sha256(encode([container.name, container.image])).hexdigest()[:8]


def sandbox_labels(pod: core_v1.Pod, node: str, attempt: int) -> dict[str, str]:
    """The infra container's labels: the pod's own, then dockershim's, then ours."""
    return {
        **pod.metadata.labels,
        **_common(pod, node),
        CONTAINER_NAME: INFRA_NAME,
        TYPE: SANDBOX,
        RESTART_COUNT: str(attempt),
    }


def container_labels(pod: core_v1.Pod, container: core_v1.Container, node: str, *, attempt: int, sandbox_id: str,
                     backoff: float, message_file: str) -> dict[str, str]:
    """An app container's labels. `backoff` is what it has to wait, in seconds, once it has ended."""
    grace = pod.spec.termination_grace_period_seconds
    return {
        **_common(pod, node),
        CONTAINER_NAME: container.name,
        TYPE: CONTAINER,
        SANDBOX_ID: sandbox_id,
        HASH: container_hash(container),
        RESTART_COUNT: str(attempt),
        MESSAGE_PATH: container.termination_message_path or "",
        MESSAGE_POLICY: container.termination_message_policy or "File",
        GRACE_PERIOD: str(30 if grace is None else grace),
        BACKOFF: f"{backoff:g}",
        MESSAGE_FILE: message_file,
    }


def owned_by(node: str) -> dict[str, str]:
    """What to ask the engine for: containers that this node's agent made."""
    return {NODE: node}


def _common(pod: core_v1.Pod, node: str) -> dict[str, str]:
    meta = pod.metadata
    return {POD_NAME: meta.name, POD_NAMESPACE: meta.namespace, POD_UID: meta.uid, NODE: node,
            LABELS_VERSION: str(VERSION)}
