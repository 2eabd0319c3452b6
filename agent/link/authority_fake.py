"""An authority of fixed answers, for tests."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime, timedelta

from agent.link.authority import Action, AuthorityError, Caller, IssuedToken, TokenOrder, Verdict


class FakeAuthority:
    """Answers by `rule`; issues tokens that name what was ordered. `failure` makes every call fail."""

    def __init__(self, now: Callable[[], datetime], rule: Callable[[Caller, Action], Verdict] | None = None) -> None:
        self._now = now
        self.rule = rule or _everything
        self.failure: AuthorityError | None = None
        self.extra = 0.0
        """Seconds that tokens really last beyond what was asked for."""
        self.orders: list[TokenOrder] = []
        self.reviews: list[tuple[Caller, Action]] = []

    async def review(self, caller: Caller, action: Action) -> Verdict:
        """By the rule."""
        if self.failure:
            raise self.failure
        self.reviews.append((caller, action))
        return self.rule(caller, action)

    async def issue_token(self, order: TokenOrder) -> IssuedToken:
        """Another one each time: three parts as a real one, of which the middle can be read."""
        if self.failure:
            raise self.failure
        self.orders.append(order)
        now = self._now()
        ends = now + timedelta(seconds=order.seconds)
        claims = {"iat": now.timestamp(), "exp": ends.timestamp() + self.extra, "aud": order.audiences,
                  "sub": f"system:serviceaccount:{order.namespace}:{order.service_account}"}
        middle = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        return IssuedToken(f"fake.{middle}.{len(self.orders)}", now, ends)


def _everything(caller: Caller, _action: Action) -> Verdict:
    return Verdict(authenticated=True, allowed=True, user=caller.name)
