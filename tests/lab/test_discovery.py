"""Service discovery by a client that is not ours: VictoriaMetrics reads docs/prometheus/prometheus.yml as Prometheus
would, and finds the targets of every job by LIST and WATCH, with the rights of rbac.yaml.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.kubectl import forwarding
from tests.support.prometheus import DOCS, Api, HttpApi, Json, VictoriaMetrics, account, patiently, victoria_flags
from tests.support.space import box, pod

if TYPE_CHECKING:
    from tests.support.lab import LabHandle, LabSpace

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

PROGRAM = shutil.which("victoria-metrics")
INSIDE = "sampan-test/victoria:1"
NODE_JOBS = {"kubernetes-nodes": "/metrics", "kubernetes-cadvisor": "/metrics/cadvisor",
             "kubernetes-probes": "/metrics/probes"}
MASTER_JOBS = {"kubernetes-apiservers": "/metrics", "kube-state-metrics": "/metrics/state"}
OWN_JOBS = {"kubernetes-pods", "kubernetes-service-endpoints"}
SHOP = ("mkdir /www; printf 'shop_orders_total 7\\n' > /www/figures; "
        "trap 'exit 0' TERM; busybox httpd -f -p 8080 -h /www & wait")

Target = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def rights(lab: LabHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    if PROGRAM is None:
        pytest.skip("victoria-metrics is not installed")
    with account(lab, tmp_path_factory.mktemp("rights")) as api:
        yield api


@pytest.fixture(scope="module")
def outside(lab: LabHandle, rights: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    """On the master's host, as the configuration's first lines say it."""
    directory = tmp_path_factory.mktemp("victoria")
    running = VictoriaMetrics(directory, rights, lab.hosts["master"].enter, lab.hosts["master"].ip)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def target(url: str, **labels: str) -> Target:
    """What is scraped, and the labels that its series get."""
    return url, frozenset(labels.items())


def cluster_targets(lab: LabHandle) -> set[Target]:
    """The cluster's own targets, as the configuration wants them."""
    found = {target(f"https://{host.ip}:10250{path}", job=job, instance=name, node=name)
             for name, host in lab.hosts.items() for job, path in NODE_JOBS.items()}
    address = lab.server.removeprefix("https://")
    return found | {target(f"https://{address}{path}", job=job, instance=address) for job, path in MASTER_JOBS.items()}


def seen(api: HttpApi) -> dict[Target, str]:
    """The targets with their health, and the last error where there is one."""
    return {target(item["scrapeUrl"], **item["labels"]): item["lastError"] or item["health"] for item in api.targets()}


def wait_for(api: HttpApi, wanted: set[Target], seconds: float = 90) -> None:
    """Wait until exactly these targets are scraped, and all are up."""
    patiently("these targets are up", lambda: seen(api) == dict.fromkeys(wanted, "up"), seconds,
              lambda: f"wanted {wanted}\nseen {seen(api)}")


def wait_for_values(api: HttpApi, expression: str, label: str, wanted: set[str]) -> None:
    """Wait until a label has these values in a vector; what was scraped can be asked for a moment later."""
    def values() -> set[str]:
        return {labels.get(label, "") for labels, _ in api.query(expression)}

    patiently(expression, lambda: values() == wanted, 60, lambda: f"wanted {wanted}, seen {values()}")


