"""How fast the API server is: durable writes, TLS and a database on disk, measured from outside.

    .venv/bin/python bench/api.py [--pods 5000] [--directory DIR] [--components apiserver]

A master of its own runs in a second process (SQLite, synchronous=FULL, in a directory that is removed afterwards).
The client is written on bare sockets, so that it takes little of the processor that both share. Beside each figure
stands what kube-apiserver 1.32 with etcd gave on a comparable machine of two cores: a reference that was taken once,
not a part of this run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"
MERGE = "application/merge-patch+json"
PODS = "/api/v1/namespaces/default/pods"
UPSTREAM = {
    "creates/s, 1 client": (233, "/s"), "creates/s, 32 clients": (885, "/s"), "patches/s, 32 clients": (735, "/s"),
    "LIST of all, JSON": (226, "ms"), "LIST of all, Table": (137, "ms"), "LIST of 1 in 10 by label": (18, "ms"),
    "watch delay, median": (15, "ms"), "watch delay, p99": (40, "ms"), "memory after the pods": (833, "MB"),
}
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
BINDINGS = 500
"""How many bindings of others there are beside the one that counts."""
WATCHERS, WATCH_RATE, WATCH_SECONDS = 200, 20, 15


class Connection:
    """HTTP/1.1 over one TLS connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str = "") -> None:
        self._reader = reader
        self._writer = writer
        self._who = f"Authorization: Bearer {token}\r\n" if token else ""

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext, token: str = "") -> Connection:
        """Connect with the context's certificate, or show a token."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 26), token)

    async def send(self, method: str, path: str, body: bytes = b"", accept: str = "application/json",
                   content_type: str = "application/json") -> None:
        """Send a request."""
        head = (f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n{self._who}\r\n")
        self._writer.write(head.encode() + body)

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """The answer's code and headers."""
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        fields = (line.partition(b":") for line in lines[1:] if line)
        return int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in fields}

    async def chunk(self) -> bytes:
        """The next piece of a chunked answer, empty at its end."""
        size = int(await self._reader.readuntil(b"\r\n"), 16)
        data = await self._reader.readexactly(size + 2)
        return data[:-2]

    async def request(self, method: str, path: str, body: bytes = b"", accept: str = "application/json",
                      content_type: str = "application/json", allowed: tuple[int, ...] = ()) -> bytes:
        """A request that must succeed, or fail with a code that is allowed: the whole body."""
        await self.send(method, path, body, accept, content_type)
        code, headers = await self.head()
        if headers.get(b"transfer-encoding") == b"chunked":
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            data = b"".join(pieces)
        else:
            data = await self._reader.readexactly(int(headers[b"content-length"]))
        if code >= 300 and code not in allowed:
            raise SystemExit(f"{method} {path}: {code} {data[:500]!r}")
        return data

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


@dataclass
class Figures:
    """What was measured, printed as it comes."""

    rows: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        """Print a figure, and the reference where there is one."""
        self.rows[name] = value
        known = UPSTREAM.get(name)
        peer = f"{known[0]:>8g} {known[1]}" if known else ""
        print(f"{name:<34}{value:>10.1f} {unit:<4}{peer:>16}", flush=True)


