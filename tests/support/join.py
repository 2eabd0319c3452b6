"""A second host beside a test cluster's: an engine and a network namespace of its own, on the same cable.

Beside it, what plays a master or an engine that is not as it should be.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

from sampan.pki import ca
from tests.support import engine
from tests.support.cluster import ClusterHandle

ADDRESS = "192.168.77.11"
AGENT = str(Path(sys.executable).parent / "sampan-agent")


@dataclass(frozen=True)
class JoiningHost(ClusterHandle):
    """A host that may become a node of `master`'s cluster: its own places, the same commands."""

    master: ClusterHandle

    def join_arguments(self, line: str, *more: str) -> list[str]:
        """A printed join line as it is typed here, with the engine and cgroups that are this host's."""
        words = line.split()
        assert words[:2] == ["sampan", "join"], line
        return [*words[1:], "--docker-host", self.engine.docker_host, "--cgroup-root",
                f"{self.engine.cgroup_parent}-pods", *more]

    def links(self) -> list[str]:
        """The network interfaces that are there, but the kernel's own."""
        shown = self.run("ip", "-o", "link").stdout.splitlines()
        names = [line.split()[1].rstrip(":").partition("@")[0] for line in shown]
        return [name for name in names if not name.startswith(("ip", "tunl", "sit", "gre", "erspan", "lo"))]


@contextmanager
def second_host(cluster: ClusterHandle, directory: Path, address: str = ADDRESS) -> Iterator[JoiningHost]:
    """Make the host, and take it away with everything on it; keep `directory` short, it holds sockets."""
    private = engine.engine_up(directory / "engine")
    host = JoiningHost(directory, private, cluster)
    try:
        engine.import_image(private)
        name = f"c{os.urandom(4).hex()}"
        cluster.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns",
                    f"/run/netns/{private.netns}")
        cluster.run("ip", "link", "set", name, "master", "host0", "up")
        host.run("ip", "link", "set", "lo", "up")
        host.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        yield host
    finally:
        try:
            host.sampan("reset", "--force", check=False)
        finally:
            engine.engine_down(private)


@contextmanager
def engine_that_says(folder: Path, version: str, root_dir: str) -> Iterator[str]:
    """Plays a Docker Engine that only tells of itself."""
    answers = {"/version": {"Version": version, "Components": [{"Name": "Engine"}]},
               "/info": {"DockerRootDir": root_dir}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not a word."""

    place = folder / "docker.sock"
    with ThreadingUnixStreamServer(str(place), Handler) as server, serving(server):
        yield f"unix://{place}"


@contextmanager
def master_with_clock(folder: Path, seconds_ahead: float) -> Iterator[tuple[int, str]]:
    """Plays a master whose clock is ahead, on the test's own loopback; its port, and its CA's hash."""
    _, authority = ca.Authority.create("elsewhere")
    own = authority.issue(ca.Identity("kube-apiserver"), names=["127.0.0.1"], usages=("server auth",))
    (folder / "pair.pem").write_bytes(own.certificate + own.key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(authority.certificate)))
            self.end_headers()
            self.wfile.write(authority.certificate)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate((timestamp or time.time()) + seconds_ahead, usegmt=True)

        def log_message(self, *_: object) -> None:
            """Not a word."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server):
            yield server.server_address[1], ca.public_key_hash(authority.certificate)


@contextmanager
def serving(server: HTTPServer | ThreadingUnixStreamServer) -> Iterator[None]:
    """Serve in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def somebody_listens(host: JoiningHost, port: int) -> Iterator[None]:
    """A process on that host has the port."""
    program = f"import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(600)"
    with subprocess.Popen([*host.enter, "python3", "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        try:
            yield
        finally:
            process.kill()
