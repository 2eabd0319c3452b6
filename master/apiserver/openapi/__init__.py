"""The OpenAPI documents that kubectl and other clients read: made from the table of resources, when first asked for."""

from master.apiserver.openapi.documents import Document, OpenAPI, accepts_protobuf

__all__ = ["Document", "OpenAPI", "accepts_protobuf"]
