"""The real Prometheus and the real VictoriaMetrics against a cluster of ours, with docs/prometheus as it stands.

Debian builds Prometheus without discovery by Kubernetes. Where the binary lacks it, `Discovery` takes its place: it
asks the API server for the same objects with the same token, and hands their targets over with the labels that
Prometheus' documentation gives them (configuration, kubernetes_sd_config). Everything after that - relabelling,
certificates, tokens, scraping, rules - is Prometheus' own. A binary with discovery is used with it.

Discovery itself is VictoriaMetrics' part: it reads the same configuration, and has its own client of Kubernetes.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.support.space import patience

if TYPE_CHECKING:
    from tests.support.lab import LabHandle

Json = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs" / "prometheus"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
ADDRESS_ORDER = ("InternalIP", "InternalDNS", "ExternalIP", "ExternalDNS", "LegacyHostIP", "Hostname")


class Refused(OSError):
    """An answer that is an error: code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text


@dataclass
class Api:
    """The API server, with a ServiceAccount's token."""

    server: str
    token: str
    authority: Path

    def get(self, url: str) -> Json:
        """Read a path of the API server, or a whole URL; Refused."""
        found: Json = json.loads(self.text(url))
        return found

    def text(self, url: str) -> str:
        """The same, as text."""
        context = ssl.create_default_context(cafile=self.authority)
        request = urllib.request.Request(urllib.parse.urljoin(self.server, url),
                                         headers={"Authorization": f"Bearer {self.token}"})
        try:
            with urllib.request.urlopen(request, context=context, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, error.read().decode()) from None


