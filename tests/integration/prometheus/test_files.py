"""docs/prometheus, looked at by promtool: the configuration, the rules, and when they fire."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import ACCOUNT, DOCS, configuration, discovers, metric_names

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
METRICS = DOCS.parent / "metrics.md"


def promtool(*arguments: object) -> str:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DOCS / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_configuration_is_good(tmp_path: Path) -> None:
    for name in ("token", "ca.crt"):
        (tmp_path / name).touch()
    itself = discovers(tmp_path)
    if itself:
        text = (DOCS / "prometheus.yml").read_text().replace(ACCOUNT, str(tmp_path))
        (tmp_path / "prometheus.yml").write_text(text)
        shutil.copy(DOCS / "rules.yml", tmp_path)
    else:
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration(tmp_path, None, itself=False)))
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_discovery_asks_for_nothing_that_is_not_there() -> None:
    config = yaml.safe_load((DOCS / "prometheus.yml").read_text())
    sources = [source for job in config["scrape_configs"] for source in job["kubernetes_sd_configs"]]
    assert {source["role"] for source in sources} == {"node", "pod", "endpoints"}
    names = [job["job_name"] for job in config["scrape_configs"]]
    assert len(names) == len(set(names))


def test_the_rules_are_good() -> None:
    assert "SUCCESS" in promtool("check", "rules", DOCS / "rules.yml")
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names))
    assert all(rule["labels"]["severity"] in ("critical", "warning") and rule["annotations"]["summary"]
               for rule in rules())


def test_every_metric_of_a_rule_is_described() -> None:
    described = set(re.findall(r"`([a-z_0-9]+)`", METRICS.read_text()))
    used = {name for rule in rules() for name in metric_names(rule["expr"])} - {"up"}
    assert used <= described, used - described


def test_names_are_found_in_expressions() -> None:
    found = metric_names('sum by (a_b, le) (rate(x_seconds_bucket{y_z="1"}[5m])) / on (c_d) up{job="e_f"} > 30 * 86400')
    assert found == {"x_seconds", "up"}


FIRING = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {{series: 'kube_node_status_condition{{node="a",condition="Ready",status="true"}}', values: '1 1 0x20'}}
  - {{series: 'kube_node_status_condition{{node="b",condition="Ready",status="true"}}', values: '1x20'}}
  - {{series: 'kube_node_status_condition{{node="a",condition="Ready",status="unknown"}}', values: '0 0 1x20'}}
  - {{series: 'kube_node_status_condition{{node="b",condition="Ready",status="unknown"}}', values: '0x20'}}
  - {{series: 'sampan_agent_connected{{node="a",instance="a"}}', values: '1 0 stale'}}
  - {{series: 'sampan_agent_connected{{node="b",instance="b"}}', values: '1x20'}}
  - {{series: 'kube_node_status_condition{{node="a",condition="DiskPressure",status="true"}}', values: '1x20'}}
  - {{series: 'up{{job="kubernetes-nodes",node="a",instance="a"}}', values: '0x20'}}
  - {{series: 'up{{job="kubernetes-apiservers",instance="m"}}', values: '1x5 0x15'}}
  - {{series: 'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{{node="a"}}', values: '0+1x20'}}
  - {{series: 'sampan_store_database_bytes', values: '5e9x20'}}
  - {{series: 'kube_pod_container_status_waiting_reason{{namespace="n",pod="p",container="c",\
reason="CrashLoopBackOff"}}', values: '1 _ _ 1 _ _ 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1'}}
  alert_rule_test:
{expected}
- interval: 1m
  input_series:
  - {{series: 'sampan_certificate_expiration_timestamp_seconds{{certificate="ca.crt"}}', values: '2600000x400'}}
  - {{series: 'sampan_certificate_expiration_timestamp_seconds{{certificate="late.crt"}}', values: '3600000x400'}}
  - {{series: 'kubelet_certificate_manager_server_ttl_seconds{{node="a"}}', values: '1000000x400'}}
  alert_rule_test:
  - {{eval_time: 5h, alertname: CertificateExpiring, exp_alerts: [{{exp_labels: {{severity: critical, \
certificate: ca.crt}}, exp_annotations: {{summary: "The master's certificate ca.crt ends in 29d 21h 13m 20s.", \
description: "It is renewed 120 days before its end; the master's log tells what keeps it from that."}}}}]}}
"""


def test_alerts_fire(tmp_path: Path) -> None:
    """With their labels; the texts are those of the file, with the values filled in."""
    wanted = {"NodeNotReady": {"node": "a", "condition": "Ready", "status": "true"},
              "DiskPressure": {"node": "a", "condition": "DiskPressure", "status": "true"},
              "AgentDown": {"node": "a", "instance": "a", "job": "kubernetes-nodes"},
              "AgentDisconnected": {"node": "a"}, "MasterDown": {}, "ProxySyncFailing": {"node": "a"}, "StoreLarge": {},
              "PodCrashLooping": {"namespace": "n", "pod": "p", "container": "c", "reason": "CrashLoopBackOff"}}
    texts = {rule["alert"]: rule for rule in rules()}
    expected = []
    for name, labels in wanted.items():
        filled = {key: _filled(text, labels) for key, text in texts[name]["annotations"].items()}
        expected.append({"eval_time": "15m", "alertname": name, "exp_alerts": [
            {"exp_labels": {**labels, **texts[name]["labels"]}, "exp_annotations": filled}]})
        if "for" in texts[name] and name not in ("StoreLarge", "DiskPressure", "AgentDown"):
            expected.append({"eval_time": "1m", "alertname": name, "exp_alerts": []})
    listed = "".join(f"  - {line}\n" for line in map(yaml_line, expected))
    (tmp_path / "test.yml").write_text(FIRING.format(rules=DOCS / "rules.yml", expected=listed))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yml")


def yaml_line(tree: object) -> str:
    return yaml.safe_dump(tree, default_flow_style=True, width=10_000).strip()


def _filled(text: str, labels: dict[str, str]) -> str:
    text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
    return text.replace("{{ $value | humanize1024 }}", "4.657Gi")
