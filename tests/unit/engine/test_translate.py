from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine import translate
from agent.engine.protocol import ContainerSpec, EngineError, Limits, Mount


@pytest.mark.parametrize(("text", "expected"), [
    ("", None),
    ("0001-01-01T00:00:00Z", None),
    ("2026-02-03T04:05:06Z", datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
    ("2026-02-03T04:05:06.1Z", datetime(2026, 2, 3, 4, 5, 6, 100_000, tzinfo=UTC)),
    ("2026-02-03T04:05:06.123456789Z", datetime(2026, 2, 3, 4, 5, 6, 123_456, tzinfo=UTC)),
    ("2026-02-03T04:05:06.5+02:00", datetime(2026, 2, 3, 2, 5, 6, 500_000, tzinfo=UTC)),
])
def test_instants(text: str, expected: datetime | None) -> None:
    assert translate.instant(text) == expected


def test_what_is_no_instant() -> None:
    with pytest.raises(EngineError, match="yesterday"):
        translate.instant("yesterday")
    with pytest.raises(EngineError):
        translate.unix_time("0001-01-01T00:00:00Z")


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001 - bounds of it
def test_unix_time_is_exact(when: datetime) -> None:
    seconds, fraction = translate.unix_time(when).split(".")
    passed = timedelta(seconds=int(seconds), microseconds=int(fraction) // 1000)
    assert datetime(1970, 1, 1, tzinfo=UTC) + passed == when
    stamp = when.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z"
    assert translate.unix_time(stamp) == f"{seconds}.{fraction[:6]}789"


def test_a_container_s_config() -> None:
    config = translate.container_config(ContainerSpec(
        "n", "image:1", command=["run"], env={"a": "b"}, labels={"l": "m"}, mounts=[Mount("/s", "/t", True, "rslave")],
        groups=[7], cgroup_parent="/kubepods/podx", limits=Limits(cpu_shares=2, memory=100, oom_score_adj=-997)))
    host = config["HostConfig"]
    assert (config["Entrypoint"], "Cmd" in config, config["Env"]) == (["run"], False, ["a=b"])
    assert host["Mounts"] == [{"Type": "bind", "Source": "/s", "Target": "/t", "ReadOnly": True,
                               "BindOptions": {"Propagation": "rslave"}}]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "5"}}
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (host["Memory"], host["MemorySwap"], host["OomScoreAdj"]) == (100, 100, -997)
    assert "CpuQuota" not in host
    assert (host["NetworkMode"], config["NetworkDisabled"]) == ("none", True)
    for mode in ("host", "container:abc"):
        assert "NetworkDisabled" not in translate.container_config(ContainerSpec("n", "image:1", network_mode=mode))


def test_empty_commands_are_not_the_image_s() -> None:
    config = translate.container_config(ContainerSpec("n", "image:1", command=[], args=[]))
    assert (config["Entrypoint"], config["Cmd"]) == ([], [])
    assert "Entrypoint" not in translate.container_config(ContainerSpec("n", "image:1"))


def inspected(**state: Any) -> dict[str, Any]:
    return {"Id": "abc", "Name": "/n", "Image": "sha256:1", "Created": "2026-01-01T00:00:00.5Z",
            "Config": {"Image": "image:1", "Labels": None},
            "State": {"Status": "running", "Pid": 7, "ExitCode": 0, "OOMKilled": False, "Error": "",
                      "StartedAt": "2026-01-01T00:00:01Z", "FinishedAt": "0001-01-01T00:00:00Z"} | state}


def test_containers() -> None:
    running = translate.container(inspected(FinishedAt="2025-01-01T00:00:00Z"))
    assert (running.name, running.labels, running.pid, running.finished_at) == ("n", {}, 7, None)
    assert running.running
    dead = translate.container(inspected(Status="dead", Pid=0, ExitCode=137, FinishedAt="2026-01-01T00:00:02Z"))
    assert not dead.gone, "its removal failed, and can be tried again"
    assert not dead.running
    assert translate.container(inspected(Status="removing", Pid=0)).gone
    assert dead.finished_at == datetime(2026, 1, 1, 0, 0, 2, tzinfo=UTC)
    with pytest.raises(EngineError, match="melting"):
        translate.container(inspected(Status="melting"))


HOLDER = "d6e8a5f0f7a4b6cbb5d6dbb06e7ae4c4f2a4e8d9c0b1a2938475665748392011"
CONFLICT = (f'Conflict. The container name "/x" is already in use by container "{HOLDER}". You have to remove (or '
            "rename) that container to be able to reuse that name.")


@pytest.mark.parametrize(("message", "holder"), [
    (CONFLICT, HOLDER),
    ("Conflict. The name \"/x\" is already in use", None),
    ("container is not running", None),
])
def test_who_holds_a_name(message: str, holder: str | None) -> None:
    assert translate.conflict_holder(message) == holder


def test_images_without_a_name() -> None:
    image = translate.image({"Id": "sha256:1", "RepoTags": ["<none>:<none>"], "RepoDigests": None, "Size": 5})
    assert (image.tags, image.digests, image.user, image.entrypoint) == ((), (), "", ())


def test_what_an_image_runs() -> None:
    config = {"User": "1000", "Entrypoint": ["/run"], "Cmd": ["-v", "x"]}
    image = translate.image({"Id": "sha256:1", "RepoTags": ["a:1"], "RepoDigests": ["a@sha256:2"], "Config": config})
    assert (image.tags, image.digests, image.user) == (("a:1",), ("a@sha256:2",), "1000")
    assert (image.entrypoint, image.command) == (("/run",), ("-v", "x"))


def test_what_an_older_engine_does_not_say() -> None:
    info = translate.info({"ServerVersion": "19.03", "CgroupDriver": "systemd"}, {"ApiVersion": "1.40"})
    assert (info.cgroup_driver, info.cgroup_version) == ("systemd", 1)
