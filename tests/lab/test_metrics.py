"""Prometheus scrapes the lab with a ServiceAccount's token: everything is up, and the alerts know their metrics."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.engine import IMAGE
from tests.support.prometheus import DOCS, Api, Prometheus, Refused, account, metric_names, patiently
from tests.support.space import SLEEP, patience, pod

if TYPE_CHECKING:
    from tests.support.lab import LabHandle, LabSpace

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

SHOP = ("mkdir /www; printf 'shop_orders_total 7\\n' > /www/metrics; "
        "trap 'exit 0' TERM; busybox httpd -f -p 8080 -h /www & wait")
ANNOTATED = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
JOBS = {"kubernetes-apiservers", "kube-state-metrics", "kubernetes-nodes", "kubernetes-cadvisor", "kubernetes-probes"}


def pki(lab: LabHandle) -> Path:
    """Where the cluster's keys are."""
    return lab.hosts["master"].directories["data"] / "master" / "pki"


@pytest.fixture(scope="module")
def prometheus(lab: LabHandle) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    directory = Path(tempfile.mkdtemp(prefix="prometheus-"))
    master = lab.hosts["master"]
    with account(lab, directory) as api:
        running = Prometheus(directory, api, master.enter, master.ip)
        try:
            running.start()
            yield running
        finally:
            running.stop()
            shutil.rmtree(directory, ignore_errors=True)


def up(prometheus: Prometheus) -> dict[tuple[str, str], str]:
    """The targets' health by job and node (or instance), with the last error where there is one."""
    return {(item["labels"]["job"], item["labels"].get("pod") or item["labels"].get("node")
             or item["labels"]["instance"]): item["lastError"] or item["health"] for item in prometheus.targets()}


def test_master_and_every_node_are_scraped(lab: LabHandle, prometheus: Prometheus) -> None:
    nodes = {(job, node) for job in JOBS if job.startswith("kubernetes-") and job != "kubernetes-apiservers"
             for node in lab.hosts}

    def all_up() -> bool:
        seen = up(prometheus)
        return nodes <= seen.keys() and {job for job, _ in seen} >= JOBS and set(seen.values()) == {"up"}

    patiently("all targets up", all_up, 90, lambda: f"{up(prometheus)}\n{prometheus.log()}")
    for expression in ("kubelet_node_name == 1", "node_memory_MemAvailable_bytes", "node_timex_sync_status",
                       "sampan_agent_connected == 1", "sampan_node_sync_lag_seconds",
                       "kubelet_certificate_manager_server_ttl_seconds > 86400 * 300",
                       "kubeproxy_sync_proxy_rules_last_timestamp_seconds > 0", "coredns_dns_requests_total"):
        def told(expression: str = expression) -> list[str]:
            return sorted({labels["node"] for labels, _ in prometheus.query(expression)})

        # What was scraped just now can be asked for a moment later.
        patiently(expression, lambda: told() == sorted(lab.hosts), 60, lambda: f"seen {told()}")


