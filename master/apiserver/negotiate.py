"""Content negotiation: which form of an answer the client's Accept header asks for (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Form(Enum):
    """What an answer is made into."""

    PLAIN = "plain"
    TABLE = "Table"
    PARTIAL = "PartialObjectMetadata"
    PARTIAL_LIST = "PartialObjectMetadataList"
    DISCOVERY = "APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Media:
    """The chosen answer: `encoding` is "json" or "yaml"; `version` is v1, v1beta1 (Table, Partial…), v2, v2beta1."""

    encoding: str = "json"
    form: Form = Form.PLAIN
    version: str = ""
    content_type: str = "application/json"
    """The Content-Type header of the answer; discovery's repeats g, v and as, without which client-go reads it as
    legacy."""


def negotiate(accept: str, *, forms: frozenset[Form] = frozenset({Form.PLAIN}), yaml: bool = True) -> Media:
    """The best of what the client accepts and `forms` (PLAIN always) has; ApiError 406 where there is none."""
    raise NotImplementedError
