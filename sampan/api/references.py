"""Which objects running a pod needs: the master sends a node these and no others, its agent looks again on a change.

Source: API reference, Pod v1 core.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sampan.api import resources
from sampan.api.resources import Resource
from sampan.api.types import core_v1

Found = Iterator[tuple[Resource[Any], str | None]]


def references(pod: core_v1.Pod) -> frozenset[tuple[tuple[str, str], str]]:
    """The ConfigMaps, Secrets and the ServiceAccount of its namespace that a pod names: `Resource.key` and name."""
    return frozenset((resource.key, name) for resource, name in
                     (*_of_pod(pod.spec), *_of_containers(pod.spec), *_of_volumes(pod.spec)) if name)


def _of_pod(spec: core_v1.PodSpec) -> Found:
    yield resources.SERVICEACCOUNTS, spec.service_account_name or spec.service_account
    for reference in spec.image_pull_secrets:
        yield resources.SECRETS, reference.name


def _of_containers(spec: core_v1.PodSpec) -> Found:
    containers: list[core_v1.Container | core_v1.EphemeralContainer] = [
        *spec.init_containers, *spec.containers, *spec.ephemeral_containers]
    for container in containers:
        for source in container.env_from:
            if source.config_map_ref:
                yield resources.CONFIGMAPS, source.config_map_ref.name
            if source.secret_ref:
                yield resources.SECRETS, source.secret_ref.name
        for variable in container.env:
            value = variable.value_from
            if value and value.config_map_key_ref:
                yield resources.CONFIGMAPS, value.config_map_key_ref.name
            if value and value.secret_key_ref:
                yield resources.SECRETS, value.secret_key_ref.name


def _of_volumes(spec: core_v1.PodSpec) -> Found:
    for volume in spec.volumes:
        if volume.config_map:
            yield resources.CONFIGMAPS, volume.config_map.name
        if volume.secret:
            yield resources.SECRETS, volume.secret.secret_name
        for source in volume.projected.sources if volume.projected else ():
            if source.config_map:
                yield resources.CONFIGMAPS, source.config_map.name
            if source.secret:
                yield resources.SECRETS, source.secret.name