class Discovery:
    """Targets by role, as Prometheus would find them."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def groups(self, role: str, namespaces: list[str]) -> list[Json]:
        """What a file of targets holds; `namespaces` empty for all."""
        plural = {"node": "nodes", "pod": "pods", "endpoints": "endpoints"}[role]
        paths = [f"/api/v1/namespaces/{name}/{plural}" for name in namespaces] or [f"/api/v1/{plural}"]
        objects = [item for path in paths for item in self._api.get(path)["items"]]
        if role == "node":
            return [self._node(item) for item in objects]
        if role == "pod":
            return [group for item in objects for group in self._pod(item)]
        services = {(item["metadata"]["namespace"], item["metadata"]["name"]): item
                    for item in self._api.get("/api/v1/services")["items"]}
        return [group for item in objects for group in self._endpoints(item, services)]

    @staticmethod
    def _node(node: Json) -> Json:
        meta, status = node["metadata"], node["status"]
        addresses = {item["type"]: item["address"] for item in reversed(status["addresses"])}
        address = next(addresses[kind] for kind in ADDRESS_ORDER if kind in addresses)
        port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        return {"targets": [f"{address}:{port}"], "labels": {
            "instance": meta["name"], "__meta_kubernetes_node_name": meta["name"], **_described("node", meta)}}

    @staticmethod
    def _pod(pod: Json) -> Iterator[Json]:
        meta, status = pod["metadata"], pod["status"]
        if not status.get("podIP"):
            return
        labels = {"__meta_kubernetes_namespace": meta["namespace"], "__meta_kubernetes_pod_name": meta["name"],
                  "__meta_kubernetes_pod_ip": status["podIP"], "__meta_kubernetes_pod_phase": status["phase"],
                  "__meta_kubernetes_pod_node_name": pod["spec"].get("nodeName", ""), **_described("pod", meta)}
        for container in pod["spec"]["containers"]:
            named = {**labels, "__meta_kubernetes_pod_container_name": container["name"]}
            ports = container.get("ports", [])
            for port in ports:
                yield {"targets": [f"{status['podIP']}:{port['containerPort']}"], "labels": named}
            if not ports:
                yield {"targets": [status["podIP"]], "labels": named}

    @staticmethod
    def _endpoints(endpoints: Json, services: dict[tuple[str, str], Json]) -> Iterator[Json]:
        meta = endpoints["metadata"]
        service = services.get((meta["namespace"], meta["name"]))
        labels = {"__meta_kubernetes_namespace": meta["namespace"], "__meta_kubernetes_endpoints_name": meta["name"]}
        if service:
            labels |= {"__meta_kubernetes_service_name": meta["name"], **_described("service", service["metadata"])}
        for subset in endpoints.get("subsets", ()):
            for port in subset.get("ports", ()):
                for address in subset.get("addresses", ()):
                    target = address.get("targetRef") or {}
                    pod = {"__meta_kubernetes_pod_name": target["name"]} if target.get("kind") == "Pod" else {}
                    yield {"targets": [f"{address['ip']}:{port['port']}"], "labels": {
                        **labels, **pod, "__meta_kubernetes_endpoint_port_name": port.get("name", "")}}


def _described(kind: str, meta: Json) -> dict[str, str]:
    """Labels and annotations, with names that Prometheus can have."""
    return {f"__meta_kubernetes_{kind}_{what}_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
            for what, key in (("label", "labels"), ("annotation", "annotations"))
            for name, value in (meta.get(key) or {}).items()}


def discovers(directory: Path) -> bool:
    """Whether this Prometheus can discover by Kubernetes itself."""
    config = directory / "probe.yml"
    config.write_text("scrape_configs: [{job_name: a, kubernetes_sd_configs: [{role: node}]}]")
    return subprocess.run(["promtool", "check", "config", config], capture_output=True, check=False,
                          timeout=60).returncode == 0


def configuration(directory: Path, api: Api | None, *, itself: bool) -> Json:
    """docs/prometheus/prometheus.yml for a Prometheus outside of the cluster; targets come from files of `directory`
    unless it discovers `itself`.
    """
    config: Json = yaml.safe_load((DOCS / "prometheus.yml").read_text().replace(ACCOUNT, str(directory)))
    config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    config["rule_files"] = [str(DOCS / "rules.yml")]
    for job in config["scrape_configs"]:
        sources = job["kubernetes_sd_configs"]
        if itself:
            assert api is not None
            for source in sources:
                source |= {"api_server": api.server, "authorization": {"credentials_file": f"{directory}/token"},
                           "tls_config": {"ca_file": f"{directory}/ca.crt"}}
        else:
            del job["kubernetes_sd_configs"]
            job["file_sd_configs"] = [{"files": [str(targets_file(directory, source))], "refresh_interval": "1s"}
                                      for source in sources]
    return config


def targets_file(directory: Path, source: Json) -> Path:
    """Where the targets of one kubernetes_sd_config stand."""
    assert source.keys() <= {"role", "namespaces"}, source
    names = source.get("namespaces", {}).get("names", [])
    return directory / f"targets-{'-'.join([source['role'], *names])}.json"


class HttpApi:
    """Prometheus' HTTP API, which others offer as well."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector of an expression."""
        return [(item["metric"], float(item["value"][1]))
                for item in self.get("query", query=expression)["result"]]

    def targets(self) -> list[Json]:
        """What is scraped."""
        found: list[Json] = self.get("targets", state="active")["activeTargets"]
        return found


@dataclass
class Scraper(HttpApi, ABC):
    """A program that scrapes the cluster from outside. `enter` is the command that enters a node's network, where pods
    can be reached, and `address` the node's, by which it is reached from here.
    """

    directory: Path
    api: Api
    enter: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    _process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self, config: Path, listen: str) -> list[str]:
        """The program and its flags; what it needs else is made here."""

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.directory / "token").write_text(self.api.token)
        (self.directory / "ca.crt").write_bytes(self.api.authority.read_bytes())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            listen = f"{self.address}:{probe.getsockname()[1]}"
        self.url = f"http://{listen}"
        with (self.directory / "log").open("wb") as log:
            command = self.command(self.directory / "prometheus.yml", listen)
            self._process = subprocess.Popen([*self.enter, *command], cwd=self.directory, stdout=log, stderr=log)
        patience(f"{command[0]} answers", self._answers, 60, 0.2)

    def stop(self) -> None:
        """End it."""
        if self._process:
            self._process.terminate()
            self._process.wait(60)

    def log(self) -> str:
        """What it complains of."""
        return (self.directory / "log").read_text()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            return self.get("status/buildinfo") is not None
        except OSError:
            return False


