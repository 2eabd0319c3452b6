"""What of the node's network needs no kernel."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from netplugin import names
from netplugin.ipam import Ipam
from netplugin.kernel import links
from netplugin.network import NodeNetwork
from netplugin.protocol import Sandbox


async def test_what_another_process_attaches_meanwhile_is_nothing_stale(tmp_path: Path,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    network = NodeNetwork(tmp_path)
    deleted: list[str] = []
    monkeypatch.setattr(links, "delete", deleted.append)

    def ports() -> frozenset[str]:
        """The CNI executable's ADD comes between: first the address, then the link."""
        Ipam(tmp_path).allocate(IPv4Network("10.42.3.0/24"), Sandbox("c1", 1, "", "", "", owner="pods"))
        return frozenset({names.veth("c1"), names.veth("stale")})

    monkeypatch.setattr(network._links, "ports", ports)
    await network.reconcile([])
    await network.close()
    assert deleted == [names.veth("stale")]
