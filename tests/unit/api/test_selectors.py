import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api.selectors import (
    EVERYTHING,
    NOTHING,
    SelectorError,
    check_requirement,
    of_labels,
    of_node_term,
    of_object,
    parse_fields,
    parse_labels,
)
from sampan.api.types import meta_v1


@pytest.mark.parametrize(("text", "shown"), [
    ("", ""), ("a", "a"), ("!a", "!a"), ("a=b", "a=b"), ("a==b", "a==b"), ("a!=b", "a!=b"), (" a = b ", "a=b"),
    ("x in (b,a)", "x in (a,b)"), ("x notin (a)", "x notin (a)"), ("a>1", "a>1"), ("a<1", "a<1"),
    ("z=1,a=2", "a=2,z=1"), ("x in ()", "x in ()"), ("x in (,)", "x in ()"), ("x in (a,)", "x in (,a)"),
    ("x=", "x="), ("x=,y=1", "x=,y=1"), ("in in (in)", "in in (in)"), ("! a", "!a"), ("a!=", "a!="),
    ("ex.com/a in (1)", "ex.com/a in (1)"), ("x in (a,a)", "x in (a)"),
])
def test_parse_and_show(text: str, shown: str) -> None:
    assert str(parse_labels(text)) == shown


QUALIFIED = ("must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
             "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
             "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")


@pytest.mark.parametrize(("text", "message"), [
    ("=b", "found '=', expected: !, identifier, or 'end of string'"),
    ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
    ("a=b c", "found 'c', expected: ',' or 'end of string'"),
    ("a=b,", "found '', expected: identifier after ','"),
    ("a in b", "unable to parse requirement: found 'b' expected: '('"),
    ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
    ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
    ("a in (b,", "unable to parse requirement: found '', expected: ',', or identifier"),
    ("!", "unable to parse requirement: found '', expected: identifier"),
    ("a=(b", "unable to parse requirement: found '(', expected: identifier"),
    ("a>x", ("unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must "
            "be an integer")),
    ("a_=b", f'unable to parse requirement: key: Invalid value: "a_": name part {QUALIFIED}'),
])
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as caught:
        parse_labels(text)
    assert str(caught.value) == message


def test_bad_values_are_told_with_their_key() -> None:
    with pytest.raises(SelectorError, match=r'values\[0\]\[a\]: Invalid value: "b_": a valid label must be'):
        parse_labels("a=b_")


@pytest.mark.parametrize(("text", "labels", "wanted"), [
    ("a=b", {"a": "b"}, True), ("a=b", {}, False), ("a!=b", {}, True), ("a!=b", {"a": "b"}, False),
    ("a", {"a": ""}, True), ("!a", {"a": ""}, False), ("a in (b,c)", {"a": "c"}, True), ("a in (b)", {}, False),
    ("a notin (b)", {}, True), ("a notin (b)", {"a": "b"}, False), ("a>3", {"a": "10"}, True),
    ("a>3", {"a": "x"}, False),
    ("a<3", {"a": "2"}, True), ("a<3", {}, False), ("a=b,c=d", {"a": "b"}, False), ("", {"a": "b"}, True),
])
def test_matches(text: str, labels: dict[str, str], wanted: bool) -> None:
    assert parse_labels(text).matches(labels) is wanted