def test_every_job_of_the_cluster_finds_its_targets(lab: LabHandle, outside: VictoriaMetrics) -> None:
    jobs = {job["job_name"] for job in yaml.safe_load((DOCS / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs == NODE_JOBS.keys() | MASTER_JOBS.keys() | OWN_JOBS
    wait_for(outside, cluster_targets(lab))
    for name in ("node_memory_MemAvailable_bytes", "kubelet_node_name", "sampan_agent_connected", "machine_cpu_cores",
                 "kubeproxy_sync_proxy_rules_last_timestamp_seconds", "kube_node_info"):
        wait_for_values(outside, name, "node", set(lab.hosts))
    wait_for_values(outside, "apiserver_request_total", "job", {"kubernetes-apiservers"})


def shop() -> list[Json]:
    """A pod that says where its figures are, by the port of its container, and a Service that says it with the port."""
    asks = {"prometheus.io/scrape": "true", "prometheus.io/path": "/figures"}
    made = pod("shop", ["sh", "-c", SHOP], labels={"app": "shop"}, initContainers=[box("before", ["true"])],
               app={"ports": [{"containerPort": 8080}]})
    made["metadata"]["annotations"] = asks
    service = {"apiVersion": "v1", "kind": "Service",
               "metadata": {"name": "shop", "annotations": {**asks, "prometheus.io/port": "8080"}},
               "spec": {"selector": {"app": "shop"}, "ports": [{"port": 80, "targetPort": 8080}]}}
    return [made, service]


def shop_targets(space: LabSpace) -> set[Target]:
    """The targets of the ready pod and its Service."""
    address = space.ready("shop")[0]["status"]["podIP"]
    labels = {"instance": f"{address}:8080", "namespace": space.name, "pod": "shop"}
    url = f"http://{address}:8080/figures"
    return {target(url, job="kubernetes-pods", node=space.node_of("shop"), **labels),
            target(url, job="kubernetes-service-endpoints", service="shop", **labels)}


def lists(victoria: VictoriaMetrics) -> int:
    """How often it has read whole lists of objects."""
    return victoria.log().count("\treloaded ")


def test_pods_that_come_and_go_are_followed(lab: LabHandle, space: LabSpace, outside: VictoriaMetrics) -> None:
    wait_for(outside, cluster_targets(lab))
    before = lists(outside)
    assert before >= 4  # nodes, pods, services, endpoints
    space.create(*shop())
    wait_for(outside, cluster_targets(lab) | shop_targets(space))
    here = f'namespace="{space.name}",pod="shop"'
    wait_for_values(outside, f"shop_orders_total{{{here}}} == 7", "job", OWN_JOBS)
    for expression in (f'container_memory_working_set_bytes{{{here},container="app"}} > 0',
                       f'kube_pod_status_phase{{{here},phase="Running"}} == 1',
                       f'kube_pod_container_info{{{here},container="app"}}'):
        wait_for_values(outside, expression, "pod", {"shop"})
    space("delete", "pod", "shop")
    wait_for(outside, cluster_targets(lab))
    assert lists(outside) == before, "by the watches alone"


def test_the_watches_outlive_the_master(lab: LabHandle, space: LabSpace, outside: VictoriaMetrics) -> None:
    wait_for(outside, cluster_targets(lab))
    lab.stop("master", "master")
    lab.start("master", "master")
    lab.until_ready()
    space.create(*shop())
    wait_for(outside, cluster_targets(lab) | shop_targets(space))


@pytest.mark.usefixtures("rights")
def test_inside_the_cluster_with_the_files_as_they_are(lab: LabHandle) -> None:
    """As deployment.yaml's first lines say it, with another program in the container."""
    assert PROGRAM is not None
    lab.load_box(INSIDE, programs=[PROGRAM])
    deployment, service = yaml.safe_load_all((DOCS / "deployment.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    flags = victoria_flags("/etc/prometheus/prometheus.yml", "/prometheus", ":9090")
    container |= {"image": INSIDE, "command": [Path(PROGRAM).name], "args": flags}
    kubectl = lab.kubectl().within("monitoring")
    kubectl("create", "configmap", "prometheus", f"--from-file={DOCS}/prometheus.yml", f"--from-file={DOCS}/rules.yml")
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment, service]}))
    try:
        kubectl("rollout", "status", "deployment/prometheus", "--timeout=90s")
        with forwarding(kubectl, "service/prometheus", ":9090") as (port, _):
            wait_for(HttpApi(f"http://127.0.0.1:{port}"), cluster_targets(lab))
    except AssertionError as error:
        error.add_note(kubectl.run("logs", "deployment/prometheus", "--tail=50").out)
        raise
    finally:
        kubectl("delete", "deployment/prometheus", "service/prometheus", "configmap/prometheus")
