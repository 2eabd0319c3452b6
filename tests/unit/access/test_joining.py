"""What a host that joins may do with requests for certificates."""

from __future__ import annotations

from typing import Any

import pytest

from master.apiserver.auth import BOOTSTRAPPERS
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.union import JoiningNodes
from master.apiserver.strategy import User

JOINING = User("system:bootstrap:abcdef", (BOOTSTRAPPERS,))
REQUESTS = {"mine": {"spec": {"username": JOINING.name}}, "other": {"spec": {"username": "system:bootstrap:ghijkl"}},
            "half": {}}


def look(namespace: str, name: str) -> dict[str, Any] | None:
    assert namespace == ""
    return REQUESTS.get(name)


def asked(verb: str, name: str = "", subresource: str = "", *, group: str = "certificates.k8s.io",
          plural: str = "certificatesigningrequests") -> Attributes:
    return Attributes(verb, group, plural, subresource, "", name)


@pytest.mark.parametrize(("question", "allowed"), [
    (asked("create"), True), (asked("get", "mine"), True), (asked("watch", "mine"), True),
    (asked("list", "mine"), True), (asked("get", "other"), False), (asked("watch", "other"), False),
    (asked("get", "half"), False), (asked("get", "gone"), False), (asked("list"), False), (asked("watch"), False),
    (asked("update", "mine"), False), (asked("patch", "mine"), False), (asked("delete", "mine"), False),
    (asked("update", "mine", "approval"), False), (asked("get", "mine", "status"), False),
    (asked("create", subresource="approval"), False),
    (asked("create", group="", plural="pods"), False), (asked("get", "mine", plural="clustertrustbundles"), False)])
def test_its_own_request_and_nobody_else_s(question: Attributes, allowed: bool) -> None:
    rule = JoiningNodes(look)
    assert rule.decide(JOINING, question).allowed is allowed
    assert not rule.decide(User(JOINING.name, ("system:authenticated",)), question).allowed
