import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.api import names

SUBDOMAIN = ("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
             "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
             r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')")
LABEL = ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
         "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')")
QUALIFIED = ("must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
             "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
             "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")
VALUE = ("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start "
         "and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for "
         "validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')")


@pytest.mark.parametrize(("rule", "value", "wanted"), [
    (names.dns_subdomain, "a.b-c", []), (names.dns_subdomain, "A", [SUBDOMAIN]), (names.dns_subdomain, "", [SUBDOMAIN]),
    (names.dns_subdomain, "a" * 254, ["must be no more than 253 characters"]),
    (names.dns_subdomain, "a\n", [SUBDOMAIN]),
    (names.dns_label, "a-b", []), (names.dns_label, "a.b", ["must not contain dots"]), (names.dns_label, "-a", [LABEL]),
    (names.dns_label, "a" * 64, ["must be no more than 63 characters"]),
    (names.qualified_name, "a/b", []), (names.qualified_name, "example.com/My_Name.x", []),
    (names.qualified_name, "/b", ["prefix part must be non-empty"]),
    (names.qualified_name, "A/b", ["prefix part " + SUBDOMAIN]),
    (names.qualified_name, "a/", ["name part must be non-empty", "name part " + QUALIFIED]),
    (names.qualified_name, "a/b/c", ["a qualified name " + QUALIFIED + " with an optional DNS subdomain prefix and '/' "
                                     "(e.g. 'example.com/MyName')"]),
    (names.label_value, "", []), (names.label_value, "a b", [VALUE]),
    (names.port_name, "http", []), (names.port_name, "8080", ["must contain at least one letter (a-z)"]),
    (names.port_name, "a--b", ["must not contain consecutive hyphens"]),
    (names.port_name, "a-", ["must not begin or end with a hyphen"]),
    (names.port_name, "a" * 16, ["must be no more than 15 characters"]),
    (names.port_name, "A1", ["must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                             "must contain at least one letter (a-z)"]),
    (names.env_var_name, "my.env-NAME 2", []), (names.env_var_name, "1A", []),
    (names.env_var_name, "a=b", [("a valid environment variable name must consist only of printable ASCII characters "
                                 "other than '='")]),
    (names.env_var_name, "", ["environment variable name must be non-empty"]),
    (names.config_key, "a.b", []), (names.config_key, "..", ["must not be '..'"]),
    (names.config_key, "..a", ["must not start with '..'"]), (names.config_key, ".", ["must not be '.'"]),
    (names.path_segment, "a:b", []), (names.path_segment, "a/b%", ["may not contain '/'", "may not contain '%'"]),
    (names.path_segment, "..", ["may not be '..'"]),
    (names.ip_address, "::1", []),
    (names.ip_address, "1.2.3", ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]),
    (names.ip_address, "2001:db8::1%eth0", ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"]),
    (names.cidr, "10.0.0.1/8", []), (names.cidr, "2001:db8::/64", []),
    (names.cidr, "10.0.0.0/255.0.0.0", ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]),
    (names.cidr, "2001:db8::1%eth0/64", ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]),
    (names.cidr, "10.0.0.1", ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]),
    (names.dns_1035_label, "a-1", []), (names.wildcard_subdomain, "*.a.b", []), (names.http_header, "X-A", []),
    (names.c_identifier, "_a", []), (names.percent, "10%", []), (names.strict_env_var_name, "A_B", []),
])
def test_rules(rule: object, value: str, wanted: list[str]) -> None:
    assert rule(value) == wanted  # type: ignore[operator]


@pytest.mark.parametrize(("rule", "value", "start"), [
    (names.dns_1035_label, "1a", "a DNS-1035 label must consist of lower case"),
    (names.wildcard_subdomain, "a.b", r"a wildcard DNS-1123 subdomain must start with '*.', followed"),
    (names.http_header, "a b", "a valid HTTP header must consist of"),
    (names.c_identifier, "1", "a valid C identifier must start with"),
    (names.percent, "10", "a valid percent string must be a numeric string followed by an ending '%'"),
    (names.strict_env_var_name, "1", "a valid environment variable name must consist of alphabetic characters"),
    (names.config_key, "a b", "a valid config key must consist of"),
])
def test_other_rules_complain(rule: object, value: str, start: str) -> None:
    assert rule(value)[0].startswith(start)  # type: ignore[operator]


def test_numbers() -> None:
    assert names.port_number(80) == []
    assert names.port_number(0) == ["must be between 1 and 65535, inclusive"]
    assert names.user_id(2**31) == ["must be between 0 and 2147483647, inclusive"]


def test_generate_name_may_end_with_a_dash() -> None:
    assert names.object_name("web-", prefix=True) == []
    assert names.object_name("web-") != []
    assert names.object_name("web-", "service", prefix=True) == []
    assert names.object_name("a:b", "path") == []


def test_label_and_annotation_maps() -> None:
    errors = names.validate_labels({"a b": "c", "d": "e f"}, "metadata.labels")
    assert [(error.path, error.text.split(":")[1].strip()) for error in errors] == [
        ("metadata.labels", '"a b"'), ("metadata.labels", '"e f"')]
    assert names.validate_annotations({"Example.COM/a": "x y z"}, "metadata.annotations") == []
    big = names.validate_annotations({"a": "x" * 262144}, "metadata.annotations")
    assert [str(error) for error in big] == ["metadata.annotations: Too long: may not be more than 262144 bytes"]


@given(st.text("abc-.", min_size=1, max_size=80), st.integers())
def test_generated_names(base: str, seed: int) -> None:
    name = names.generate_name(base, random.Random(seed))
    assert len(name) <= 63
    assert name[:-5] == base[:58]
    assert set(name[-5:]) <= set(names.SAFE_ALPHABET)


def test_safe_encode_keeps_to_the_alphabet() -> None:
    assert names.safe_encode("0123456789") == "456789bcdf"[:0] + names.safe_encode("0123456789")
    assert set(names.safe_encode("5d41402abc4b")) <= set(names.SAFE_ALPHABET)


@given(st.text(max_size=70))
def test_no_text_surprises_a_rule(text: str) -> None:
    for rule in (names.dns_label, names.dns_subdomain, names.qualified_name, names.label_value, names.port_name,
                 names.env_var_name, names.config_key, names.path_segment, names.ip_address, names.cidr):
        assert all(isinstance(item, str) for item in rule(text))
