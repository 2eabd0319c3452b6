"""Between our types and the Engine API's JSON; pure, so that it is tested without an engine.

Source: Docker Engine API reference v1.41.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from agent.engine.protocol import (
    Container,
    ContainerSpec,
    EngineError,
    EngineEvent,
    EngineInfo,
    Image,
    Limits,
    Status,
)

_INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_CONFLICT = re.compile(r'container name "[^"]*" is already in use by container "?([0-9a-f]{12,64})')
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def instant(text: str) -> datetime | None:
    """An instant of Docker's, cut to microseconds; None for "" and for Go's zero time (the year 1)."""
    if not text or text.startswith("0001-"):
        return None
    match = _INSTANT.fullmatch(text)
    if match is None:
        raise EngineError(f"Docker gave {text!r} for an instant")
    seconds, fraction, zone = match.groups()
    parsed = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone)).astimezone(UTC)
    return parsed.replace(microsecond=int((fraction or "0").ljust(9, "0")[:6]))


def unix_time(when: datetime | str) -> str:
    """An instant as Docker's `since` wants it: seconds since 1970, a dot, nine digits."""
    if isinstance(when, datetime):
        whole = (when - _EPOCH) // timedelta(microseconds=1)
        return f"{whole // 1_000_000}.{whole % 1_000_000:06d}000"
    match = _INSTANT.fullmatch(when)
    parsed = instant(when)
    if match is None or parsed is None:
        raise EngineError(f"{when!r} is no instant")
    return f"{int(parsed.timestamp())}.{(match.group(2) or '').ljust(9, '0')}"


def label_filter(labels: Mapping[str, str]) -> list[str]:
    """Labels as a filter; "" as a value means any."""
    return [f"{name}={value}" if value else name for name, value in labels.items()]


def container_config(spec: ContainerSpec) -> dict[str, Any]:
    """The body of ContainerCreate."""
    config: dict[str, Any] = {
        "Image": spec.image,
        "Hostname": spec.hostname,
        "User": spec.user,
        "WorkingDir": spec.working_dir,
        "Env": [f"{name}={value}" for name, value in spec.env.items()],
        "Labels": dict(spec.labels),
        "Tty": spec.tty,
        "OpenStdin": spec.stdin,
        "StdinOnce": spec.stdin_once,
        # Nothing is attached at create: the agent attaches when somebody asks.
        "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
        "HostConfig": _host_config(spec),
    }
    if spec.command is not None:
        config["Entrypoint"] = list(spec.command)
    if spec.args is not None:
        config["Cmd"] = list(spec.args)
    if spec.stop_signal:
        config["StopSignal"] = spec.stop_signal
    if spec.network_mode == "none":
        # A network namespace that the engine leaves alone. It would come without this too, but the engine would run
        # a hook to put it on record, which takes most of the time of a start.
        config["NetworkDisabled"] = True
    # The image's HEALTHCHECK is not Kubernetes': probes say how a container is.
    config["Healthcheck"] = {"Test": ["NONE"]}
    return config


def _host_config(spec: ContainerSpec) -> dict[str, Any]:
    host: dict[str, Any] = {
        "NetworkMode": spec.network_mode,
        "IpcMode": spec.ipc_mode,
        "PidMode": spec.pid_mode,
        "UTSMode": spec.uts_mode,
        "CgroupParent": spec.cgroup_parent,
        "Mounts": [_mount(mount.source, mount.target, mount.read_only, mount.propagation) for mount in spec.mounts],
        "GroupAdd": [str(group) for group in spec.groups],
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only_root,
        "CapAdd": list(spec.capabilities_add),
        "CapDrop": list(spec.capabilities_drop),
        "SecurityOpt": list(spec.security_options),
        "Sysctls": dict(spec.sysctls),
        "OomScoreAdj": spec.limits.oom_score_adj,
        # daemon.json may name another driver, from which logs could not be read back, or set no limits.
        "LogConfig": {"Type": "json-file",
                      "Config": {"max-size": spec.log_max_size, "max-file": str(spec.log_max_files)}},
        # Restarting is the agent's decision: Docker's own would run containers whose pod is gone.
        "RestartPolicy": {"Name": "no"},
        **limits_config(spec.limits),
    }
    if spec.shm_size:
        host["ShmSize"] = spec.shm_size
    return host


