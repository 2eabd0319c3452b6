"""Links in what a pod answers, made to lead through the API server again: in HTML, and where an answer redirects.

A pod does not know that its pages are seen below ``/api/v1/namespaces/…/proxy``. As upstream's proxy transport does,
links that begin with ``/`` get that prefix; others are relative and right, or lead elsewhere.
"""

from __future__ import annotations

import posixpath
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

_ATTRIBUTES = {
    "a": "href", "applet": "codebase", "area": "href", "audio": "src", "base": "href", "blockquote": "cite",
    "body": "background", "button": "formaction", "command": "icon", "del": "cite", "embed": "src", "form": "action",
    "frame": "longdesc src", "head": "profile", "html": "manifest", "iframe": "longdesc src",
    "img": "longdesc src usemap", "input": "src usemap formaction", "ins": "cite", "link": "href",
    "object": "classid codebase data usemap", "q": "cite", "script": "src", "source": "src", "video": "poster src",
}
"""Attributes that hold a URL, by element (HTML 4 and 5)."""
_WINDOWS = {"": 0, "gzip": 31, "deflate": 15}
"""What zlib calls the codings."""
LIMIT = 2 * 1024 * 1024
"""Bytes of a page that is rewritten; a longer one goes by as it is."""
_LONGEST = 65536
"""Bytes of a URL that the API server would take; urllib keeps the last hundred that it took apart."""
_MARKUP = re.compile(r"<(?:!--|(?P<tag>[a-zA-Z][^\s/>]*+))", re.ASCII)
"""Where a comment or a start tag begins."""
_ATTRIBUTE = re.compile(r"""[\s/]*+(?P<name>[^\s/>][^\s/>=]*+)"""
                        r"""(?:\s*+=\s*+(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)'|(?P<bare>[^\s"'>][^\s>]*+)))?""",
                        re.ASCII)
_TEXT_UNTIL = {name: re.compile(f"</{name}", re.IGNORECASE) for name in ("script", "style")}
"""Elements whose content is no HTML."""


@dataclass(frozen=True, slots=True)
class Links:
    """`prefix` is the path that leads to the target; `target` its host:port, `own` the API server's host:port.

    The latter as the client says it, in its Host header.
    """

    prefix: str
    target: str
    own: str

    def rewritten(self, url: str) -> str:
        """A URL as the client has to ask for it; one that leads elsewhere, or is none, comes back as it is."""
        if len(url) > _LONGEST:
            return url
        try:
            parts = urlsplit(url)
        except ValueError:
            return url
        elsewhere = parts.netloc and parts.netloc not in (self.target, self.own)
        if elsewhere or not parts.path.startswith("/"):
            return url
        if parts.netloc != self.own:
            parts = parts._replace(scheme="", netloc="")
        if parts.path.startswith(self.prefix):
            return parts.geturl()
        slash = "/" if parts.path.endswith("/") else ""
        path = posixpath.normpath(f"{self.prefix}/{parts.path}")
        return parts._replace(path=path + slash).geturl()

    def page(self, content: bytes) -> bytes:
        """An HTML page with its links rewritten; all else stays, byte by byte."""
        text = content.decode("latin-1")  # whatever the encoding: what is rewritten is ASCII in all that browsers know
        result, done = [], 0
        for start, end in _urls(text):
            result += [text[done:start], self.rewritten(text[start:end])]
            done = end
        return "".join([*result, text[done:]]).encode("latin-1")

    def packed_page(self, content: bytes, coding: str) -> bytes:
        """The same under a Content-Encoding; ValueError as `unpack` has it."""
        return pack(self.page(unpack(content, coding)), coding)


def _urls(text: str) -> Iterator[tuple[int, int]]:
    """Where URLs are in start tags: beginning and end, in order.

    Never goes back in the text, whatever stands there: a pod must not be able to keep the API server busy.
    """
    at = 0
    while (markup := _MARKUP.search(text, at)) is not None:
        tag = (markup["tag"] or "").lower()
        if not tag:
            at = text.find("-->", markup.start() + 2)
            if at < 0:
                return
            continue
        at, wanted = markup.end(), _ATTRIBUTES.get(tag, "").split()
        while (attribute := _ATTRIBUTE.match(text, at)) is not None:
            at, kind = attribute.end(), attribute.lastgroup or ""
            if kind != "name" and attribute["name"].lower() in wanted:
                yield attribute.span(kind)
        if tag in _TEXT_UNTIL:
            end = _TEXT_UNTIL[tag].search(text, at)
            if end is None:
                return
            at = end.end()


def unpack(content: bytes, coding: str) -> bytes:
    """Take a Content-Encoding off; ValueError for one that is not known, broken content, and more than LIMIT bytes."""
    if coding not in _WINDOWS:
        raise ValueError(f"content encoding {coding}")
    if coding:
        unpacker = zlib.decompressobj(_WINDOWS[coding])
        try:
            content = unpacker.decompress(content, LIMIT + 1)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not unpacker.eof:
            raise ValueError("it is too long, or its end is missing")
    if len(content) > LIMIT:
        raise ValueError("it is too long")
    return content


def pack(content: bytes, coding: str) -> bytes:
    """Put it on again."""
    return zlib.compress(content, wbits=_WINDOWS[coding]) if coding else content
