"""A certificate that was renewed is also used, whatever went wrong in between."""

from __future__ import annotations

import errno
from datetime import timedelta
from pathlib import Path

from master.renewal import INTERVAL, Renewal
from sampan.loop.clock import FakeClock
from sampan.pki.cluster import RENEW_WITHIN, ClusterPki


async def test_a_certificate_that_could_not_be_loaded_is_loaded_at_the_next_look(tmp_path: Path) -> None:
    clock = FakeClock()
    pki = ClusterPki(tmp_path, ["a.test"], clock.now)
    pki.ensure()
    loads: list[float] = []

    def load() -> None:
        loads.append(clock.monotonic())
        if len(loads) == 1:
            raise OSError(errno.EMFILE, "Too many open files")

    renewal = Renewal(pki, clock, load)
    first = renewal.expiries()["apiserver.crt"]
    await clock.advance((timedelta(days=365) - RENEW_WITHIN).total_seconds())
    assert not renewal.check()
    await clock.advance(INTERVAL)
    assert renewal.check()
    assert renewal.expiries()["apiserver.crt"] > first
    assert len(loads) == 2
    assert not renewal.check()
    assert len(loads) == 2
