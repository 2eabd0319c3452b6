"""What one rule allows, and when rules cover others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.rules import Rule, TooManyParts, compact, read_rules, uncovered


def rule(verbs: str, groups: str = "core", resources: str = "", names: str = "", paths: str = "") -> Rule:
    """Words of each, by spaces; ``core`` is the group without a name."""
    named = ["" if group == "core" else group for group in groups.split()] if resources else []
    return Rule.read({"verbs": verbs.split(), "apiGroups": named, "resources": resources.split(),
                      "resourceNames": names.split(), "nonResourceURLs": paths.split()})


def asked(verb: str, what: str, group: str = "", name: str = "") -> Attributes:
    if what.startswith("/"):
        return Attributes(verb, path=what)
    plural, _, subresource = what.partition("/")
    return Attributes(verb, group, plural, subresource, "ns", name)


PODS = rule("get list", resources="pods")


@pytest.mark.parametrize(("given_rule", "request_", "allowed"), [
    (PODS, asked("get", "pods"), True),
    (PODS, asked("get", "pods", name="a"), True),
    (PODS, asked("delete", "pods"), False),
    (PODS, asked("get", "pods", "apps"), False),
    (PODS, asked("get", "pods/log"), False),
    (PODS, asked("get", "secrets"), False),
    (PODS, asked("get", "/api"), False),
    (rule("*", resources="pods"), asked("delete", "pods"), True),
    (rule("get", "*", "pods"), asked("get", "pods", "apps"), True),
    (rule("get", resources="*"), asked("get", "secrets"), True),
    (rule("get", resources="*"), asked("get", "pods/log"), True),
    (rule("get", resources="pods/log"), asked("get", "pods/log"), True),
    (rule("get", resources="pods/log"), asked("get", "pods"), False),
    (rule("get", resources="pods/*"), asked("get", "pods/log"), False),
    (rule("update", "*", "*/scale"), asked("update", "deployments/scale", "apps"), True),
    (rule("update", "*", "*/scale"), asked("update", "deployments", "apps"), False),
    (rule("get", resources="secrets", names="a b"), asked("get", "secrets", name="b"), True),
    (rule("get", resources="secrets", names="a b"), asked("get", "secrets", name="c"), False),
    (rule("get", resources="secrets", names="a"), asked("list", "secrets"), False),
    (rule("create", resources="secrets", names="a"), asked("create", "secrets"), False),
    (rule("get", paths="/healthz"), asked("get", "/healthz"), True),
    (rule("get", paths="/healthz"), asked("get", "/healthz/ping"), False),
    (rule("get", paths="/healthz/*"), asked("get", "/healthz/ping"), True),
    (rule("get", paths="/healthz/*"), asked("get", "/healthz"), False),
    (rule("get", paths="/health*"), asked("get", "/healthz/ping"), True),
    (rule("get", paths="*"), asked("get", "/anything"), True),
    (rule("get", paths="/a/*/c"), asked("get", "/a/b/c"), False),
    (rule("post", paths="*"), asked("get", "/anything"), False),
])
def test_one_rule(given_rule: Rule, request_: Attributes, allowed: bool) -> None:
    assert given_rule.allows(request_) is allowed


@pytest.mark.parametrize(("owned", "wanted", "missing"), [
    ([], [PODS], ['{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}']),
    ([PODS], [PODS], []),
    ([rule("get", resources="pods"), rule("list", resources="pods")], [PODS], []),
    ([rule("*", "*", "*")], [PODS, rule("create", "apps", "deployments/scale", "a")], []),
    ([rule("*", "*", "*")], [rule("get", paths="/x")], ['{NonResourceURLs:["/x"], Verbs:["get"]}']),
    ([rule("get", resources="*")], [PODS], ['{APIGroups:[""], Resources:["pods"], Verbs:["list"]}']),
    ([rule("get list", resources="pods", names="a")], [PODS],
     ['{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}']),
    ([PODS], [rule("get", resources="pods", names="a")], []),
    ([rule("get", resources="pods", names="a")], [rule("get", resources="pods", names="a b")],
     ['{APIGroups:[""], Resources:["pods"], ResourceNames:["b"], Verbs:["get"]}']),
    ([rule("get", resources="*/log")], [rule("get", resources="pods/log")], []),
    ([rule("get", resources="pods")], [rule("get", resources="pods/log")],
     ['{APIGroups:[""], Resources:["pods/log"], Verbs:["get"]}']),
    ([rule("get", paths="/a/*")], [rule("get", paths="/a/b /a/*")], []),
    ([rule("get", paths="/a/b")], [rule("get", paths="/a/*")], ['{NonResourceURLs:["/a/*"], Verbs:["get"]}']),
    ([rule("get list", resources="pods")], [rule("*", resources="pods")],
     ['{APIGroups:[""], Resources:["pods"], Verbs:["*"]}']),
])
def test_what_rules_do_not_cover(owned: list[Rule], wanted: list[Rule], missing: list[str]) -> None:
    assert [str(part) for part in compact(uncovered(owned, wanted))] == missing


def test_rules_that_combine_to_too_much_are_not_taken_apart() -> None:
    def many(letter: str) -> frozenset[str]:
        return frozenset(f"{letter}{number}" for number in range(1000))

    huge = Rule(many("v"), many("g"), many("r"), many("n"))
    assert huge.count == 1000 ** 4
    with pytest.raises(TooManyParts, match="the rules combine to 1000000000000 permissions"):
        uncovered([PODS], [huge])
    assert uncovered([PODS, rule("*", "*", "*")], [huge]) == []
    assert uncovered([huge], [huge]) == []


words = st.sets(st.sampled_from(["get", "list", "create", "*"]), min_size=1, max_size=3)
rules = st.builds(Rule, words.map(frozenset), st.sets(st.sampled_from(["", "apps", "*"]), min_size=1).map(frozenset),
                  st.sets(st.sampled_from(["pods", "pods/log", "secrets", "*/log", "*"]), min_size=1).map(frozenset),
                  st.sets(st.sampled_from(["a", "b"])).map(frozenset))
questions = st.builds(Attributes, st.sampled_from(["get", "list", "create", "delete"]),
                      st.sampled_from(["", "apps", "batch"]), st.sampled_from(["pods", "secrets", "nodes"]),
                      st.sampled_from(["", "log", "status"]), st.just("ns"), st.sampled_from(["", "a", "b", "c"]))


@settings(max_examples=60)
@given(st.lists(rules, max_size=3), st.lists(rules, max_size=3), questions)
def test_whoever_covers_rules_may_all_that_they_allow(owned: list[Rule], wanted: list[Rule], question: Attributes,
                                                      ) -> None:
    if not uncovered(owned, wanted) and any(entry.allows(question) for entry in wanted):
        assert any(entry.allows(question) for entry in owned)


@settings(max_examples=60)
@given(rules)
def test_a_rule_survives_its_tree_and_is_all_of_its_parts(one: Rule) -> None:
    assert read_rules([one.tree()]) == (one,)
    assert not uncovered([one], [one])
    assert not uncovered(list(one.parts()), [one])
