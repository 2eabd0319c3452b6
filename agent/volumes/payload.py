"""Pure: what the files of a configMap or secret volume are. Error texts are upstream's, since users search for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.link.protocol import ClusterView
from agent.volumes.atomic import File, valid_path
from agent.volumes.protocol import VolumeError
from sampan.api.resources import CONFIGMAPS, SECRETS
from sampan.api.types import core_v1

DEFAULT_MODE = 0o644


def config_map(volume: core_v1.Volume, namespace: str, view: ClusterView) -> dict[str, File]:
    """The files of a configMap volume."""
    source = volume.config_map
    assert source is not None
    name = source.name or ""
    found = view.get(CONFIGMAPS, name, namespace)
    if found is None and not source.optional:
        raise VolumeError(volume.name, f'configmap "{name}" not found')
    data = {key: value.encode() for key, value in found.data.items()} | found.binary_data if found else {}
    return _select(volume.name, "ConfigMap", data, source.items, source.default_mode, optional=bool(source.optional),
                   missing="configmap references non-existent config key: {}")


def secret(volume: core_v1.Volume, namespace: str, view: ClusterView) -> dict[str, File]:
    """The files of a secret volume."""
    source = volume.secret
    assert source is not None
    name = source.secret_name or ""
    found = view.get(SECRETS, name, namespace)
    if found is None and not source.optional:
        raise VolumeError(volume.name, f'secret "{name}" not found')
    return _select(volume.name, "Secret", found.data if found else {}, source.items, source.default_mode,
                   optional=bool(source.optional), missing="references non-existent secret key: {}")


def _select(volume: str, kind: str, data: Mapping[str, bytes], items: Sequence[core_v1.KeyToPath],
            default_mode: int | None, *, optional: bool, missing: str) -> dict[str, File]:
    mode = DEFAULT_MODE if default_mode is None else default_mode
    if not items:
        return {key: File(value, mode) for key, value in data.items()}
    files: dict[str, File] = {}
    for item in items:
        if not valid_path(item.path):
            raise VolumeError(volume, f"{kind} item path {item.path!r} leads out of the volume")
        if item.key in data:
            files[item.path] = File(data[item.key], mode if item.mode is None else item.mode)
        elif not optional:
            raise VolumeError(volume, missing.format(item.key))
    return files
