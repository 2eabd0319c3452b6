"""Pods' and containers' figures as metrics, named and labelled as cadvisor and upstream's kubelet have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from agent.stats.cgroup import Use
from agent.stats.sample import PodSample, Sample, Traffic

LABELS = ("container", "id", "image", "name", "namespace", "pod")

_CPU: tuple[tuple[str, str, Callable[[Use], float]], ...] = (
    ("container_cpu_usage_seconds", "Cumulative cpu time consumed in seconds.", lambda use: use.cpu),
    ("container_cpu_user_seconds", "Cumulative user cpu time consumed in seconds.", lambda use: use.cpu_user),
    ("container_cpu_system_seconds", "Cumulative system cpu time consumed in seconds.", lambda use: use.cpu_system),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Use], float]], ...] = (
    ("container_cpu_cfs_periods", "Number of elapsed enforcement period intervals.", lambda use: use.periods),
    ("container_cpu_cfs_throttled_periods", "Number of throttled period intervals.",
     lambda use: use.throttled_periods),
    ("container_cpu_cfs_throttled_seconds", "Total time duration the container has been throttled.",
     lambda use: use.throttled),
    ("container_fs_reads_bytes", "Cumulative count of bytes read from block devices.", lambda use: use.read_bytes),
    ("container_fs_writes_bytes", "Cumulative count of bytes written to block devices.",
     lambda use: use.written_bytes),
    ("container_oom_events", "Count of out of memory events observed for the container.", lambda use: use.oom_kills),
)
_GAUGES: tuple[tuple[str, str, Callable[[Use], float]], ...] = (
    ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory.", lambda use: use.memory),
    ("container_memory_working_set_bytes", "Current working set in bytes.", lambda use: use.working_set),
    ("container_memory_rss", "Size of RSS in bytes.", lambda use: use.rss),
    ("container_memory_cache", "Number of bytes of page cache memory.", lambda use: use.cache),
    ("container_memory_mapped_file", "Size of memory mapped files in bytes.", lambda use: use.mapped_file),
    ("container_memory_swap", "Container swap usage in bytes.", lambda use: use.swap),
    ("container_spec_memory_limit_bytes", "Memory limit for the container, 0 for none.",
     lambda use: use.memory_limit),
    ("container_processes", "Number of processes and threads in the container.", lambda use: use.processes),
)
_NETWORK: tuple[tuple[str, str, Callable[[Traffic], int]], ...] = (
    ("container_network_receive_bytes", "Cumulative count of bytes received.", lambda item: item.receive_bytes),
    ("container_network_receive_packets", "Cumulative count of packets received.",
     lambda item: item.receive_packets),
    ("container_network_receive_errors", "Cumulative count of errors encountered while receiving.",
     lambda item: item.receive_errors),
    ("container_network_receive_packets_dropped", "Cumulative count of packets dropped while receiving.",
     lambda item: item.receive_dropped),
    ("container_network_transmit_bytes", "Cumulative count of bytes transmitted.", lambda item: item.transmit_bytes),
    ("container_network_transmit_packets", "Cumulative count of packets transmitted.",
     lambda item: item.transmit_packets),
    ("container_network_transmit_errors", "Cumulative count of errors encountered while transmitting.",
     lambda item: item.transmit_errors),
    ("container_network_transmit_packets_dropped", "Cumulative count of packets dropped while transmitting.",
     lambda item: item.transmit_dropped),
)


def cadvisor(sample: Sample) -> Iterator[Metric]:
    """What /metrics/cadvisor serves. A pod's own cgroup has empty `container`, `image` and `name`."""
    rows = [(labels, use) for pod in sample.pods for labels, use in _uses(pod)]
    for name, text, read in _CPU:
        family = CounterMetricFamily(name, text, labels=(*LABELS, "cpu"))
        for labels, use in rows:
            family.add_metric((*labels, "total"), read(use))
        yield family
    for name, text, value in _COUNTERS:
        family = CounterMetricFamily(name, text, labels=LABELS)
        for labels, use in rows:
            family.add_metric(labels, value(use))
        yield family
    for name, text, value in _GAUGES:
        gauge = GaugeMetricFamily(name, text, labels=LABELS)
        for labels, use in rows:
            gauge.add_metric(labels, value(use))
        yield gauge
    yield from _network(sample)
    yield from _instants(sample)


