"""Who may read the node's port, in the words of upstream's kubelet."""

from __future__ import annotations

import pytest

from agent.link.authority import Action, AuthorityError, Caller, Verdict
from agent.server.access import Guard, action, bearer, certified
from agent.server.http import Request

PROMETHEUS = "system:serviceaccount:monitoring:prometheus"


class Master:
    """Knows one token and one user, who may read metrics."""

    def __init__(self) -> None:
        self.asked: list[tuple[Caller, Action]] = []
        self.away = False

    async def review(self, caller: Caller, action: Action) -> Verdict:
        self.asked.append((caller, action))
        if self.away:
            raise AuthorityError("there is no connection to the master")
        if caller.token == "good" or caller.name == PROMETHEUS:
            return Verdict(True, action.subresource == "metrics", PROMETHEUS)
        return Verdict(False, False)


async def ask(master: Master, path: str, token: str = "", peer: Caller | None = None) -> tuple[int, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    response = await Guard(master).refusal(Request("GET", path, {}, headers), peer or Caller())
    return (response.status, response.body.decode()) if response else (200, "")


async def test_nobody_is_not_let_in_and_not_asked_about() -> None:
    master = Master()
    assert await ask(master, "/metrics") == (401, "Unauthorized")
    assert master.asked == []


async def test_a_token_that_nobody_knows() -> None:
    assert await ask(Master(), "/metrics", "bad") == (401, "Unauthorized")


async def test_who_may_read_metrics_may_not_read_pods() -> None:
    assert await ask(Master(), "/metrics/cadvisor", "good") == (200, "")
    assert await ask(Master(), "/pods", "good") == (
        403, f"Forbidden (user={PROMETHEUS}, verb=get, resource=nodes, subresource=proxy)")


async def test_a_certificate_counts_before_a_token() -> None:
    master = Master()
    assert await ask(master, "/metrics", "bad", Caller(name=PROMETHEUS)) == (200, "")
    assert master.asked == [(Caller(name=PROMETHEUS), Action("get", "metrics"))]


async def test_without_an_answer_nobody_is_let_in() -> None:
    master = Master()
    master.away = True
    status, text = await ask(master, "/stats/summary", "good")
    assert status == 500
    assert text == "Authorization error (user=unknown, verb=get, resource=nodes, subresource=stats)"


@pytest.mark.parametrize(("path", "subresource"), [
    ("/metrics", "metrics"), ("/metrics/cadvisor", "metrics"), ("/metricsx", "proxy"), ("/stats/summary", "stats"),
    ("/stats", "stats"), ("/pods", "proxy"), ("/healthz", "proxy"), ("/", "proxy"), ("/logs/x", "log")])
def test_subresources(path: str, subresource: str) -> None:
    assert action("GET", path) == Action("get", subresource)


def test_verbs() -> None:
    assert action("HEAD", "/metrics").verb == "get"
    assert action("POST", "/metrics").verb == "create"


def test_bearer_and_certificate() -> None:
    assert bearer("bearer  abc") == "abc"
    assert bearer("Basic abc") == ""
    peer = {"subject": ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "me"),))}
    assert certified(peer) == Caller(name="me", groups=("a", "b"))
    assert certified(None) == Caller()
    assert certified({"subject": ((("organizationName", "system:masters"),),)}) == Caller()
