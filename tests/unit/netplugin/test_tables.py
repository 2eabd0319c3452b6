"""What of the tables needs no kernel."""

from __future__ import annotations

import pytest

from netplugin.kernel import tables
from netplugin.kernel.command import Backend
from netplugin.kernel.tables import HostTables
from netplugin.tables import ChainId

CHAIN = ChainId("nat", "KUBE-SERVICES")


@pytest.mark.parametrize(("interrupted", "counted"), [(0, True), (4, True), (5, False)])
async def test_chains_are_counted_again_when_rules_change_meanwhile(monkeypatch: pytest.MonkeyPatch, interrupted: int,
                                                                    *, counted: bool) -> None:
    """Else each such moment would have all rules read, and be taken for damage."""
    host = HostTables()
    host._backend = Backend((1, 8, 9), nf_tables=True)
    told = [None] * interrupted + [{CHAIN: 1}]
    generations = iter(range(100))
    monkeypatch.setattr(tables, "chain_uses", lambda _: told.pop(0))
    monkeypatch.setattr(tables, "generation", lambda: next(generations))
    assert await host.settle() == ({CHAIN: 1} if counted else None)
    generations = iter([interrupted])  # as it was at the last count
    assert await host.touched() is not counted
    await host.close()
