"""The pods' rules among others who change rules at the same time; tests/integration/netplugin has the real iptables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network

import pytest

from netplugin import rules
from netplugin.kernel import firewall
from netplugin.kernel.command import Backend
from netplugin.kernel.firewall import Firewall

CHAINS = rules.chains(rules.Firewall(IPv4Network("10.42.7.0/24"), (IPv4Network("10.42.0.0/16"),)))
FORWARD = "filter", "FORWARD"


class Iptables:
    """Of the legacy kind, in memory. `then` is called once, after the first command in which `at` stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chains: dict[tuple[str, str], list[str]] = {(jump.table, jump.chain): [] for jump in rules.JUMPS}
        self.at, self.then = "", lambda: None
        monkeypatch.setattr(firewall, "execute", self.execute)
        monkeypatch.setattr(firewall, "find_backend", self.backend)
        monkeypatch.setattr(firewall, "run", self.run)
        monkeypatch.setattr(firewall, "succeeds", self.succeeds)

    def once(self, at: str, then: Callable[[], None]) -> None:
        self.at, self.then = at, then

    async def backend(self) -> Backend:
        return Backend((1, 8, 9), nf_tables=False)

    async def run(self, command: Sequence[str], stdin: str = "") -> str:
        code, output, errors = await self.execute(command, stdin)
        if code:
            raise firewall.NetworkError(errors)
        return output

    async def succeeds(self, command: Sequence[str]) -> bool:
        return not (await self.execute(command))[0]

    async def execute(self, command: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        answer = self.restore(stdin) if command[0] == "iptables-restore" else self.do(*command[4:])
        if self.at and self.at in " ".join(command):
            self.at = ""
            self.then()
        return answer

    def restore(self, text: str) -> tuple[int, str, str]:
        table = ""
        for line in text.splitlines():
            if line.startswith("*"):
                table = line[1:]
            elif line.startswith(":"):
                self.chains[table, line[1:].split()[0]] = []
            elif line.startswith("-A "):
                _, chain, rule = line.split(" ", 2)
                self.chains[table, chain].append(rule)
        return 0, "", ""

    def do(self, table: str, action: str, chain: str, *words: str) -> tuple[int, str, str]:
        found = self.chains.get((table, chain))
        if found is None:
            return 1, "", "No chain/target/match by that name."
        if action == "-S":
            return 0, "\n".join([f"-N {chain}", *(f"-A {chain} {rule}" for rule in found)]) + "\n", ""
        if action == "-I":
            found.insert(0, " ".join(words[1:]))
            return 0, "", ""
        assert action == "-C"
        return (0 if " ".join(words) in found else 1), "", ""

    def well(self) -> bool:
        """Whether all is as wanted."""
        return (all(self.chains.get(chain.key) == list(chain.rules) for chain in CHAINS)
                and all(self.chains[jump.table, jump.chain].count(" ".join(jump.rule)) == 1
                        for jump in rules.JUMPS))


@pytest.mark.parametrize("at", ["-C OUTPUT", "-I OUTPUT"])
async def test_a_jump_that_goes_while_others_are_looked_for_is_missed_at_the_next_look(
        at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall that is loaded changes rules many times in a second, in which the first change has us look."""
    iptables, kept = Iptables(monkeypatch), Firewall()
    iptables.once(at, iptables.chains[FORWARD].clear)
    await kept.apply(CHAINS)
    assert not iptables.well()
    await kept.check(CHAINS)
    assert iptables.well()


async def test_rules_that_go_as_they_are_written_are_missed_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    iptables, kept = Iptables(monkeypatch), Firewall()
    written = ("nat", rules.POSTROUTING)
    iptables.once("iptables-restore", lambda: iptables.chains.update({written: []}))
    await kept.apply(CHAINS)
    assert not iptables.well()
    await kept.check(CHAINS)
    assert iptables.well()


async def test_what_is_well_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    iptables, kept = Iptables(monkeypatch), Firewall()
    await kept.apply(CHAINS)
    assert iptables.well()
    await kept.check(CHAINS)  # whether the jumps have stayed
    asked: list[str] = []
    execute = iptables.execute

    async def noted(command: Sequence[str], stdin: str = "") -> tuple[int, str, str]:
        asked.append(" ".join(command))
        return await execute(command, stdin)

    monkeypatch.setattr(iptables, "execute", noted)
    assert not await kept.check(CHAINS)
    assert asked
    assert all(" -S " in command for command in asked)
