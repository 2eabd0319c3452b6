"""Large answers are compressed for those who accept it; small ones and watches never."""

from __future__ import annotations

import pytest

from tests.support.apiserver import Running

MAPS = "/api/v1/namespaces/default/configmaps"


async def fill(api: Running, count: int, size: int) -> None:
    for number in range(count):
        await api.ok("POST", MAPS, {"metadata": {"name": f"m{number}"}, "data": {"k": "x" * size}})


@pytest.mark.parametrize(("count", "size"), [(2, 100_000), (4, 500_000)], ids=["whole", "in slices"])
async def test_lists(api: Running, count: int, size: int) -> None:
    await fill(api, count, size)
    plain = await api.request("GET", MAPS, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    for accept in ("gzip", "deflate, gzip;q=0.5"):
        packed = await api.request("GET", MAPS, headers={"Accept-Encoding": accept})
        assert (packed.headers["Content-Encoding"], packed.headers["Vary"]) == ("gzip", "Accept-Encoding")
        assert packed.json["items"] == plain.json["items"]
    for accept in ("deflate", "gzip;q=0", ""):
        assert "Content-Encoding" not in (await api.request("GET", MAPS, headers={"Accept-Encoding": accept})).headers


async def test_what_is_small_stays_as_it_is(api: Running) -> None:
    await fill(api, 1, 100)
    for path in (MAPS, MAPS + "/m0", "/healthz", f"{MAPS}?watch=1&timeoutSeconds=1"):
        answer = await api.request("GET", path, headers={"Accept-Encoding": "gzip"})
        assert answer.code == 200
        assert "Content-Encoding" not in answer.headers


async def test_documents_keep_their_etag(api: Running) -> None:
    packed = await api.request("GET", "/openapi/v2", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert sorted(packed.headers.getall("Vary")) == ["Accept", "Accept-Encoding"]
    again = await api.request("GET", "/openapi/v2", headers={"If-None-Match": packed.headers["ETag"]})
    assert again.code == 304