def _uses(pod: PodSample) -> Iterator[tuple[tuple[str, ...], Use]]:
    meta = pod.pod.metadata
    if pod.use:
        yield ("", pod.use.path, "", "", meta.namespace, meta.name), pod.use
    for item in pod.containers:
        box = item.container
        yield (item.name, item.use.path, box.image, box.name.lstrip("/"), meta.namespace, meta.name), item.use


def _network(sample: Sample) -> Iterator[Metric]:
    for name, text, value in _NETWORK:
        family = CounterMetricFamily(name, text, labels=(*LABELS, "interface"))
        for pod in sample.pods:
            meta = pod.pod.metadata
            for item in pod.network:
                path = pod.use.path if pod.use else ""
                family.add_metric(("", path, "", "", meta.namespace, meta.name, item.interface), value(item))
        yield family


def _instants(sample: Sample) -> Iterator[Metric]:
    seen = GaugeMetricFamily("container_last_seen", "Last time a container was seen by the exporter.", labels=LABELS)
    start = GaugeMetricFamily("container_start_time_seconds", "Start time of the container since unix epoch in "
                              "seconds.", labels=LABELS)
    logs = GaugeMetricFamily("sampan_container_log_bytes", "Bytes that the container's log takes on the disk.",
                             labels=LABELS)
    for pod in sample.pods:
        meta = pod.pod.metadata
        for item in pod.containers:
            box = item.container
            labels = (item.name, item.use.path, box.image, box.name.lstrip("/"), meta.namespace, meta.name)
            seen.add_metric(labels, sample.time.timestamp())
            logs.add_metric(labels, item.log_bytes)
            if box.started_at:
                start.add_metric(labels, box.started_at.timestamp())
    yield from (seen, start, logs)


def resource(sample: Sample, node_cpu: float, node_memory: int) -> Iterable[Metric]:
    """What /metrics/resource serves: the few figures that autoscalers and `kubectl top` go by."""
    labels = ("container", "namespace", "pod")
    cpu = CounterMetricFamily("container_cpu_usage_seconds", "Cumulative cpu time consumed by the container in "
                              "core-seconds", labels=labels)
    memory = GaugeMetricFamily("container_memory_working_set_bytes", "Current working set of the container in bytes",
                               labels=labels)
    swap = GaugeMetricFamily("container_swap_usage_bytes", "Current amount of the container swap usage in bytes",
                             labels=labels)
    start = GaugeMetricFamily("container_start_time_seconds", "Start time of the container since unix epoch in "
                              "seconds", labels=labels)
    pod_cpu = CounterMetricFamily("pod_cpu_usage_seconds", "Cumulative cpu time consumed by the pod in core-seconds",
                                  labels=labels[1:])
    pod_memory = GaugeMetricFamily("pod_memory_working_set_bytes", "Current working set of the pod in bytes",
                                   labels=labels[1:])
    for pod in sample.pods:
        meta = pod.pod.metadata
        for item in pod.containers:
            names = (item.name, meta.namespace, meta.name)
            cpu.add_metric(names, item.use.cpu)
            memory.add_metric(names, item.use.working_set)
            swap.add_metric(names, item.use.swap)
            if item.container.started_at:
                start.add_metric(names, item.container.started_at.timestamp())
        if pod.use:
            pod_cpu.add_metric((meta.namespace, meta.name), pod.use.cpu)
            pod_memory.add_metric((meta.namespace, meta.name), pod.use.working_set)
    return (cpu, memory, swap, start, pod_cpu, pod_memory,
            CounterMetricFamily("node_cpu_usage_seconds", "Cumulative cpu time consumed by the node in core-seconds",
                                value=node_cpu),
            GaugeMetricFamily("node_memory_working_set_bytes", "Current working set of the node in bytes",
                              value=node_memory),
            GaugeMetricFamily("resource_scrape_error", "1 if there was an error while getting container metrics, 0 "
                              "otherwise", value=0))
