"""Events: what happened to an object, in the object's namespace."""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Tree, child, metadata, part
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import invalid, required

MAX_WORD = 128
MAX_MESSAGE = 1024
NOT_THERE = "does not match event.namespace"


class EventStrategy(Strategy):
    """The rules of events of the core group; events.k8s.io shows the same objects."""

    status_field = ""
    allow_create_on_update = True

    def default(self, obj: Tree) -> None:
        """Members that upstream always shows."""
        child(obj, "involvedObject")
        child(obj, "source")
        for key in ("reportingComponent", "reportingInstance"):
            obj.setdefault(key, "")

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Where it belongs, and for those with eventTime who reports what."""
        errors: Errors = []
        namespace = metadata(obj).get("namespace") or ""
        involved = part(obj, "involvedObject").get("namespace") or ""
        modern = bool(obj.get("eventTime"))
        if involved:
            stray = not modern and involved != namespace
        else:
            stray = namespace not in (("default", "kube-system") if modern else ("default", ""))
        if stray:
            errors.append(invalid("involvedObject.namespace", involved, NOT_THERE))
        return errors + (_modern(obj) if modern else [])

    def fields(self, obj: Tree) -> dict[str, str]:
        """What `kubectl describe` and `kubectl events` ask by."""
        involved = part(obj, "involvedObject")
        reporter = obj.get("reportingComponent") or ""
        fields = {f"involvedObject.{key}": involved.get(key) or ""
                  for key in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")}
        return fields | {"reason": obj.get("reason") or "", "reportingComponent": reporter,
                         "source": part(obj, "source").get("component") or reporter, "type": obj.get("type") or ""}


def _modern(obj: Tree) -> Errors:
    errors: Errors = []
    reporter = obj.get("reportingComponent") or ""
    if not reporter:
        errors.append(required("reportingComponent"))
    errors += checks.qualified_name("reportingComponent", reporter)
    for key in ("reportingInstance", "action", "reason"):
        value = obj.get(key) or ""
        if not value:
            errors.append(required(key))
        if len(value.encode()) > MAX_WORD:
            errors.append(invalid(key, "", f"can have at most {MAX_WORD} characters"))
    if len((obj.get("message") or "").encode()) > MAX_MESSAGE:
        errors.append(invalid("message", "", f"can have at most {MAX_MESSAGE} characters"))
    return errors
