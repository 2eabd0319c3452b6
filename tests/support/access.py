"""Roles and bindings in few words."""

from __future__ import annotations

from typing import Any

import msgspec

from master.apiserver.entry import Entry

Tree = dict[str, Any]


def entry(tree: Tree) -> Entry:
    meta = tree["metadata"]
    return Entry(msgspec.json.encode(tree), 1, meta.get("namespace", ""), meta["name"])


def role(name: str, namespace: str = "", **rules: str) -> Tree:
    """Rules as resource="verbs"."""
    return {"metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            "rules": [{"apiGroups": [""], "resources": [key], "verbs": value.split()} for key, value in rules.items()]}


def binding(name: str, ref: str, *subjects: str, namespace: str = "") -> Tree:
    """`ref` as Kind/name, subjects as Kind:name; a ServiceAccount as ServiceAccount:namespace/name."""
    kind, _, target = ref.partition("/")
    made = []
    for subject in subjects:
        word, _, who = subject.partition(":")
        place, _, own = who.rpartition("/")
        made.append({"kind": word, "name": own} | ({"namespace": place} if place else {}))
    return {"metadata": {"name": name} | ({"namespace": namespace} if namespace else {}),
            "roleRef": {"kind": kind, "name": target}, "subjects": made}
