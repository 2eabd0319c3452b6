from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "held", "report")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    held: Held
    report: Report
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "software")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    version: int
    software: str
    def __init__(self, version: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("objects", "last")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[HeldObject]
    last: bool
    def __init__(self, objects: _Optional[_Iterable[_Union[HeldObject, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...

class HeldObject(_message.Message):
    __slots__ = ("key", "uid", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: Key
    uid: str
    revision: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., uid: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("group", "plural", "namespace", "name")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    PLURAL_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    group: str
    plural: str
    namespace: str
    name: str
    def __init__(self, group: _Optional[str] = ..., plural: _Optional[str] = ..., namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("sequence", "pod", "node", "lease", "event")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    pod: PodReport
    node: bytes
    lease: bytes
    event: bytes
    def __init__(self, sequence: _Optional[int] = ..., pod: _Optional[_Union[PodReport, _Mapping]] = ..., node: _Optional[bytes] = ..., lease: _Optional[bytes] = ..., event: _Optional[bytes] = ...) -> None: ...

class PodReport(_message.Message):
    __slots__ = ("namespace", "name", "uid", "status", "terminated")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    status: bytes
    terminated: bool
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ..., status: _Optional[bytes] = ..., terminated: _Optional[bool] = ...) -> None: ...

class MasterMessage(_message.Message):
    __slots__ = ("welcome", "change", "synced", "ack", "open")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    change: Change
    synced: Synced
    ack: Ack
    open: Open
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., change: _Optional[_Union[Change, _Mapping]] = ..., synced: _Optional[_Union[Synced, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., open: _Optional[_Union[Open, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "software")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    version: int
    software: str
    def __init__(self, version: _Optional[int] = ..., software: _Optional[str] = ...) -> None: ...

class Change(_message.Message):
    __slots__ = ("operation", "key", "uid", "revision", "object")
    class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PUT: _ClassVar[Change.Operation]
        DELETE: _ClassVar[Change.Operation]
    PUT: Change.Operation
    DELETE: Change.Operation
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    operation: Change.Operation
    key: Key
    uid: str
    revision: str
    object: bytes
    def __init__(self, operation: _Optional[_Union[Change.Operation, str]] = ..., key: _Optional[_Union[Key, _Mapping]] = ..., uid: _Optional[str] = ..., revision: _Optional[str] = ..., object: _Optional[bytes] = ...) -> None: ...

class Synced(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence", "code", "message")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    code: int
    message: str
    def __init__(self, sequence: _Optional[int] = ..., code: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("id", "exec", "attach", "logs", "port_forward", "proxy")
    ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    PORT_FORWARD_FIELD_NUMBER: _ClassVar[int]
    PROXY_FIELD_NUMBER: _ClassVar[int]
    id: str
    exec: Exec
    attach: Attach
    logs: Logs
    port_forward: PortForward
    proxy: Proxy
    def __init__(self, id: _Optional[str] = ..., exec: _Optional[_Union[Exec, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., logs: _Optional[_Union[Logs, _Mapping]] = ..., port_forward: _Optional[_Union[PortForward, _Mapping]] = ..., proxy: _Optional[_Union[Proxy, _Mapping]] = ...) -> None: ...

class PodRef(_message.Message):
    __slots__ = ("namespace", "name", "uid")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    uid: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class Exec(_message.Message):
    __slots__ = ("pod", "container", "command", "stdin", "stdout", "stderr", "tty")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    pod: PodRef
    container: str
    command: _containers.RepeatedScalarFieldContainer[str]
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    def __init__(self, pod: _Optional[_Union[PodRef, _Mapping]] = ..., container: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., stdin: _Optional[bool] = ..., stdout: _Optional[bool] = ..., stderr: _Optional[bool] = ..., tty: _Optional[bool] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("pod", "container", "stdin", "stdout", "stderr", "tty")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    pod: PodRef
    container: str
    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    def __init__(self, pod: _Optional[_Union[PodRef, _Mapping]] = ..., container: _Optional[str] = ..., stdin: _Optional[bool] = ..., stdout: _Optional[bool] = ..., stderr: _Optional[bool] = ..., tty: _Optional[bool] = ...) -> None: ...

class Logs(_message.Message):
    __slots__ = ("pod", "container", "follow", "previous", "timestamps", "since_seconds", "since_time", "tail_lines", "limit_bytes")
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMPS_FIELD_NUMBER: _ClassVar[int]
    SINCE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SINCE_TIME_FIELD_NUMBER: _ClassVar[int]
    TAIL_LINES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    pod: PodRef
    container: str
    follow: bool
    previous: bool
    timestamps: bool
    since_seconds: int
    since_time: str
    tail_lines: int
    limit_bytes: int
    def __init__(self, pod: _Optional[_Union[PodRef, _Mapping]] = ..., container: _Optional[str] = ..., follow: _Optional[bool] = ..., previous: _Optional[bool] = ..., timestamps: _Optional[bool] = ..., since_seconds: _Optional[int] = ..., since_time: _Optional[str] = ..., tail_lines: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class PortForward(_message.Message):
    __slots__ = ("pod", "port")
    POD_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    pod: PodRef
    port: int
    def __init__(self, pod: _Optional[_Union[PodRef, _Mapping]] = ..., port: _Optional[int] = ...) -> None: ...

class Proxy(_message.Message):
    __slots__ = ("address", "tls")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    address: str
    tls: bool
    def __init__(self, address: _Optional[str] = ..., tls: _Optional[bool] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("ready", "failure", "data", "resize", "exit")
    READY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    ready: Ready
    failure: Failure
    data: Data
    resize: Resize
    exit: Exit
    def __init__(self, ready: _Optional[_Union[Ready, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., data: _Optional[_Union[Data, _Mapping]] = ..., resize: _Optional[_Union[Resize, _Mapping]] = ..., exit: _Optional[_Union[Exit, _Mapping]] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("id", "code", "reason", "message")
    ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    id: str
    code: int
    reason: str
    message: str
    def __init__(self, id: _Optional[str] = ..., code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("channel", "data", "end")
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    channel: int
    data: bytes
    end: bool
    def __init__(self, channel: _Optional[int] = ..., data: _Optional[bytes] = ..., end: _Optional[bool] = ...) -> None: ...

class Resize(_message.Message):
    __slots__ = ("width", "height")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: int
    def __init__(self, code: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("request", "serving")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SERVING_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    serving: bool
    def __init__(self, request: _Optional[bytes] = ..., serving: _Optional[bool] = ...) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class ReviewRequest(_message.Message):
    __slots__ = ("token", "certificate", "verb", "subresource", "path")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    VERB_FIELD_NUMBER: _ClassVar[int]
    SUBRESOURCE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    token: str
    certificate: CertifiedUser
    verb: str
    subresource: str
    path: str
    def __init__(self, token: _Optional[str] = ..., certificate: _Optional[_Union[CertifiedUser, _Mapping]] = ..., verb: _Optional[str] = ..., subresource: _Optional[str] = ..., path: _Optional[str] = ...) -> None: ...

class CertifiedUser(_message.Message):
    __slots__ = ("name", "groups")
    NAME_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    name: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ...) -> None: ...

class ReviewReply(_message.Message):
    __slots__ = ("authenticated", "allowed", "user", "groups", "reason", "cache_seconds")
    AUTHENTICATED_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CACHE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    authenticated: bool
    allowed: bool
    user: str
    groups: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    cache_seconds: int
    def __init__(self, authenticated: _Optional[bool] = ..., allowed: _Optional[bool] = ..., user: _Optional[str] = ..., groups: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., cache_seconds: _Optional[int] = ...) -> None: ...

class IssueTokenRequest(_message.Message):
    __slots__ = ("pod", "service_account", "audiences", "expiration_seconds")
    POD_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    AUDIENCES_FIELD_NUMBER: _ClassVar[int]
    EXPIRATION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    pod: PodRef
    service_account: str
    audiences: _containers.RepeatedScalarFieldContainer[str]
    expiration_seconds: int
    def __init__(self, pod: _Optional[_Union[PodRef, _Mapping]] = ..., service_account: _Optional[str] = ..., audiences: _Optional[_Iterable[str]] = ..., expiration_seconds: _Optional[int] = ...) -> None: ...

class IssueTokenReply(_message.Message):
    __slots__ = ("token", "issued", "expires")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    token: str
    issued: int
    expires: int
    def __init__(self, token: _Optional[str] = ..., issued: _Optional[int] = ..., expires: _Optional[int] = ...) -> None: ...