def test_pods_and_services_that_ask_for_it_are_scraped(space: LabSpace, prometheus: Prometheus) -> None:
    shop = pod("shop", ["sh", "-c", SHOP])
    shop["metadata"] |= {"labels": {"app": "shop"}, "annotations": ANNOTATED}
    space.create(shop, {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop", "annotations": ANNOTATED},
        "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080}]}})
    space.ready("shop")

    def scraped() -> bool:
        wanted = {("kubernetes-pods", None), ("kubernetes-service-endpoints", "shop")}
        found = {(labels["job"], labels.get("service")) for labels, value in prometheus.query("shop_orders_total")
                 if (labels["namespace"], labels["pod"], value) == (space.name, "shop", 7)}
        return found == wanted

    patiently("the pod and its Service are scraped", scraped, 60, lambda: str(up(prometheus)))
    labels = {"namespace": space.name, "pod": "shop", "container": "app"}
    selector = ",".join(f'{key}="{value}"' for key, value in labels.items())

    def measured() -> bool:
        return (bool(prometheus.query(f"container_memory_working_set_bytes{{{selector}}} > 0"))
                and bool(prometheus.query(f"container_cpu_usage_seconds_total{{{selector}}} > 0"))
                and bool(prometheus.query(f'container_network_receive_bytes_total{{namespace="{space.name}"}} > 0'))
                and bool(prometheus.query(f'kube_pod_status_phase{{namespace="{space.name}",phase="Running"}} == 1')))

    patience("the pod's use is known", measured, 60, 1.0)


def test_alerts_know_their_metrics_and_are_evaluated(space: LabSpace, prometheus: Prometheus) -> None:
    space.pod("crasher", ["sh", "-c", "exit 1"])
    space("create", "deployment", "idle", f"--image={IMAGE}", "--", *SLEEP)
    alert = f'ALERTS{{alertname="PodCrashLooping",namespace="{space.name}"}}'
    patience("the crashing pod's alert is pending", lambda: prometheus.query(alert), 90, 1.0)
    assert prometheus.query(alert)[0][0]["pod"] == "crasher"
    groups = yaml.safe_load((DOCS / "rules.yml").read_text())["groups"]
    used = {name for group in groups for rule in group["rules"] for name in metric_names(rule["expr"])}
    pages = [prometheus.api.text("/metrics"), prometheus.api.text("/metrics/state"),
             *(prometheus.api.text(target["scrapeUrl"]) for target in prometheus.targets()
               if target["labels"]["job"] in JOBS)]
    told = {name for page in pages for name in re.findall(r"^# TYPE (\w+)", page, re.MULTILINE)}
    assert used - {"up"} <= told, used - told
    described = set(re.findall(r"`([a-zA-Z_0-9]+)`", (DOCS.parent / "metrics.md").read_text()))
    assert {name.removesuffix("_total") for name in told} <= {name.removesuffix("_total") for name in described}, (
        told - described)

    def judged() -> bool:
        rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        assert not [rule for rule in rules if rule["health"] == "err"], rules
        return len(rules) == sum(len(group["rules"]) for group in groups) and all(
            rule["health"] == "ok" for rule in rules)

    patience("every rule has been evaluated", judged, 60, 1.0)
    firing = {rule["name"] for group in prometheus.get("rules")["groups"] for rule in group["rules"]
              if rule["state"] == "firing"}
    assert not firing & {"MasterDown", "AgentDown", "NodeNotReady", "StoreFailing"}, firing


def test_an_agent_that_is_gone_is_noticed(lab: LabHandle, prometheus: Prometheus) -> None:
    name = lab.workers[0].name
    lab.stop(name, "agent")
    try:
        alert = f'ALERTS{{alertname="AgentDown",node="{name}"}}'
        patiently("the alert is pending", lambda: prometheus.query(alert), 60, lambda: str(up(prometheus)))
    finally:
        lab.start(name, "agent")
        lab.until_ready(name)
    patiently("it is over", lambda: not prometheus.query(alert), 60, lambda: str(up(prometheus)))


def test_its_account_may_read_this_and_no_more(lab: LabHandle, prometheus: Prometheus) -> None:
    api, node = prometheus.api, lab.workers[0]

    def refused(url: str) -> tuple[int, str]:
        with pytest.raises(Refused) as error:
            api.text(url)
        return error.value.code, error.value.text

    user = "system:serviceaccount:monitoring:prometheus"
    assert refused(f"https://{node.ip}:10250/pods") == (
        403, f"Forbidden (user={user}, verb=get, resource=nodes, subresource=proxy)")
    assert refused(f"https://{node.ip}:10250/stats/summary")[0] == 403
    assert refused("/api/v1/secrets")[0] == 403
    stranger = Api(api.server, "nonsense", api.authority)
    with pytest.raises(Refused) as error:
        stranger.text(f"https://{node.ip}:10250/metrics")
    assert (error.value.code, error.value.text) == (401, "Unauthorized")


def test_a_nodes_port_is_reached_through_the_api_server(lab: LabHandle, prometheus: Prometheus) -> None:
    kubectl, node = lab.kubectl(), lab.workers[1].name
    path = f"/api/v1/nodes/{node}/proxy"
    assert f'kubelet_node_name{{node="{node}"}} 1.0' in kubectl("get", "--raw", f"{path}/metrics")
    assert kubectl("get", "--raw", f"{path}/healthz") == "ok"
    summary = json.loads(kubectl("get", "--raw", f"{path}/stats/summary?only_cpu_and_memory=true"))
    assert summary["node"]["nodeName"] == node
    assert "network" not in summary["node"]
    missing = kubectl.run("get", "--raw", f"{path}/nothing")
    assert missing.code == 1
    assert "the server could not find the requested resource" in missing.err
    assert kubectl.run("create", "--raw", f"{path}/pods", "-f", "/dev/null").code == 1
    with pytest.raises(Refused) as error:  # nodes/metrics is not nodes/proxy
        prometheus.api.text(f"{path}/metrics")
    assert error.value.code == 403


@pytest.mark.usefixtures("prometheus")  # which has applied what stands beside it
def test_the_manifests_are_good(lab: LabHandle) -> None:
    made = lab.kubectl()("create", "--dry-run=server", "-f", str(DOCS / "deployment.yaml"))
    assert made.splitlines() == ["deployment.apps/prometheus created (server dry run)",
                                 "service/prometheus created (server dry run)"]


def test_what_kubelets_tell_beside_metrics(lab: LabHandle, space: LabSpace) -> None:
    """As metrics-server reads it: with a client certificate here."""
    space.pod("busy", ["sh", "-c", "trap 'exit 0' TERM; while :; do :; done & wait"])
    space.ready("busy")
    host = lab.hosts[space.node_of("busy")]
    keys = pki(lab)
    curl = ("curl", "-sS", "--fail", "--cert", str(keys / "admin.crt"), "--key", str(keys / "admin.key"), "--cacert",
            str(keys / "ca.crt"))

    def read(path: str) -> str:
        return lab.exec(host.name, *curl, f"https://{host.ip}:10250{path}")

    def use() -> object:
        pods = {item["podRef"]["name"]: item for item in json.loads(read("/stats/summary"))["pods"]}
        busy = pods.get("busy")  # a look serves everybody for a second, and may be older than the pod
        return (busy and any(box["cpu"].get("usageNanoCores", 0) > 0 for box in busy["containers"])
                and busy["memory"]["workingSetBytes"] > 0)

    patience("the busy pod's use", use, 60, 1.0)
    assert "busy" in [item["metadata"]["name"] for item in json.loads(read("/pods"))["items"]]
    assert 'pod="busy"' in read("/metrics/resource")
    assert read("/healthz") == "ok"
    assert json.loads(read("/configz"))["kubeletconfig"]["port"] == 10250
