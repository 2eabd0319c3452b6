"""Links in proxied answers."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.streaming.rewriting import LIMIT, Links, pack, unpack

PREFIX = "/api/v1/namespaces/a/pods/b/proxy"
LINKS = Links(PREFIX, "10.244.0.5:80", "master:6443")


@pytest.mark.parametrize(("url", "wanted"), [
    ("/x", f"{PREFIX}/x"), ("/x/", f"{PREFIX}/x/"), ("/", f"{PREFIX}/"), ("/x?a=b#c", f"{PREFIX}/x?a=b#c"),
    ("/a/../b", f"{PREFIX}/b"), ("/../../x", "/api/v1/namespaces/a/pods/x"),
    ("x", "x"), ("../x", "../x"), ("", ""), ("#top", "#top"), ("mailto:a@b", "mailto:a@b"),
    (f"{PREFIX}/x", f"{PREFIX}/x"),
    ("http://10.244.0.5:80/x", f"{PREFIX}/x"), ("//10.244.0.5:80/x", f"{PREFIX}/x"),
    ("https://master:6443/x", f"https://master:6443{PREFIX}/x"),
    ("http://example.org/x", "http://example.org/x"), ("//example.org/x", "//example.org/x"),
    ("http://[broken/x", "http://[broken/x"), pytest.param("/" * 70_000, "/" * 70_000, id="long")])
def test_urls(url: str, wanted: str) -> None:
    assert LINKS.rewritten(url) == wanted


@pytest.mark.parametrize(("page", "wanted"), [
    ('<a href="/x">y</a>', '<a href="%/x">y</a>'), ("<a class=b HREF=/x>", "<a class=b HREF=%/x>"),
    ("<img alt='/x' src = '/y?a=1&amp;b=2'/>", "<img alt='/x' src = '%/y?a=1&amp;b=2'/>"),
    ("<p title='/x'>/x</p>", None), ("<!-- <a href='/x'> -->", None), ("<script>'<a href=\"/x\">'</script>", None),
    ("<script src='/x'></script>", "<script src='%/x'></script>"),
    ("a\r\nb\n<form\n action='/x'\n>\n\u00e9<link href=/y>", "a\r\nb\n<form\n action='%/x'\n>\n\u00e9<link href=%/y>"),
    ("<p title=\"<a href='/x'>\"><a href='/y'>", "<p title=\"<a href='/x'>\"><a href='%/y'>"),
    ("<![x[ ]]>&#; &# <a href=/x>", "<![x[ ]]>&#; &# <a href=%/x>"), ("<a/href=/x/>", "<a/href=%/x/>"),
    ("<!-->\u00e0<a \u00e0 href=/\u00e0>", "<!-->\u00e0<a \u00e0 href=%/\u00e0>"),
    ("<script>'<a href=/x>'", None), ("<a href=\"/x", None), ("<a =/x href==/x>", None), ("<a href>", None),
    ("<a href=''>", None), ("<a href='http://example.org/'>", None), ("<a href='/x", None)])
def test_pages(page: str, wanted: str | None) -> None:
    content = page.encode()
    assert LINKS.page(content) == (content if wanted is None else wanted.replace("%", PREFIX).encode())


@pytest.mark.parametrize("piece", ["<!--", "<a x", "<", "x", "</", "<a href=", "<a href='", "='", '="', " ", "/",
                                   "&#", "<?", "<script>", "<!", "<![if"])
@pytest.mark.parametrize("start", ["", "<a href=/x "])
def test_no_page_takes_long(start: str, piece: str) -> None:
    """Whatever a pod answers, the API server goes on. (Taken up again from each of its pieces it would take hours.)"""
    content = (start + piece * 100_000).encode()
    assert len(LINKS.page(content)) >= len(content)


@given(st.binary(max_size=300))
def test_what_has_no_links_stays_byte_by_byte(content: bytes) -> None:
    plain = content.replace(b"/", b"")
    assert LINKS.page(plain) == plain


@given(st.text(alphabet="<>a='\"/ \n!-href\u00e9", max_size=60))
def test_pages_only_grow_by_the_prefix(text: str) -> None:
    content = text.encode()
    assert LINKS.page(content).replace(PREFIX.encode(), b"").replace(b"/", b"") == content.replace(b"/", b"")


@pytest.mark.parametrize("coding", ["", "gzip", "deflate"])
def test_codings(coding: str) -> None:
    assert unpack(pack(b"page", coding), coding) == b"page"


@pytest.mark.parametrize(("content", "coding"), [
    (b"x", "br"), (b"x", "gzip"), (gzip.compress(b"x", mtime=0)[:-1], "gzip"),
    (zlib.compress(bytes(LIMIT + 1)), "deflate"), (bytes(LIMIT + 1), "")],
    ids=["unknown", "none", "short", "a bomb", "long"])
def test_what_cannot_be_unpacked(content: bytes, coding: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpack(content, coding)
