import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.schema.parse import MAX_DEPTH, parse, parse_value
from sampan.api.errors import ApiError

YAML = "application/yaml"


def refusal(body: bytes, content_type: str = "application/json", kind: str = "") -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body, content_type, kind=kind)
    return caught.value


@pytest.mark.parametrize(("body", "text"), [
    (b"", "unexpected end of JSON input"), (b"{", "unexpected end of JSON input"),
    (b'{"a":NaN}', "invalid character 'N' at byte 5"), (b'{"a":1}x', "invalid character 'x' after top-level value"),
    (b"[1]", "cannot unmarshal array into Go value"), (b'"a"', "cannot unmarshal string into Go value"),
    (b"null", "cannot unmarshal null"), (b"true", "cannot unmarshal bool"), (b"1", "cannot unmarshal number"),
    (b'{"a":"\xff"}', "invalid UTF-8"), (b"\xff\xfe{\x00}\x00", "invalid character"), (b'{"a":1e999}', "out of range"),
    (b'{"a":"\\ud800\\ud800"}', "invalid character"), (b'{"a":' + b"1" * 5000 + b"}", "out of range"),
    (b"{'a':1}", "invalid character"),
    (b'{"a":' * 300 + b"1" + b"}" * 300, "exceeded max depth"), (b'{"a":' + b"[" * 50000, "exceeded max depth"),
    (b"{}" * 2, "invalid character '{' after top-level value"),
])
def test_malformed_bodies(body: bytes, text: str) -> None:
    error = refusal(body)
    assert error.code == 400
    assert text in str(error)


def test_a_great_many_duplicates_are_found_in_one_pass() -> None:
    members = ",".join(f'"k{index}":1,"k{index}":1' for index in range(50_000))
    parsed = parse(f"{{{members}}}".encode(), find_duplicates=True)
    assert parsed.duplicates == tuple(f"k{index}" for index in range(100))
    merges = "<<: {" + ",".join(f"k{index}: 1" for index in range(30_000)) + "}\n" + "<<: {a: 1}\n" * 30_000
    assert len(parse(merges.encode(), YAML).tree) == 30_001


def test_the_message_says_what_was_expected() -> None:
    assert str(refusal(b"{", kind="Pod")) == (
        "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error: "
        "unexpected end of JSON input ({)")
    assert str(refusal(b"", kind="Pod")).endswith("(<empty>)")
    assert str(refusal(b"[1]", kind="Pod")).endswith("(5b315d)")
    assert str(refusal(b'{"a":"' + b"x" * 40, kind="Pod")).endswith('({"a":"' + "x" * 24 + " ...)")


def test_unknown_content_types() -> None:
    assert refusal(b"{}", "application/vnd.kubernetes.protobuf").code == 415
    assert refusal(b"{}", "text/plain").reason == "UnsupportedMediaType"
    assert parse(b"{}", "").tree == {}
    assert parse(b"{}", "application/json; charset=utf-8").tree == {}
    assert parse_value(b"[1]") == ([1], ())
    assert parse_value(b'[{"a":1,"a":2}]') == ([{"a": 2}], ("[0].a",))


@pytest.mark.parametrize(("body", "wanted"), [
    (b'{"a":1,"b":{"a":1}}', ()), (b'{"a":1,"a":2}', ("a",)),
    (b'{"spec":{"replicas":1,"x":[{"y":1,"y":1,"y":1}],"replicas":2}}', ("spec.replicas", "spec.x[0].y")),
    (b'{"a" : 1, "a" : 2}', ("a",)), (b'{"a" : 1, "b" : 2}', ()), (b'{"a":"\\u0022:","b":1,"b":1}', ("b",)),
    (b'{"a":"\\":\\":","c":1}', ()), (b'{"a":"\\"\\u003a"}', ()), (b'{"\\u0061":1,"a":2}', ("a",)),
    (b'{"a":"x\\":","a":"y"}', ("a",)),
])
def test_duplicates(body: bytes, wanted: tuple[str, ...]) -> None:
    parsed = parse(body, find_duplicates=True)
    assert parsed.duplicates == wanted
    assert parsed.tree == json.loads(body)
    assert parse(body).duplicates == ()