def pod(index: int) -> bytes:
    """A pod as a Deployment makes it, bound to one of a hundred nodes."""
    labels = {"app": f"app-{index % 10}", "pod-template-hash": "5d4f8c7b9"}
    container = {
        "name": "app", "image": "registry.example/app:1.2.3", "command": ["/bin/app"], "args": ["--port=8080"],
        "env": [{"name": f"VARIABLE_{number}", "value": f"value-{number}"} for number in range(5)],
        "ports": [{"name": "http", "containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http"}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    return json.dumps({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{index:05}", "labels": labels},
        "spec": {"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}],
                 "nodeName": f"node-{index % 100}", "terminationGracePeriodSeconds": 30},
    }).encode()


class Bench:
    """The measurements, in the order in which they build on each other."""

    def __init__(self, port: int, context: ssl.SSLContext, pods: int, process: int) -> None:
        self._port = port
        self._context = context
        self._pods = pods
        self._process = process
        self._figures = Figures()

    async def run(self) -> None:
        """Everything."""
        await self._once("POST", ACCOUNTS, json.dumps({"metadata": {"name": "default"}}).encode(), allowed=(409,))
        alone = max(self._pods // 5, 1)
        self._figures.add("memory at start", self._memory(), "MB")
        await self._writes("creates/s, 1 client", 1, alone, self._create)
        await self._writes("creates/s, 32 clients", 32, self._pods - alone, lambda number: self._create(number + alone))
        self._figures.add("memory after the pods", self._memory(), "MB")
        await self._writes("patches/s, 1 client", 1, 500, self._patch)
        await self._writes("patches/s, 32 clients", 32, 3000, self._patch)
        await self._reads()
        await self._by_role()
        await self._watch()
        self._figures.add("memory at the end", self._memory(), "MB")

    def _create(self, number: int) -> tuple[str, str, bytes, str]:
        return "POST", PODS, pod(number), "application/json"

    def _patch(self, number: int) -> tuple[str, str, bytes, str]:
        body = json.dumps({"metadata": {"annotations": {"touched": str(time.time())}}}).encode()
        return "PATCH", f"{PODS}/pod-{number % self._pods:05}", body, MERGE

    async def _writes(self, name: str, clients: int, count: int,
                      make: Callable[[int], tuple[str, str, bytes, str]]) -> None:
        numbers = iter(range(count))

        async def work(connection: Connection) -> None:
            for number in numbers:
                method, path, body, content_type = make(number)
                await connection.request(method, path, body, content_type=content_type)

        connections = [await Connection.open(self._port, self._context) for _ in range(clients)]
        start = time.perf_counter()
        await asyncio.gather(*map(work, connections))
        self._figures.add(name, count / (time.perf_counter() - start), "/s")
        for connection in connections:
            connection.close()

    async def _reads(self) -> None:
        connection = await Connection.open(self._port, self._context)
        gets = await self._times(connection, f"{PODS}/pod-00007", 1000)
        self._figures.add("GET, median", gets, "ms")
        size = len(await connection.request("GET", PODS))
        self._figures.add("LIST of all, JSON", await self._times(connection, PODS, 9), "ms")
        self._figures.add("  size", size / 1e6, "MB")
        first = await self._times(connection, PODS, 1, TABLE)
        self._figures.add("LIST of all, Table, the first", first, "ms")
        self._figures.add("LIST of all, Table", await self._times(connection, PODS, 9, TABLE), "ms")
        by_label = f"{PODS}?labelSelector=app%3Dapp-3"
        self._figures.add("LIST of 1 in 10 by label", await self._times(connection, by_label, 15), "ms")
        connection.close()

    async def _by_role(self) -> None:
        """The same GET by the administrator, and by a ServiceAccount whose token and role are looked at each time."""
        rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
        for path, tree in ((ACCOUNTS, {"metadata": {"name": "reader"}}),
                           (f"{RBAC}/clusterroles", {"metadata": {"name": "read-pods"}, "rules": [rule]})):
            await self._once("POST", path, json.dumps(tree).encode())
        bindings = f"{RBAC}/namespaces/default/rolebindings"
        for number in range(BINDINGS + 1):
            name = f"other-{number}" if number else "reader"
            tree = {"metadata": {"name": f"b-{number}"},
                    "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": name}],
                    "roleRef": {"kind": "ClusterRole", "name": "read-pods"}}
            await self._once("POST", bindings, json.dumps(tree).encode())
        token = json.loads(await self._once("POST", f"{ACCOUNTS}/reader/token", b"{}"))["status"]["token"]
        plain = ssl.create_default_context()
        plain.check_hostname, plain.verify_mode = False, ssl.CERT_NONE
        boss, reader = [await Connection.open(self._port, context, word)
                        for context, word in ((self._context, ""), (plain, token))]
        times: dict[str, list[float]] = {"administrator": [], "ServiceAccount": []}
        for _ in range(10):  # in turns, so that whatever else the machine does hits both
            times["administrator"].append(await self._times(boss, f"{PODS}/pod-00007", 300))
            times["ServiceAccount"].append(await self._times(reader, f"{PODS}/pod-00007", 300))
        for name, found in times.items():
            self._figures.add(f"GET by {name}", statistics.median(found) * 1000, "us")
        boss.close()
        reader.close()

    async def _times(self, connection: Connection, path: str, count: int, accept: str = "application/json") -> float:
        """The median in milliseconds, until the last byte is here."""
        times = []
        for _ in range(count):
            start = time.perf_counter()
            await connection.request("GET", path, accept=accept)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1000

    async def _watch(self) -> None:
        """From just before a write is sent until each watcher has the event."""
        delays: list[float] = []
        revision = json.loads(await self._once("GET", PODS + "?limit=1"))["metadata"]["resourceVersion"]

        async def follow() -> None:
            connection = await Connection.open(self._port, self._context)
            await connection.send("GET", f"{PODS}?watch=1&resourceVersion={revision}")
            await connection.head()
            ready.release()
            try:
                while data := await connection.chunk():
                    now = time.perf_counter()
                    at = data.find(b'"sent":"')
                    while at >= 0:
                        delays.append(now - float(data[at + 8:data.index(b'"', at + 8)]))
                        at = data.find(b'"sent":"', at + 8)
            finally:
                connection.close()

        ready = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as group:
            watchers = [group.create_task(follow()) for _ in range(WATCHERS)]
            for _ in watchers:
                await ready.acquire()
            connection = await Connection.open(self._port, self._context)
            start, used = time.perf_counter(), self._processor()
            for number in range(WATCH_RATE * WATCH_SECONDS):
                await asyncio.sleep(max(0.0, start + number / WATCH_RATE - time.perf_counter()))
                body = json.dumps({"metadata": {"annotations": {"sent": repr(time.perf_counter())}}}).encode()
                await connection.request("PATCH", f"{PODS}/pod-{number:05}", body, content_type=MERGE)
            await asyncio.sleep(1)
            for watcher in watchers:
                watcher.cancel()
        connection.close()
        expected = WATCHERS * WATCH_RATE * WATCH_SECONDS
        if len(delays) != expected:
            raise SystemExit(f"{len(delays)} events of {expected} have come")
        self._figures.add("  processor time an event", (self._processor() - used) / len(delays) * 1e6, "us")
        delays.sort()
        self._figures.add("watch delay, median", delays[len(delays) // 2] * 1000, "ms")
        self._figures.add("watch delay, p99", delays[len(delays) * 99 // 100] * 1000, "ms")

    async def _once(self, method: str, path: str, body: bytes = b"", allowed: tuple[int, ...] = ()) -> bytes:
        connection = await Connection.open(self._port, self._context)
        try:
            return await connection.request(method, path, body, allowed=allowed)
        finally:
            connection.close()

    def _processor(self) -> float:
        """Seconds of processor time that the master has taken."""
        fields = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _memory(self) -> float:
        """The master's resident set."""
        status = Path(f"/proc/{self._process}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def main() -> None:
    """Start a master, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--directory", type=Path, help="where the database goes (default: the temporary directory)")
    parser.add_argument("--components", default="apiserver", help="parts of the master that run, comma-separated")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="sampan-bench-", dir=options.directory))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        port, nodes = free_port(), free_port()
        command = [sys.executable, "-m", "master.main", "--data-dir", str(directory), "--secure-port", str(port),
                   "--node-port-grpc", str(nodes), "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
                   "--components", options.components, "--log-level", "warning"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        process = await asyncio.create_subprocess_exec(*command, env=environment)
        stack.push_async_callback(process.wait)
        stack.callback(process.terminate)
        context = await connected(directory / "pki", port, process)
        print(f"{'':<34}{'sampan':>10} {'':<4}{'kube-apiserver':>16}")
        await Bench(port, context, options.pods, process.pid).run()


async def connected(pki: Path, port: int, process: asyncio.subprocess.Process) -> ssl.SSLContext:
    """Wait until the master answers."""
    for _ in range(300):
        if process.returncode is not None:
            raise SystemExit("the master has ended")
        try:
            context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
            context.check_hostname = False
            context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
            connection = await Connection.open(port, context)
            await connection.request("GET", "/readyz")
            connection.close()
        except OSError:
            await asyncio.sleep(0.1)
            continue
        return context
    raise SystemExit("the master does not answer")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
