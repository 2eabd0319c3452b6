from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.deletion import Options, check_kind, done_with, finalizers_after, plan, read_options
from master.apiserver.request import Query
from sampan.api.errors import ApiError

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = "2026-01-01T00:00:30Z"


def obj(kind: str = "Pod", **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "a", **metadata}, "spec": {}, "status": {}}


def test_nothing_to_wait_for() -> None:
    assert plan(obj(), Options(), grace=0, now=NOW).action == "remove"


def test_grace_marks() -> None:
    result = plan(obj(generation=1), Options(), grace=30, now=NOW)
    assert result.action == "mark"
    assert result.obj["metadata"] == {"name": "a", "generation": 2, "deletionTimestamp": LATER,
                                      "deletionGracePeriodSeconds": 30}


@pytest.mark.parametrize(("asked", "action", "left"), [(None, "keep", 30), (30, "keep", 30), (60, "keep", 30),
                                                       (10, "mark", 10), (0, "remove", 30)])
def test_grace_may_only_get_shorter(asked: int | None, action: str, left: int) -> None:
    ending = obj(deletionTimestamp=LATER, deletionGracePeriodSeconds=30)
    result = plan(ending, Options(asked), grace=30, now=NOW)
    assert result.action == action
    assert result.obj["metadata"]["deletionGracePeriodSeconds"] == left
    if left == 10:
        assert result.obj["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:10Z"


def test_finalizers_hold_the_object() -> None:
    held = obj(finalizers=["a/b"])
    result = plan(held, Options(), grace=0, now=NOW)
    assert result.action == "mark"
    assert result.obj["metadata"]["deletionTimestamp"] == "2026-01-01T00:00:00Z"
    assert result.obj["metadata"]["deletionGracePeriodSeconds"] == 0
    assert plan(result.obj, Options(), grace=0, now=NOW).action == "keep"


@pytest.mark.parametrize(("options", "before", "after"), [
    (Options(), ["x/y"], ["x/y"]),
    (Options(propagation="Foreground"), ["x/y"], ["x/y", "foregroundDeletion"]),
    (Options(propagation="Orphan"), [], ["orphan"]),
    (Options(propagation="Background"), ["orphan", "foregroundDeletion"], []),
    (Options(), ["orphan"], ["orphan"]),
    (Options(orphan=True), ["foregroundDeletion"], ["orphan"]),
    (Options(orphan=False), ["orphan"], []),
])
def test_propagation_is_written_as_finalizers(options: Options, before: list[str], after: list[str]) -> None:
    assert finalizers_after(obj(finalizers=before), options) == after


@pytest.mark.parametrize(("options", "before", "after"), [
    (Options(), [], ["orphan"]), (Options(), ["foregroundDeletion"], ["foregroundDeletion"]),
    (Options(), ["orphan"], ["orphan"]), (Options(propagation="Background"), [], []), (Options(orphan=False), [], [])])
def test_a_kind_that_keeps_its_dependents(options: Options, before: list[str], after: list[str]) -> None:
    assert finalizers_after(obj(finalizers=before), options, orphans=True) == after
    marked = plan(obj(finalizers=before), options, grace=0, now=NOW, orphans=True)
    assert marked.action == ("mark" if after else "remove")


def test_a_namespace_waits_for_its_own_finalizers() -> None:
    namespace = obj("Namespace")
    namespace["spec"] = {"finalizers": ["kubernetes"]}
    result = plan(namespace, Options(), grace=0, now=NOW)
    assert result.action == "mark"
    assert result.obj["status"]["phase"] == "Terminating"
    assert "deletionGracePeriodSeconds" not in result.obj["metadata"]
    assert not done_with(result.obj, result.obj)
    finalized = {**result.obj, "spec": {}}
    assert done_with(finalized, result.obj)


def test_done_when_the_last_finalizer_goes() -> None:
    ending = obj(deletionTimestamp=LATER, deletionGracePeriodSeconds=0, finalizers=["a/b"])
    freed = obj(deletionTimestamp=LATER, deletionGracePeriodSeconds=0)
    assert done_with(freed, ending)
    assert not done_with(ending, ending)
    assert not done_with(obj(), obj(finalizers=["a/b"]))
    running = obj(deletionTimestamp=LATER, deletionGracePeriodSeconds=30)
    assert not done_with(running, running)  # its node says when it has ended


@given(grace=st.integers(0, 100), asked=st.none() | st.integers(0, 100),
       finalizers=st.lists(st.sampled_from(["a/b", "orphan", "foregroundDeletion"]), unique=True, max_size=2),
       propagation=st.sampled_from(["", "Background", "Foreground", "Orphan"]))
def test_deleting_twice_changes_nothing_more(grace: int, asked: int | None, finalizers: list[str],
                                             propagation: str) -> None:
    options = Options(asked, propagation)
    before = obj(finalizers=finalizers, generation=1)
    first = plan(before, options, grace=asked if asked is not None else grace, now=NOW)
    assert before == obj(finalizers=finalizers, generation=1)
    if first.action == "mark":
        assert plan(first.obj, options, grace=grace, now=NOW).action == "keep"


def test_options_from_body_and_query() -> None:
    assert read_options({}, Query.parse("gracePeriodSeconds=5&propagationPolicy=Orphan&dryRun=All")) == Options(
        5, "Orphan", dry_run=True)
    assert read_options({"gracePeriodSeconds": -3, "preconditions": {"uid": "u", "resourceVersion": "7"}},
                        Query()) == Options(1, uid="u", revision="7")
    for body in ({"propagationPolicy": "Never"}, {"dryRun": ["Some"]},
                 {"propagationPolicy": "Orphan", "orphanDependents": True}):
        with pytest.raises(ApiError) as refused:
            read_options(body, Query())
        assert refused.value.code == 422


def test_a_policy_is_checked_whatever_stands_beside_it() -> None:
    with pytest.raises(ApiError) as refused:
        read_options({"propagationPolicy": "", "orphanDependents": False}, Query())
    assert [cause.message for cause in refused.value.causes] == [
        'Invalid value: "": orphanDependents and deletionPropagation cannot be both set',
        'Unsupported value: "": supported values: "Foreground", "Background", "Orphan", "nil"']
    with pytest.raises(ApiError):
        read_options({}, Query.parse("propagationPolicy="))
    with pytest.raises(ApiError) as refused:
        read_options({"dryRun": ["Some"]}, Query.parse("dryRun=All"))
    assert refused.value.message == ('DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: '
                                     '[]string{"Some", "All"}: supported values: "All"')


@pytest.mark.parametrize("body", [
    {}, {"kind": "DeleteOptions"}, {"apiVersion": "apps/v1"}, {"apiVersion": "of/nobody"}])
def test_options_of_any_version(body: dict[str, Any]) -> None:
    check_kind(body)


@pytest.mark.parametrize(("body", "message"), [
    ({"kind": "Pod"}, 'no kind "Pod" is registered for version "v1": expected DeleteOptions'),
    ({"kind": "DeleteOption", "apiVersion": "apps/v1"},
     'no kind "DeleteOption" is registered for version "apps/v1": expected DeleteOptions'),
    ({"apiVersion": "a/b/c"}, "unexpected GroupVersion string: a/b/c"),
])
def test_what_are_no_options(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        check_kind(body)
    assert (refused.value.code, refused.value.message) == (400, message)