def test_objects() -> None:
    tree = {"matchLabels": {"b": "1", "a": "2"},
            "matchExpressions": [{"key": "t", "operator": "In", "values": ["y", "x"]},
                                 {"key": "u", "operator": "DoesNotExist"}]}
    selector = of_object(tree)
    assert str(selector) == "a=2,b=1,t in (x,y),!u"
    typed = meta_v1.LabelSelector(match_labels={"b": "1", "a": "2"}, match_expressions=[
        meta_v1.LabelSelectorRequirement(key="t", operator="In", values=["x", "y"]),
        meta_v1.LabelSelectorRequirement(key="u", operator="DoesNotExist")])
    assert of_object(typed) == selector
    assert parse_labels(str(selector)).matches({"a": "2", "b": "1", "t": "x"})
    mixed = {"matchLabels": {"b": "1"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]}
    assert str(of_object(mixed)) == "a,b=1"  # by key, wherever it stands, as the scale's selector is to be read
    assert of_object(None) is NOTHING
    assert not NOTHING.matches({})
    assert not NOTHING.empty
    assert of_object({}) == EVERYTHING
    assert EVERYTHING.empty
    assert EVERYTHING.matches(None)
    with pytest.raises(SelectorError, match='"Foo" is not a valid label selector operator'):
        of_object({"matchExpressions": [{"key": "a", "operator": "Foo"}]})
    with pytest.raises(SelectorError, match="values set can't be empty"):
        of_object({"matchExpressions": [{"key": "a", "operator": "In"}]})


def test_node_terms() -> None:
    assert of_node_term([{"key": "cpu", "operator": "Gt", "values": ["3"]}]).matches({"cpu": "4"})
    assert of_node_term([]) is NOTHING
    with pytest.raises(SelectorError, match='"Foo" is not a valid node selector operator'):
        of_node_term([{"key": "cpu", "operator": "Foo"}])


@pytest.mark.parametrize(("operator", "values", "text"), [
    ("=", [], "exact-match compatibility requires one single value"),
    ("exists", ["a"], "values set must be empty for exists and does not exist"),
    ("gt", [], "for 'Gt', 'Lt' operators, exactly one value is required"),
    ("what", [], "Unsupported value"),
])
def test_requirements(operator: str, values: list[str], text: str) -> None:
    assert text in str(check_requirement("a", operator, values))


@given(st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), st.from_regex("[a-z0-9]{0,3}", fullmatch=True)))
def test_labels_select_themselves(labels: dict[str, str]) -> None:
    selector = of_labels(labels)
    assert selector.matches(labels)
    assert parse_labels(str(selector)).matches(labels)
    assert all(not selector.matches({**labels, key: "other"}) for key in labels)


@given(st.text("ab=!(),<> in", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        selector = parse_labels(text)
    except SelectorError:
        return
    assert parse_labels(str(selector)) == selector


@pytest.mark.parametrize(("text", "fields", "wanted"), [
    ("", {}, True), ("a=b", {"a": "b"}, True), ("a==b", {"a": "c"}, False), ("a!=b", {"a": "c"}, True),
    ("a=", {}, True),
    ("a=b,c!=d", {"a": "b", "c": "d"}, False), (r"a=x\,y", {"a": "x,y"}, True), (",a=b,", {"a": "b"}, True),
    (r"a=x\=y", {"a": "x=y"}, True), (r"a=x\\", {"a": "x\\"}, True),
])
def test_fields(text: str, fields: dict[str, str], wanted: bool) -> None:
    selector = parse_fields(text)
    assert selector.matches(fields) is wanted
    assert parse_fields(str(selector)) == selector


def test_field_errors() -> None:
    with pytest.raises(SelectorError, match="invalid selector: 'a=b,foo'; can't understand 'foo'"):
        parse_fields("a=b,foo")
    with pytest.raises(SelectorError, match="invalid field selector: invalid escape sequence"):
        parse_fields(r"a=\x")
    with pytest.raises(SelectorError, match="invalid field selector: invalid escape sequence"):
        parse_fields("a=\\")
    with pytest.raises(SelectorError, match="unescaped character in value: ="):
        parse_fields("a=b=c")
    with pytest.raises(SelectorError, match="field label not supported: foo"):
        parse_fields("foo=bar").check({"metadata.name", "spec.bar"})
    with pytest.raises(SelectorError, match='"foo" is not a known field selector: only "metadata'):
        parse_fields("foo=bar").check({"metadata.name"})


def test_exact_field() -> None:
    selector = parse_fields("metadata.name=x,status.phase!=y")
    assert selector.exact("metadata.name") == "x"
    assert selector.exact("status.phase") is None
    assert not selector.empty
