"""Links in what a pod answers, made to lead through the API server again: in HTML, and where an answer redirects.

A pod does not know that its pages are seen below ``/api/v1/namespaces/…/proxy``. As upstream's proxy transport does,
links that begin with ``/`` get that prefix; others are relative and right, or lead elsewhere.
"""

from __future__ import annotations

import posixpath
import re
import zlib
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
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
LIMIT = 8 * 1024 * 1024
"""Bytes of a page that is rewritten; a longer one goes by as it is."""
_ATTRIBUTE = re.compile(r"""(?P<name>[^\s"'<>/=]+)(?P<equals>\s*=\s*)(?P<value>"[^"]*"|'[^']*'|[^\s"'=<>`]+)""")


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
        finder = _Finder(text)
        finder.feed(text)
        finder.close()
        result, end = [], 0
        for start, tag, names in finder.found:
            result += [text[end:start], _ATTRIBUTE.sub(partial(self._attribute, names), tag)]
            end = start + len(tag)
        return "".join([*result, text[end:]]).encode("latin-1")

    def _attribute(self, names: list[str], match: re.Match[str]) -> str:
        value = match["value"]
        if match["name"].lower() not in names:
            return match[0]
        quote = value[0] if value[0] in "\"'" else ""
        url = value[1:-1] if quote else value
        return match["name"] + match["equals"] + quote + self.rewritten(url) + quote


class _Finder(HTMLParser):
    """Where the start tags with URLs are: offset, text, names of the attributes."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=False)
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]
        self.found: list[tuple[int, str, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """See HTMLParser."""
        names = [name for name, value in attrs if value and name in _ATTRIBUTES.get(tag, "").split()]
        text = self.get_starttag_text()
        if names and text:
            line, column = self.getpos()
            self.found.append((self._lines[line - 1] + column, text, names))


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
