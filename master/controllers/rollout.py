"""The arithmetic of Deployments: fenceposts, proportions, template hashes, revisions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from sampan.api.codec import to_tree
from sampan.api.intorstring import scaled_value
from sampan.api.names import SAFE_ALPHABET
from sampan.api.types.apps_v1 import Deployment, ReplicaSet
from sampan.api.types.core_v1 import PodTemplateSpec
from sampan.api.types.meta_v1 import ObjectMeta

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
NOT_COPIED = frozenset({"kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED,
                        MAXIMUM, "deprecated.deployment.rollback.to"})
NO_DEADLINE = 2**31 - 1
HISTORY_LENGTH = 2000  # characters


def replicas(obj: Deployment | ReplicaSet) -> int:
    """spec.replicas, by default 1."""
    return 1 if obj.spec.replicas is None else obj.spec.replicas


def is_rolling(deployment: Deployment) -> bool:
    """Whether the strategy is RollingUpdate, which is the default."""
    strategy = deployment.spec.strategy
    return strategy is None or strategy.type in (None, "", "RollingUpdate")


def fenceposts(surge: int | str, unavailable: int | str, desired: int) -> tuple[int, int]:
    """How many pods may be too many and too few: surge is rounded up, unavailable down, and not both may be 0."""
    more = scaled_value(surge, desired, round_up=True)
    fewer = scaled_value(unavailable, desired, round_up=False)
    return (0, 1) if not more and not fewer else (more, fewer)


def _bounds(deployment: Deployment) -> tuple[int, int]:
    strategy = deployment.spec.strategy
    rolling = strategy.rolling_update if strategy else None
    surge = rolling.max_surge if rolling and rolling.max_surge is not None else "25%"
    unavailable = rolling.max_unavailable if rolling and rolling.max_unavailable is not None else "25%"
    return fenceposts(surge, unavailable, replicas(deployment))


def max_surge(deployment: Deployment) -> int:
    """Pods allowed beyond the wanted number."""
    return _bounds(deployment)[0] if is_rolling(deployment) else 0


def max_unavailable(deployment: Deployment) -> int:
    """Pods allowed to be missing."""
    wanted = replicas(deployment)
    return min(_bounds(deployment)[1], wanted) if is_rolling(deployment) and wanted else 0


def new_set_size(deployment: Deployment, sets: Iterable[ReplicaSet], new: ReplicaSet) -> int:
    """How many pods the newest ReplicaSet should have now."""
    wanted = replicas(deployment)
    if not is_rolling(deployment):
        return wanted
    room = wanted + max_surge(deployment) - sum(map(replicas, sets))
    return replicas(new) + min(room, wanted - replicas(new)) if room > 0 else replicas(new)


def proportion(rs: ReplicaSet, deployment: Deployment, to_add: int, added: int) -> int:
    """A ReplicaSet's share of the pods to add (or, negative, to remove) when a rollout is scaled midway."""
    if not replicas(rs) or not to_add or to_add == added:
        return 0
    share, left = _fraction(rs, deployment), to_add - added
    return min(share, left) if to_add > 0 else max(share, left)


def _fraction(rs: ReplicaSet, deployment: Deployment) -> int:
    wanted = replicas(deployment)
    if not wanted:
        return -replicas(rs)
    before = annotated(rs, MAXIMUM) or deployment.status.replicas or 0
    if not before:
        return 0
    return _round(replicas(rs) * (wanted + max_surge(deployment)) / before) - replicas(rs)


def _round(value: float) -> int:
    """Half away from zero; Python's own rounds half to even."""
    return math.floor(value + 0.5) if value >= 0 else math.ceil(value - 0.5)


def annotated(rs: ReplicaSet, name: str) -> int | None:
    """A number in an annotation; None where it is missing or malformed."""
    text = rs.metadata.annotations.get(name, "")
    return int(text) if text.isdecimal() else None


def revision(rs: ReplicaSet) -> int:
    """The rollout's number that the ReplicaSet stands for; 0 for none."""
    return annotated(rs, REVISION) or 0


def template_hash(template: PodTemplateSpec, collisions: int) -> str:
    """A short name for a pod template, safe in names and labels: FNV-1a of its canonical JSON."""
    text = json.dumps(to_tree(template), sort_keys=True, separators=(",", ":")) + (str(collisions) * bool(collisions))
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return "".join(SAFE_ALPHABET[ord(digit) % len(SAFE_ALPHABET)] for digit in str(value))


def same_template(a: PodTemplateSpec | None, b: PodTemplateSpec | None) -> bool:
    """Whether two templates differ at most in the hash label."""
    return _bare(a) == _bare(b)


def _bare(template: PodTemplateSpec | None) -> PodTemplateSpec:
    template = template or PodTemplateSpec()
    meta = template.metadata or ObjectMeta()
    labels = {name: value for name, value in meta.labels.items() if name != HASH_LABEL}
    return replace(template, metadata=replace(meta, labels=labels))


def oldest_first(rs: ReplicaSet) -> tuple[str, str]:
    """A sort key."""
    return str(rs.metadata.creation_timestamp or ""), rs.metadata.name


def find_new(deployment: Deployment, sets: Iterable[ReplicaSet]) -> ReplicaSet | None:
    """The ReplicaSet of the current template; of several the oldest, so that all callers agree."""
    return next((rs for rs in sorted(sets, key=oldest_first)
                 if same_template(rs.spec.template, deployment.spec.template)), None)


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """What each ReplicaSet remembers of the Deployment's size, for proportional scaling."""
    wanted = replicas(deployment)
    return {DESIRED: str(wanted), MAXIMUM: str(wanted + max_surge(deployment))}


def new_set_annotations(deployment: Deployment, rs: ReplicaSet, number: int, *, exists: bool) -> dict[str, str]:
    """The newest ReplicaSet's annotations: the Deployment's own, the revision, and the revisions it had before."""
    result = dict(rs.metadata.annotations)
    result |= {name: value for name, value in deployment.metadata.annotations.items() if name not in NOT_COPIED}
    before = result.get(REVISION)
    if (int(before) if before and before.isdecimal() else 0) < number:
        result[REVISION] = str(number)
        if before is not None:
            result[REVISION_HISTORY] = _history(result.get(REVISION_HISTORY, ""), before)
    return result if exists else result | size_annotations(deployment)


def _history(present: str, add: str) -> str:
    entries = [*(present.split(",") if present else ()), add]
    while len(entries) > 1 and len(",".join(entries)) > HISTORY_LENGTH:
        del entries[0]
    return ",".join(entries)


def total(sets: Sequence[ReplicaSet]) -> int:
    """Pods that the ReplicaSets should have."""
    return sum(map(replicas, sets))


def actual(sets: Sequence[ReplicaSet]) -> int:
    """Pods that they do have."""
    return sum(rs.status.replicas for rs in sets)


def available(sets: Sequence[ReplicaSet]) -> int:
    """Pods that are available."""
    return sum(rs.status.available_replicas or 0 for rs in sets)


def staying(sets: Sequence[ReplicaSet]) -> int:
    """Available pods that are not already surplus: a ReplicaSet that was just shrunk still counts its old pods.

    Upstream counts them all here, and so may for a moment go below what maxUnavailable allows.
    """
    return sum(min(replicas(rs), rs.status.available_replicas or 0) for rs in sets)
