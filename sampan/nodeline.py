"""What both ends of the line between master and agents agree on, beyond proto/node.proto."""

from __future__ import annotations

from typing import NamedTuple

from sampan.api.resources import Object, Resource, T
from sampan.pb import node_pb2

PROTOCOL_VERSION = 1
"""Raised when an old end could no longer understand a new one; the master refuses agents with a newer one."""

PORT = 6444

USER_PREFIX = "system:node:"
GROUP = "system:nodes"

STDIN, STDOUT, STDERR, ERROR, RESIZE = 0, 1, 2, 3, 4
"""Channels of a session, numbered as in the API's WebSocket protocol."""

CHUNK = 32 * 1024
"""Bytes of session data in one frame, at most: small enough that sessions share a connection fairly."""

_MESSAGE_LIMIT = 4 * 1024 * 1024
_LIMITS = [
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS = [*_LIMITS, ("grpc.keepalive_time_ms", 20_000), ("grpc.enable_http_proxy", 0),
                   ("grpc.initial_reconnect_backoff_ms", 200), ("grpc.max_reconnect_backoff_ms", 5_000)]
"""The agent pings: a master that vanished without a word is noticed within half a minute."""
SERVER_OPTIONS = [*_LIMITS, ("grpc.keepalive_time_ms", 30_000), ("grpc.so_reuseport", 0),
                  ("grpc.http2.min_ping_interval_without_data_ms", 10_000)]


class Key(NamedTuple):
    """Which object: the resource by group and plural, and the object's own names."""

    group: str
    plural: str
    namespace: str
    name: str

    @property
    def resource(self) -> tuple[str, str]:
        """As `Resource.key`."""
        return self.group, self.plural

    def __str__(self) -> str:
        path = "/".join(part for part in (self.namespace, self.name) if part)
        return f"{self.plural}.{self.group} {path}" if self.group else f"{self.plural} {path}"

    def message(self) -> node_pb2.Key:
        """The same as it travels."""
        return node_pb2.Key(group=self.group, plural=self.plural, namespace=self.namespace, name=self.name)

    @classmethod
    def read(cls, message: node_pb2.Key) -> Key:
        """From what travelled."""
        return cls(message.group, message.plural, message.namespace, message.name)


def key_of(resource: Resource[T], obj: Object) -> Key:
    """The object's key."""
    return Key(*resource.key, obj.metadata.namespace, obj.metadata.name)
