"""Which objects a controller takes, keeps and lets go."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from master.controllers.owners import plan_claims
from sampan.api.labelselectors import of_labels
from sampan.api.times import Time
from sampan.api.types.core_v1 import Pod, PodSpec
from sampan.api.types.meta_v1 import ObjectMeta, OwnerReference
from sampan.loop.clock import FakeClock
from tests.support.controllers import LABELS, replica_set

NOW = Time.of(FakeClock().now())
MATCHING, OTHER = LABELS, {"app": "other"}


def held(uid: str, *, controller: bool = True) -> list[OwnerReference]:
    return [OwnerReference(api_version="apps/v1", kind="ReplicaSet", name="x", uid=uid, controller=controller)]


@pytest.mark.parametrize(("labels", "meta", "going", "verdict"), [
    (MATCHING, {}, False, "adopt"),
    (MATCHING, {"owner_references": held("rs-1", controller=False)}, False, "adopt"),
    (MATCHING, {"deletion_timestamp": NOW}, False, ""),
    (MATCHING, {}, True, ""),
    (OTHER, {}, False, ""),
    (MATCHING, {"owner_references": held("rs-1")}, False, "keep"),
    (MATCHING, {"owner_references": held("rs-1"), "deletion_timestamp": NOW}, False, "keep"),
    (MATCHING, {"owner_references": held("rs-1")}, True, "keep"),
    (OTHER, {"owner_references": held("rs-1")}, False, "release"),
    (OTHER, {"owner_references": held("rs-1")}, True, ""),
    (MATCHING, {"owner_references": held("rs-2")}, False, ""),
    (OTHER, {"owner_references": held("rs-2")}, False, ""),
])
def test_claims(labels: dict[str, str], meta: dict[str, Any], going: bool, verdict: str) -> None:
    owner = replica_set(uid="rs-1")
    if going:
        owner = replace(owner, metadata=replace(owner.metadata, deletion_timestamp=NOW))
    pod = Pod(metadata=ObjectMeta(name="p", labels=labels, **meta), spec=PodSpec(containers=[]))
    claims = plan_claims(owner, of_labels(LABELS), [pod])
    assert {name: found for name in ("keep", "adopt", "release") if (found := getattr(claims, name))} == (
        {verdict: [pod]} if verdict else {})
