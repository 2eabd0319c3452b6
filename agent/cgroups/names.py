"""What pods' cgroups are called, with either driver; as upstream names them, so that operators' tools find them.

    cgroupfs  /kubepods/burstable/pod<uid>             and a container below it
    systemd   kubepods-burstable-pod<uid, "_" for "-">.slice, where "-" says "below"
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.cgroups.protocol import QosClass

QOS_CLASSES: tuple[QosClass, ...] = ("Guaranteed", "Burstable", "BestEffort")


def class_parts(root: str, qos: QosClass) -> list[str]:
    """From the cgroup root down to a QoS class; Guaranteed pods stand beside the other classes."""
    parts = [part for part in root.split("/") if part] + ["kubepods"]
    return parts if qos == "Guaranteed" else [*parts, qos.lower()]


def pod_parts(root: str, qos: QosClass, uid: str) -> list[str]:
    """Down to the pod."""
    return [*class_parts(root, qos), f"pod{uid}"]


def path(parts: Sequence[str]) -> str:
    """For the cgroupfs driver."""
    return "/" + "/".join(parts)


def slice_name(parts: Sequence[str]) -> str:
    """For the systemd driver; dashes inside a part would mean another level, so they are written as underscores."""
    return "-".join(part.replace("-", "_") for part in parts) + ".slice"


def slice_path(parts: Sequence[str]) -> str:
    """Where systemd puts that slice: each level's name carries all above it."""
    return "/" + "/".join(slice_name(parts[:depth]) for depth in range(1, len(parts) + 1))


def uid_of(folder: str) -> str | None:
    """The pod's UID out of a cgroup's name; None where it is no pod's."""
    match = re.fullmatch(r"pod([^/]+)", folder) if not folder.endswith(".slice") else \
        re.fullmatch(r".+-pod([^-/]+)\.slice", folder)
    if match is None:
        return None
    return match.group(1).replace("_", "-") if folder.endswith(".slice") else match.group(1)
