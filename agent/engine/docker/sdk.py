"""The Docker SDK as the adapter uses it: one pool of connections, and errors that are ours. All of it blocks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import docker
import docker.errors
import requests
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.transport.unixconn import UnixHTTPAdapter, UnixHTTPConnection, UnixHTTPConnectionPool

from agent.engine.protocol import EngineError, EngineTimeout, EngineUnavailable, NotFound

R = TypeVar("R")


class Sdk:
    """Connects at the first call, and speaks the newest version of the API that the engine knows."""

    def __init__(self, host: str, timeout: float, connections: int) -> None:
        """`timeout` in seconds, for calls that set none of their own."""
        self._host = host
        self._timeout = timeout
        self._connections = connections
        self._api: docker.APIClient | None = None
        self._lock = threading.Lock()

    def call(self, function: Callable[[docker.APIClient], R]) -> R:
        """Call `function`, and translate what goes wrong."""
        try:
            return function(self._connected())
        except EngineError:
            raise
        except docker.errors.APIError as error:
            raise _refusal(error.status_code or 0, error.explanation or str(error)) from error
        except (requests.exceptions.Timeout, TimeoutError) as error:
            raise EngineTimeout(f"no answer from the engine: {error}") from error
        except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as error:
            raise EngineUnavailable(f"cannot reach the engine at {self._host}: {error}") from error

    def close(self) -> None:
        """Close idle connections."""
        if self._api is not None:
            self._api.close()

    def _connected(self) -> docker.APIClient:
        with self._lock:
            if self._api is None:
                oldest = _client(self._host, MINIMUM_DOCKER_API_VERSION, self._timeout, self._connections)
                with contextlib.closing(oldest):
                    version = str(oldest.version(api_version=False)["ApiVersion"])
                self._api = _client(self._host, version, self._timeout, self._connections)
            return self._api


class Conflict(EngineError):
    """409: what was asked does not fit the container's state. Callers outside see an EngineError."""


def _refusal(status: int, message: str) -> EngineError:
    """Docker's status code and message as one of our errors."""
    if status == 404:
        return NotFound(message)
    return Conflict(message) if status == 409 else EngineError(message)


def checked(response: requests.Response) -> requests.Response:
    """The response, unless it is a refusal."""
    if response.status_code < 400:
        return response
    with contextlib.closing(response):
        try:
            message = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            message = response.text.strip() or f"HTTP {response.status_code}"
    raise _refusal(response.status_code, message)


def send(api: docker.APIClient, method: str, path: str, timeout: float, **rest: Any) -> requests.Response:
    """A request with a time limit of its own, in seconds: the SDK's methods know but one for all. Refusals raise."""
    return checked(api.request(method, url(api, path), timeout=timeout, **rest))


def url(api: docker.APIClient, path: str) -> str:
    return f"{api.base_url}/v{api.api_version}{path}"


def _client(host: str, version: str, timeout: float, connections: int) -> docker.APIClient:
    api = docker.APIClient(host, version=version, timeout=int(timeout))
    api.mount("http+docker://", _Adapter(host.replace("unix://", "http+unix://"), int(timeout), connections))
    api.trust_env = False  # no look for proxies and .netrc on each request
    return api


class _Connection(UnixHTTPConnection):
    """As the SDK's, but closes its socket when there is nobody to connect to."""

    def connect(self) -> None:
        """Connect to the engine's socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except OSError:
            sock.close()
            raise
        self.sock = sock


class _ConnectionPool(UnixHTTPConnectionPool):
    """Makes such connections."""

    def _new_conn(self) -> _Connection:  # type: ignore[override]  # as the SDK's own class does
        return _Connection(self.base_url, self.socket_path, self.timeout)  # type: ignore[arg-type]  # as above


class _Adapter(UnixHTTPAdapter):
    """One pool for all calls, whose connections are used again; the SDK's has a pool for each URL."""

    def __init__(self, socket_url: str, timeout: int, connections: int) -> None:
        super().__init__(socket_url, timeout, max_pool_size=connections)
        self._pool = _ConnectionPool(socket_url, self.socket_path, timeout, maxsize=connections)

    def get_connection(self, url: str | bytes, proxies: Any = None) -> _ConnectionPool:
        """The pool, whatever the URL."""
        return self._pool

    def close(self) -> None:
        """Close idle connections."""
        self._pool.close()