@dataclass
class Prometheus(Scraper):
    """The real one, with targets from us where it cannot discover them itself."""

    _ended: threading.Event = field(default_factory=threading.Event)
    _writer: threading.Thread | None = None

    def command(self, config: Path, listen: str) -> list[str]:
        itself = discovers(self.directory)
        config.write_text(yaml.safe_dump(configuration(self.directory, self.api, itself=itself)))
        if not itself:
            self._write_targets()
            self._writer = threading.Thread(target=self._follow, daemon=True)
            self._writer.start()
        return ["prometheus", f"--config.file={config}", "--log.level=warn",
                f"--storage.tsdb.path={self.directory}/data", f"--web.listen-address={listen}"]

    def stop(self) -> None:
        """End it."""
        self._ended.set()
        super().stop()
        if self._writer:
            self._writer.join(60)

    def _follow(self) -> None:
        while not self._ended.wait(2.0):
            try:
                self._write_targets()
            except OSError:
                continue  # the API server may be away for a moment

    def _write_targets(self) -> None:
        discovery = Discovery(self.api)
        config = yaml.safe_load((DOCS / "prometheus.yml").read_text())
        sources = {str(targets_file(self.directory, source)): source
                   for job in config["scrape_configs"] for source in job["kubernetes_sd_configs"]}
        for path, source in sources.items():
            groups = discovery.groups(source["role"], source.get("namespaces", {}).get("names", []))
            fresh = Path(f"{path}.new")
            fresh.write_text(json.dumps(groups))
            fresh.replace(path)


@dataclass
class VictoriaMetrics(Scraper):
    """VictoriaMetrics: its kubernetes_sd_configs are its own, and follow the API server by LIST and WATCH."""

    def command(self, config: Path, listen: str) -> list[str]:
        config.write_text(yaml.safe_dump(configuration(self.directory, self.api, itself=True)))
        return ["victoria-metrics", *victoria_flags(str(config), f"{self.directory}/data", listen)]


def victoria_flags(config: str, data: str, listen: str) -> list[str]:
    """Its flags for a configuration of Prometheus', of which it passes over the parts that concern rules."""
    return [f"-promscrape.config={config}", "-promscrape.config.strictParse=false", f"-storageDataPath={data}",
            f"-httpListenAddr={listen}", "-retentionPeriod=1d", "-promscrape.kubernetesSDCheckInterval=1s",
            "-search.latencyOffset=0s"]  # what was scraped just now is told at once


@contextmanager
def account(lab: LabHandle, directory: Path) -> Iterator[Api]:
    """The ServiceAccount of docs/prometheus, as rbac.yaml makes it; token and CA by the commands of docs/metrics.md."""
    kubectl = lab.kubectl()
    kubectl("apply", "-f", str(DOCS / "rbac.yaml"))
    try:
        token = kubectl("create", "token", "prometheus", "--namespace=monitoring", "--duration=8760h").strip()
        authority = directory / "cluster.crt"
        authority.write_text(kubectl("get", "configmap", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}"))
        yield Api(lab.server, token, authority)
    finally:
        kubectl("delete", "-f", str(DOCS / "rbac.yaml"), timeout=120)


def patiently(what: str, holds: Callable[[], object], seconds: float, explain: Callable[[], str]) -> None:
    """Look every second until it holds; where it never does, say what was seen last."""
    try:
        patience(what, holds, seconds, 1.0)
    except AssertionError as error:
        error.add_note(explain())
        raise


def metric_names(expression: str) -> set[str]:
    """The names of metrics in a rule's expression, histograms' parts cut off."""
    without = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)', " ", expression)
    words = set(re.findall(r"[a-z_][a-z0-9_]*(?!\w*\s*\()", without))
    return {re.sub(r"_(bucket|sum|count)$", "", word) for word in words if "_" in word or word == "up"} - {
        "histogram_quantile", "min_over_time", "max_over_time"}