def limits_config(limits: Limits) -> dict[str, Any]:
    """The limits as ContainerCreate and ContainerUpdate take them; what is 0 is left out: no limit, or no change."""
    config: dict[str, Any] = {}
    if limits.cpu_shares:
        config["CpuShares"] = limits.cpu_shares
    if limits.cpu_quota:
        config["CpuQuota"], config["CpuPeriod"] = limits.cpu_quota, limits.cpu_period
    if limits.memory:
        # Docker would allow as much swap again; a limit in Kubernetes is on memory, and swap is not part of it.
        config["Memory"] = config["MemorySwap"] = limits.memory
    if limits.pids:
        config["PidsLimit"] = limits.pids
    return config


def _mount(source: str, target: str, read_only: bool, propagation: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}
    if propagation:
        mount["BindOptions"] = {"Propagation": propagation}
    return mount


def container(data: Mapping[str, Any]) -> Container:
    """What ContainerInspect says."""
    state, config = data["State"], data["Config"]
    status = _status(state["Status"])
    alive = status in ("running", "paused", "restarting")
    return Container(
        id=data["Id"], name=data["Name"].removeprefix("/"), image=config["Image"], image_id=data["Image"],
        labels=config.get("Labels") or {}, status=status, pid=state.get("Pid", 0),
        exit_code=state.get("ExitCode", 0), oom_killed=state.get("OOMKilled", False), error=state.get("Error", ""),
        created_at=instant(data.get("Created", "")), started_at=instant(state.get("StartedAt", "")),
        # A container that was started again still carries the end of its last run.
        finished_at=None if alive else instant(state.get("FinishedAt", "")), log_path=data.get("LogPath", ""))


def listed(entry: Mapping[str, Any]) -> Container:
    """What ContainerList says of one that could not be inspected."""
    return Container(
        id=entry["Id"], name=next(iter(entry["Names"] or ()), "").removeprefix("/"), image=entry["Image"],
        image_id=entry["ImageID"], labels=entry.get("Labels") or {}, status=_status(entry["State"]), inspected=False)


def _status(text: str) -> Status:
    for status in get_args(Status):
        if status == text:
            known: Status = status
            return known
    raise EngineError(f"Docker gave {text!r} for a container's status")


def image(data: Mapping[str, Any]) -> Image:
    """What ImageInspect says."""
    config = data.get("Config") or {}
    return Image(id=data["Id"], tags=_names(data.get("RepoTags")), digests=_names(data.get("RepoDigests")),
                 size=data.get("Size", 0), user=config.get("User") or "",
                 entrypoint=tuple(config.get("Entrypoint") or ()), command=tuple(config.get("Cmd") or ()))


def image_summary(data: Mapping[str, Any]) -> Image:
    """One entry of ImageList, which says nothing of user and command."""
    return Image(id=data["Id"], tags=_names(data.get("RepoTags")), digests=_names(data.get("RepoDigests")),
                 size=data.get("Size", 0))


def _names(names: list[str] | None) -> tuple[str, ...]:
    return tuple(name for name in names or () if not name.startswith("<none>"))


def info(data: Mapping[str, Any], version: Mapping[str, Any]) -> EngineInfo:
    """What SystemInfo and SystemVersion say."""
    driver: Literal["cgroupfs", "systemd"] = "systemd" if data.get("CgroupDriver") == "systemd" else "cgroupfs"
    return EngineInfo(
        version=data.get("ServerVersion", ""), api_version=version.get("ApiVersion", ""), cgroup_driver=driver,
        # Engines before 20.10 do not say, and know only version 1.
        cgroup_version=2 if data.get("CgroupVersion") == "2" else 1, root_dir=data.get("DockerRootDir", ""),
        operating_system=data.get("OperatingSystem", ""), kernel_version=data.get("KernelVersion", ""),
        architecture=data.get("Architecture", ""), storage_driver=data.get("Driver", ""),
        default_runtime=data.get("DefaultRuntime", "runc"), live_restore=data.get("LiveRestoreEnabled", False),
        id=data.get("ID", ""))


def event(data: Mapping[str, Any]) -> EngineEvent:
    """One message of SystemEvents. Labels come with `exitCode`, `signal`, `name` and `image` beside them."""
    actor = data.get("Actor") or {}
    when = _EPOCH + timedelta(microseconds=data["timeNano"] // 1000)
    return EngineEvent(data["Action"], actor.get("ID") or data.get("id", ""), actor.get("Attributes") or {}, when)


def conflict_holder(message: str) -> str | None:
    """The id of the container that holds a name, out of Docker's 409; None where it is another conflict."""
    match = _CONFLICT.search(message)
    return match.group(1) if match else None
