"""Certificates are renewed while the server runs, and new connections see the new ones."""

from __future__ import annotations

import asyncio
import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from master.apiserver.app import ApiServer, server_tls
from master.apiserver.metrics import Metrics
from master.main import ApiParts, pair
from master.renewal import INTERVAL, Renewal
from master.store.memory import MemoryStore
from sampan.loop.clock import FakeClock, SystemClock
from sampan.pki.cluster import RENEW_WITHIN, ClusterPki

DAY = timedelta(days=1)
# Made so long ago that the certificates are still good, and due to be renewed within days: TLS itself knows only
# the machine's clock.
START = datetime.now(UTC).replace(microsecond=0) - 365 * DAY + RENEW_WITHIN - 3 * DAY


async def served(port: int, pki: ClusterPki) -> x509.Certificate:
    """The certificate that a new connection shows, checked against the cluster's CA."""
    context = ssl.create_default_context(cafile=str(pki.path("ca.crt")))
    context.load_cert_chain(pki.path("admin.crt"), pki.path("admin.key"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.write(b"GET /api/v1/namespaces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    return x509.load_der_x509_certificate(der)


async def test_renewed_while_running(tmp_path: Path) -> None:
    clock = FakeClock(START)
    pki = ClusterPki(tmp_path, ["127.0.0.1"], clock.now)
    pki.ensure()
    tls = server_tls(*pair(pki), str(pki.path("ca.crt")))
    renewal = Renewal(pki, clock, lambda: tls.load_cert_chain(*pair(pki)))
    metrics = Metrics()
    metrics.certificates(renewal.expiries)
    async with asyncio.TaskGroup() as group:
        parts = ApiParts.build(MemoryStore(), SystemClock(), "10.96.0.0/16")
        server = ApiServer(parts.registry, parts.writer, tls=tls, host="127.0.0.1", port=0, metrics=metrics)
        tasks = [group.create_task(run()) for run in (parts.registry.run, server.run, renewal.run)]
        await server.started.wait()
        await parts.registry.ready()
        first = await served(server.port, pki)
        old = ssl.create_default_context(cafile=str(pki.path("ca.crt")))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=old, server_hostname="127.0.0.1")
        ends = pki.expiries()
        while clock.now() + DAY < ends["apiserver.crt"] - RENEW_WITHIN:
            await clock.advance(INTERVAL)
            assert pki.expiries() == ends
        await clock.advance(INTERVAL)
        second = await served(server.port, pki)
        assert second.serial_number != first.serial_number
        assert second.not_valid_after_utc == clock.now() + 365 * DAY
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")  # a connection from before goes on
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        after = pki.expiries()
        assert after["ca.crt"] == ends["ca.crt"]
        assert after["admin.crt"] > ends["admin.crt"]
        text = (await metrics.render()).decode()
        for name, end in after.items():
            line = f'sampan_certificate_expiration_timestamp_seconds{{certificate="{name}"}} '
            assert float(text.split(line)[1].split("\n")[0]) == end.timestamp()
        for task in tasks:
            task.cancel()


async def test_a_renewal_that_fails_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    pki = ClusterPki(tmp_path, ["a.test"], clock.now)
    pki.ensure()
    reloads: list[None] = []
    renewal = Renewal(pki, clock, lambda: reloads.append(None))
    assert not renewal.check()
    await clock.advance((365 * DAY - RENEW_WITHIN).total_seconds())
    key = pki.path("ca.key").read_bytes()
    pki.path("ca.key").unlink()
    with caplog.at_level(logging.ERROR):
        assert not renewal.check()
    assert "restore it from a backup" in caplog.text
    pki.path("ca.key").write_bytes(key)
    assert renewal.check()
    assert len(reloads) == 1
    assert not renewal.check()
