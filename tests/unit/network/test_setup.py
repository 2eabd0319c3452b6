from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from agent.link.view import View
from agent.network.peers import announce
from agent.network.setup import NetworkSetup
from netplugin.fake import FakeNetwork
from netplugin.protocol import NetworkError, Peer
from sampan.api import codec
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock
from sampan.nodeline import Key


class Agent:
    """The setup with a fake network and a view that the test fills."""

    def __init__(self) -> None:
        self.clock, self.view, self.network, self.news = FakeClock(), View(), FakeNetwork(), asyncio.Event()
        self.setup = NetworkSetup("a", self.view, self.network, self.clock, self.news)

    def see(self, name: str, cidr: str = "", mac: str = "", address: str = "192.0.2.2") -> None:
        said = announce(Peer("", address, cidr, "vxlan", mac)) if mac else {}
        node = core_v1.Node(metadata=meta_v1.ObjectMeta(name=name, annotations=dict(said)),
                            spec=core_v1.NodeSpec(pod_cidr=cidr or None))
        self.view.put(Key("", "nodes", "", name), name, "", codec.encode(node))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Agent]:
        task = asyncio.create_task(self.setup.run())
        await self.clock.settle()
        yield self
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(agent: Agent) -> set[str]:
    return {peer.name for peer in agent.network.peers}


async def test_the_network_comes_up_with_the_cidr_and_follows_the_others() -> None:
    async with Agent().running() as agent:
        agent.view.confirm()
        await agent.clock.settle()
        assert agent.setup.problem() == "the node has no pod CIDR yet"
        agent.see("a", "10.42.1.0/24")
        await agent.clock.settle()
        assert (agent.setup.problem(), agent.setup.ready.is_set(), agent.news.is_set()) == ("", True, True)
        agent.see("b", "10.42.2.0/24", "0e:59:0a:2a:02:00")
        agent.see("c", "10.42.3.0/24")  # it has not said how it is reached
        await agent.clock.settle()
        assert agent.network.peers == {Peer("b", "192.0.2.2", "10.42.2.0/24", "vxlan", "0e:59:0a:2a:02:00")}
        agent.see("b", "10.42.2.0/24", "0e:59:0a:2a:02:00", "192.0.2.7")
        agent.see("c", "10.42.3.0/24", "0e:59:0a:2a:03:00")
        await agent.clock.settle()
        assert {(peer.name, peer.address) for peer in agent.network.peers} == {("b", "192.0.2.7"), ("c", "192.0.2.2")}
        agent.view.delete(Key("", "nodes", "", "b"))
        await agent.clock.settle()
        assert names(agent) == {"c"}
        assert [call for call in agent.network.calls if call[0] == "setup"] == [("setup", "10.42.1.0/24")]


async def test_of_half_a_node_map_nothing_is_made() -> None:
    """Nodes come one by one when the agent connects: routes to those that are still to come must stay."""
    async with Agent().running() as agent:
        agent.see("a", "10.42.1.0/24")
        agent.see("b", "10.42.2.0/24", "0e:59:0a:2a:02:00")
        await agent.clock.settle()
        assert agent.network.calls == []
        agent.see("c", "10.42.3.0/24", "0e:59:0a:2a:03:00")
        agent.view.confirm()
        await agent.clock.settle()
        assert agent.network.calls == [("follow", ""), ("setup", "10.42.1.0/24")]
        assert names(agent) == {"b", "c"}


async def test_a_failure_is_told_and_tried_again() -> None:
    agent = Agent()
    agent.view.confirm()
    agent.see("a", "10.42.1.0/24")
    agent.network.broken_setup = NetworkError("no bridge")
    async with agent.running():
        assert agent.setup.problem() == "the pod network cannot be set up: no bridge"
        assert agent.news.is_set()
        agent.network.broken_setup = None
        await agent.clock.advance(5)
        assert agent.setup.problem() == ""


async def test_a_node_that_cannot_be_followed_leaves_this_one_ready() -> None:
    agent = Agent()
    agent.view.confirm()
    agent.see("a", "10.42.1.0/24")
    async with agent.running():
        agent.network.broken_follow = NetworkError("no route")
        agent.see("b", "10.42.2.0/24", "0e:59:0a:2a:02:00")
        await agent.clock.settle()
        assert (agent.setup.problem(), names(agent)) == ("", set())
        agent.network.broken_follow = None
        await agent.clock.advance(5)
        assert names(agent) == {"b"}


async def test_another_cidr_is_set_up_too() -> None:
    agent = Agent()
    agent.view.confirm()
    agent.see("a", "10.42.1.0/24")
    async with agent.running():
        agent.see("a", "10.42.9.0/24")
        await agent.clock.settle()
        assert [call for call in agent.network.calls if call[0] == "setup"] == [
            ("setup", "10.42.1.0/24"), ("setup", "10.42.9.0/24")]


async def test_a_cidr_that_comes_back_while_another_one_fails_is_set_up_again() -> None:
    """Who knows how far the other one came."""
    agent = Agent()
    agent.view.confirm()
    agent.see("a", "10.42.1.0/24")
    async with agent.running():
        agent.network.broken_setup = NetworkError("no bridge")
        agent.see("a", "10.42.9.0/24")
        await agent.clock.settle()
        agent.network.broken_setup = None
        agent.see("a", "10.42.1.0/24")
        await agent.clock.advance(5)
        assert agent.network.calls[-1] == ("setup", "10.42.1.0/24")
        assert agent.setup.problem() == ""


async def test_an_error_of_our_own_is_followed_by_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor runs it again; what it has seen by then is no news, and yet still to be done."""
    agent = Agent()
    agent.view.confirm()
    agent.see("a", "10.42.1.0/24")
    agent.see("b", "10.42.2.0/24", "0e:59:0a:2a:02:00")
    with monkeypatch.context() as patch:
        patch.setattr(agent.network, "setup", None)
        with pytest.raises(TypeError):
            await agent.setup.run()
    async with agent.running():
        assert (agent.setup.problem(), names(agent)) == ("", {"b"})
