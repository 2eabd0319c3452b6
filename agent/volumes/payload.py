"""Pure: what the files of a volume are that the cluster's objects fill: configMap, secret, downwardAPI, projected.

Error texts are upstream's, since users search for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.link.protocol import ClusterView
from agent.pods.environment import EnvironmentFailure, NodeFacts, field_value, resource_value
from agent.volumes.atomic import File, valid_path
from agent.volumes.protocol import VolumeError
from sampan.api.resources import CONFIGMAPS, SECRETS
from sampan.api.types import core_v1

DEFAULT_MODE = 0o644
_PRIVATE = 0o600
_QUOTED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"})

Files = dict[str, File]
Token = Callable[[str], str]
"""The token for a path in the volume."""


def config_map(volume: core_v1.Volume, namespace: str, view: ClusterView) -> Files:
    """The files of a configMap volume."""
    source = volume.config_map
    assert source is not None
    projection = core_v1.ConfigMapProjection(name=source.name, items=source.items, optional=source.optional)
    return _config_map(volume.name, projection, namespace, view, _mode(source.default_mode))


def secret(volume: core_v1.Volume, namespace: str, view: ClusterView) -> Files:
    """The files of a secret volume."""
    source = volume.secret
    assert source is not None
    projection = core_v1.SecretProjection(name=source.secret_name, items=source.items, optional=source.optional)
    return _secret(volume.name, projection, namespace, view, _mode(source.default_mode))


def downward(volume: core_v1.Volume, pod: core_v1.Pod, node: NodeFacts) -> Files:
    """The files of a downwardAPI volume."""
    source = volume.downward_api
    assert source is not None
    return _downward(volume.name, source.items, pod, node, _mode(source.default_mode))


def projected(volume: core_v1.Volume, pod: core_v1.Pod, view: ClusterView, node: NodeFacts, token: Token) -> Files:
    """The files of a projected volume: those of all its sources, the last of one path wins."""
    source = volume.projected
    assert source is not None
    mode, namespace = _mode(source.default_mode), pod.metadata.namespace
    files: Files = {}
    for part in source.sources:
        if part.config_map:
            files |= _config_map(volume.name, part.config_map, namespace, view, mode)
        elif part.secret:
            files |= _secret(volume.name, part.secret, namespace, view, mode)
        elif part.downward_api:
            files |= _downward(volume.name, part.downward_api.items, pod, node, mode)
        elif part.service_account_token:
            path = part.service_account_token.path
            if not valid_path(path):
                raise VolumeError(volume.name, f"token path {path!r} leads out of the volume")
            owner = only_user(pod)
            group = pod.spec.security_context.fs_group if pod.spec.security_context else None
            private = owner is not None or group is not None
            files[path] = File(token(path).encode(), _PRIVATE if private else mode, owner)
        else:
            raise VolumeError(volume.name, "projected volumes of clusterTrustBundles are not supported by this version")
    return files


def tells_labels(pod: core_v1.Pod) -> bool:
    """Whether a volume shows labels or annotations, which may change while the pod runs."""
    for volume in pod.spec.volumes:
        items = list(volume.downward_api.items) if volume.downward_api else []
        for source in volume.projected.sources if volume.projected else ():
            items += source.downward_api.items if source.downward_api else []
        if any(item.field_ref and item.field_ref.field_path.startswith(("metadata.labels", "metadata.annotations"))
               for item in items):
            return True
    return False


def only_user(pod: core_v1.Pod) -> int | None:
    """The user that all containers run as, where the pod says so: the token shall be theirs alone."""
    general = pod.spec.security_context.run_as_user if pod.spec.security_context else None
    users = {container.security_context.run_as_user
             if container.security_context and container.security_context.run_as_user is not None else general
             for container in (*pod.spec.init_containers, *pod.spec.containers)}
    return next(iter(users)) if len(users) == 1 else None


def _config_map(volume: str, source: core_v1.ConfigMapProjection, namespace: str, view: ClusterView,
                mode: int) -> Files:
    name = source.name or ""
    found = view.get(CONFIGMAPS, name, namespace)
    if found is None and not source.optional:
        raise VolumeError(volume, f'configmap "{name}" not found')
    data = {key: value.encode() for key, value in found.data.items()} | found.binary_data if found else {}
    return _select(volume, "ConfigMap", data, source.items, mode, optional=bool(source.optional),
                   missing="configmap references non-existent config key: {}")


def _secret(volume: str, source: core_v1.SecretProjection, namespace: str, view: ClusterView, mode: int) -> Files:
    name = source.name or ""
    found = view.get(SECRETS, name, namespace)
    if found is None and not source.optional:
        raise VolumeError(volume, f'secret "{name}" not found')
    return _select(volume, "Secret", found.data if found else {}, source.items, mode,
                   optional=bool(source.optional), missing="references non-existent secret key: {}")


def _downward(volume: str, items: Sequence[core_v1.DownwardAPIVolumeFile], pod: core_v1.Pod, node: NodeFacts,
              mode: int) -> Files:
    files: Files = {}
    for item in items:
        if not valid_path(item.path):
            raise VolumeError(volume, f"downwardAPI item path {item.path!r} leads out of the volume")
        try:
            text = _downward_value(item, pod, node)
        except EnvironmentFailure as error:
            raise VolumeError(volume, str(error)) from error
        files[item.path] = File(text.encode(), mode if item.mode is None else item.mode)
    return files


def _downward_value(item: core_v1.DownwardAPIVolumeFile, pod: core_v1.Pod, node: NodeFacts) -> str:
    if item.resource_field_ref:
        return resource_value(item.resource_field_ref, pod, core_v1.Container(name=""), node)
    path = item.field_ref.field_path if item.field_ref else ""
    if path in ("metadata.labels", "metadata.annotations"):
        table = pod.metadata.labels if path == "metadata.labels" else pod.metadata.annotations
        return "\n".join(f'{key}="{table[key].translate(_QUOTED)}"' for key in sorted(table))
    return field_value(path, pod, node, "")


def _mode(mode: int | None) -> int:
    return DEFAULT_MODE if mode is None else mode


def _select(volume: str, kind: str, data: Mapping[str, bytes], items: Sequence[core_v1.KeyToPath],
            mode: int, *, optional: bool, missing: str) -> Files:
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    files: Files = {}
    for item in items:
        if not valid_path(item.path):
            raise VolumeError(volume, f"{kind} item path {item.path!r} leads out of the volume")
        if item.key in data:
            files[item.path] = File(data[item.key], mode if item.mode is None else item.mode)
        elif not optional:
            raise VolumeError(volume, missing.format(item.key))
    return files
