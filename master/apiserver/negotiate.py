"""Content negotiation: which form of an answer the client's Accept header asks for (RFC 9110, section 12.5.1).

kubectl asks for a Table, for aggregated discovery or for metadata alone with parameters of the media type:
``application/json;as=Table;v=v1;g=meta.k8s.io``. They come in any order, several alternatives in one header.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from sampan.api.errors import ApiError


class Form(Enum):
    """What an answer is made into."""

    PLAIN = "plain"
    TABLE = "Table"
    PARTIAL = "PartialObjectMetadata"
    PARTIAL_LIST = "PartialObjectMetadataList"
    DISCOVERY = "APIGroupDiscoveryList"


_GROUPS: Final = {
    Form.TABLE: ("meta.k8s.io", ("v1", "v1beta1")),
    Form.PARTIAL: ("meta.k8s.io", ("v1", "v1beta1")),
    Form.PARTIAL_LIST: ("meta.k8s.io", ("v1", "v1beta1")),
    Form.DISCOVERY: ("apidiscovery.k8s.io", ("v2", "v2beta1")),
}
_FORMS: Final = {form.value: form for form in _GROUPS}
_MEDIA: Final = {"application/json": "json", "application/yaml": "yaml", "*/*": "json", "application/*": "json"}
_PLAIN_ONLY: Final = frozenset({Form.PLAIN})


@dataclass(frozen=True, slots=True)
class Media:
    """The chosen answer: `encoding` is "json" or "yaml"; `version` is v1, v1beta1 (Table, Partial…), v2, v2beta1."""

    encoding: str = "json"
    form: Form = Form.PLAIN
    version: str = ""
    content_type: str = "application/json"
    """The Content-Type header of the answer; discovery's repeats g, v and as, without which client-go reads it as
    legacy."""
    pretty: bool = False


@dataclass(frozen=True, slots=True)
class Clause:
    """One alternative of an Accept header: a media type in lower case, its parameters, and its weight."""

    media: str
    parameters: dict[str, str]
    weight: float


def parse_accept(accept: str) -> list[Clause]:
    """The alternatives, best first; those of weight 0 are left out. Parameters' names are in lower case."""
    clauses = []
    for part in accept.split(","):
        media, *rest = (piece.strip() for piece in part.split(";"))
        pairs = (item.partition("=") for item in rest)
        parameters = {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs if name.strip()}
        if media:
            clauses.append(Clause(media.lower(), parameters, _weight(parameters.pop("q", "1"))))
    # The order of the header decides between equals, but a wildcard comes after what is named.
    clauses.sort(key=lambda clause: (-clause.weight, clause.media.count("*")))
    return [clause for clause in clauses if clause.weight > 0]


def negotiate(accept: str, *, forms: frozenset[Form] = _PLAIN_ONLY, yaml: bool = True) -> Media:
    """The best of what the client accepts and `forms` (PLAIN always) has; ApiError 406 where there is none."""
    if not accept.strip():
        return Media()
    for clause in parse_accept(accept):
        encoding = _MEDIA.get(clause.media)
        if encoding is None or (encoding == "yaml" and not yaml):
            continue
        media = _choose(clause, encoding, forms)
        if media is not None:
            return media
    known = "application/json, application/yaml" if yaml else "application/json"
    raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {known}")


def _choose(clause: Clause, encoding: str, forms: frozenset[Form]) -> Media | None:
    """The answer that one alternative asks for, None where there is no such form here."""
    content_type = f"application/{encoding}"
    pretty = clause.parameters.get("pretty") in ("1", "true")
    kind = clause.parameters.get("as")
    if kind is None:
        return Media(encoding, Form.PLAIN, "", content_type, pretty)
    form = _FORMS.get(kind)
    if form is None or form not in forms:
        return None
    group, versions = _GROUPS[form]
    version = clause.parameters.get("v", "")
    if clause.parameters.get("g") != group or version not in versions:
        return None
    if form is Form.DISCOVERY:
        content_type += f";g={group};v={version};as={kind}"
    return Media(encoding, form, version, content_type, pretty)


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 1.0
