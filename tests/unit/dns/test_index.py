"""The index follows the view: after any changes it is what one made anew would be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.dns.index import Index
from sampan.api import resources
from sampan.api.resources import Resource
from tests.support.dns import endpoints, node, service
from tests.support.pods import FakeView

NAMES = st.sampled_from(["a", "b", "c"])
ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"])


@st.composite
def objects(draw: st.DrawFn) -> tuple[Resource[Any], Any]:
    namespace = draw(st.sampled_from(["default", "other"]))
    match draw(st.integers(0, 2)):
        case 0:
            return resources.SERVICES, service(draw(NAMES), draw(st.sampled_from(["None", "", "10.0.0.1"])), namespace)
        case 1:
            entries = [{"ip": address} for address in draw(st.lists(ADDRESSES, max_size=3))]
            return resources.ENDPOINTSLICES, endpoints(draw(NAMES), *entries, namespace=namespace, name=draw(NAMES))
        case _:
            return resources.NODES, node(draw(NAMES), draw(st.sampled_from(["", "10.0.0.0/30", "10.0.0.2/31"])))


def said(index: Index) -> Any:
    addresses = [f"10.0.0.{number}" for number in range(5)]
    names = [(namespace, name) for namespace in ("default", "other") for name in "abc"]
    return ([[found.metadata for found in index.holders(address)] for address in addresses],
            [index.is_pod_address(address) for address in addresses],
            [index.has_namespace(namespace) for namespace in ("default", "other")],
            [sorted(item.metadata.name for item in index.slices(*name)) for name in names],
            index._by_address.keys(), {key for key, found in index._slices.items() if found})


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(objects(), st.booleans()), max_size=15))
def test_it_is_as_one_made_anew(changes: Sequence[tuple[tuple[Resource[Any], Any], bool]]) -> None:
    view = FakeView()
    index = Index(view)
    told: list[int] = []
    index.changed = lambda: told.append(1)
    for (resource, obj), put in changes:
        if put:
            view.put(resource, obj)
        else:
            view.delete(resource, obj)
        assert said(index) == said(Index(view))
    assert bool(told) or not any(put and resource is not resources.NODES for (resource, _), put in changes)