values: Any = st.recursive(st.none() | st.booleans() | st.integers(-2**63, 2**63 - 1) | st.text(),
                           lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(st.dictionaries(st.text(), values), st.booleans(), st.booleans())
def test_what_has_no_duplicates_is_found_to_have_none(tree: dict[str, Any], ascii_only: bool, indent: bool) -> None:
    body = json.dumps(tree, ensure_ascii=ascii_only, indent=2 if indent else None,
                      separators=(" ,", " : ") if indent else None)
    try:
        encoded = body.encode()
        msgspec.json.decode(encoded)
    except (UnicodeEncodeError, msgspec.DecodeError):  # lone surrogates
        return
    parsed = parse(encoded, find_duplicates=True)
    assert parsed.tree == tree
    assert parsed.duplicates == ()


@given(st.dictionaries(st.text("a\":\\\n", min_size=1), st.text("a\":\\\n{},"), min_size=1), st.data(), st.booleans())
def test_a_repeated_member_is_always_found(tree: dict[str, str], data: st.DataObject, ascii_only: bool) -> None:
    key = data.draw(st.sampled_from(sorted(tree)))
    members = [json.dumps(name, ensure_ascii=ascii_only) + ":" + json.dumps(value) for name, value in tree.items()]
    members.insert(data.draw(st.integers(0, len(members))), json.dumps(key) + ":" + json.dumps("again"))
    assert parse(("{" + ",".join(members) + "}").encode(), find_duplicates=True).duplicates == (key,)


@given(st.binary(max_size=60), st.sampled_from(["application/json", YAML]))
def test_any_bytes_are_read_or_refused(body: bytes, content_type: str) -> None:
    try:
        assert isinstance(parse(body, content_type, find_duplicates=True).tree, dict)
    except ApiError as error:
        assert error.code == 400  # noqa: PT017 - both outcomes are right


@given(st.text("ab:-&*!<>{}[],'\"|#%@ \n0129.~=?", max_size=60))
def test_any_yaml_is_read_or_refused(text: str) -> None:
    try:
        parse_value(text.encode(), YAML)
    except ApiError as error:
        assert error.code == 400  # noqa: PT017 - both outcomes are right


def test_big_whole_numbers_become_floats() -> None:
    tree = parse(b'{"a":[9223372036854775807,9223372036854775808],"b":1}').tree
    assert tree == {"a": [2**63 - 1, float(2**63)], "b": 1}
    assert isinstance(tree["a"][1], float)


def test_depth_is_counted_not_brackets() -> None:
    wide = b'{"a":[' + b",".join([b"[1]"] * 500) + b"]}"
    assert len(parse(wide).tree["a"]) == 500
    assert parse(b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}")


@pytest.mark.parametrize(("text", "value"), [
    ("5", 5), ("-5", -5), ("+5", 5), ("0644", 420), ("0o644", 420), ("0x1F", 31), ("0b11", 3), ("1_000", 1000),
    ("0", 0),
    ("00", 0), ("08", 8.0), ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("yes", True), ("Off", False),
    ("y", True), ("~", None), ("", None), ("null", None), ("2020-01-01", "2020-01-01"),
    ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"), ("12:30:45", "12:30:45"), ('"5"', "5"), ("'yes'", "yes"),
    ("!!str 5", "5"), ('!!int "5"', 5), ("!!binary aGk=", "hi"), ("=", "="), ("1.2.3", "1.2.3"), ("a b", "a b"),
    ("|\n  x\n  y\n", "x\ny\n"), ("1Gi", "1Gi"), ("_", "_"), ("-", [None]), ("[a, 1]", ["a", 1]),
])
def test_yaml_scalars(text: str, value: object) -> None:
    got = parse(f"a: {text}".encode() if text != "-" else b"a:\n-\n", YAML).tree["a"]
    assert got == value
    assert type(got) is type(value)


def test_yaml_structures() -> None:
    assert parse(b"1: a\ntrue: b\n2.5: c\n", YAML).tree == {"1": "a", "true": "b", "2.5": "c"}
    assert parse(b"x: &x {a: 1, b: 2}\nz:\n  <<: *x\n  b: 3\n", YAML).tree["z"] == {"a": 1, "b": 3}
    assert parse(b"z:\n  <<: [{a: 1}, {a: 2, c: 3}]\n", YAML).tree["z"] == {"a": 1, "c": 3}
    assert parse(b'{"a":1}', YAML).tree == {"a": 1}
    assert parse(b"{a: 1}", YAML).tree == {"a": 1}
    first = parse(b"a: &x [1]\nb: *x\n", YAML).tree
    assert first["a"] is not first["b"]


def test_yaml_duplicates_are_told_by_line() -> None:
    parsed = parse(b"a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", YAML, find_duplicates=True)
    assert parsed.tree == {"a": 3, "b": {"c": 2}}
    assert parsed.duplicates == (('yaml: unmarshal errors:\n  line 4: key "c" already set in map\n'
                                 '  line 5: key "a" already set in map'),)


@pytest.mark.parametrize("text", [
    "a: [", "a: !foo x", "a: .nan", "a: .inf", "- 1", "a: \x01", "? [a]\n: 1", "~: 1", "a: *x", "a: 'x", "\ta: 1",
    "a: &a [*a]", "<<: 1", "a: !!binary '*'", "a: 1e999",
])
def test_bad_yaml(text: str) -> None:
    assert refusal(text.encode(), YAML).code == 400


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 9)]
    assert "excessive aliasing" in str(refusal("\n".join(lines).encode(), YAML))
    assert "max depth" in str(refusal(b"a: " + b"[" * 3000 + b"]" * 3000, YAML))
