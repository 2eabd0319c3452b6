"""Request bodies in the API's protobuf form, which typed Go clients (kubectl create, controllers) send by default."""

from master.apiserver.protobuf.decode import CONTENT_TYPE, is_protobuf, read_protobuf

__all__ = ["CONTENT_TYPE", "is_protobuf", "read_protobuf"]
