"""An authority of fixed answers, for tests."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from agent.link.authority import Action, AuthorityError, Caller, IssuedToken, TokenOrder, Verdict


class FakeAuthority:
    """Answers by `rule`; issues tokens that name what was ordered. `failure` makes every call fail."""

    def __init__(self, now: Callable[[], datetime], rule: Callable[[Caller, Action], Verdict] | None = None) -> None:
        self._now = now
        self.rule = rule or _everything
        self.failure: AuthorityError | None = None
        self.orders: list[TokenOrder] = []
        self.reviews: list[tuple[Caller, Action]] = []

    async def review(self, caller: Caller, action: Action) -> Verdict:
        """By the rule."""
        if self.failure:
            raise self.failure
        self.reviews.append((caller, action))
        return self.rule(caller, action)

    async def issue_token(self, order: TokenOrder) -> IssuedToken:
        """A text that is another one each time."""
        if self.failure:
            raise self.failure
        self.orders.append(order)
        text = f"{order.namespace}:{order.service_account}:{order.pod}:{','.join(order.audiences)}:{len(self.orders)}"
        return IssuedToken(text, self._now(), self._now() + timedelta(seconds=order.seconds))


def _everything(caller: Caller, _action: Action) -> Verdict:
    return Verdict(authenticated=True, allowed=True, user=caller.name)
