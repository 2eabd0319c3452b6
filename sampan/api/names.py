"""Rules for names, keys and values, with upstream's exact messages.

Each function returns the complaints about one value, an empty list where it is good; callers put them into field
errors. Source: k8s.io/apimachinery/pkg/util/validation and pkg/api/validation, v1.32.
"""

from __future__ import annotations

import ipaddress
import random
import re
from collections.abc import Callable, Mapping
from typing import Final

from sampan.api.errors import FieldError, invalid, too_long

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = _LABEL + r"(\." + _LABEL + ")*"
_WILDCARD: Final = r"\*\." + _SUBDOMAIN
_DNS_1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = "(" + _QUALIFIED + ")?"
_ENV_NAME: Final = "[-._a-zA-Z][-._a-zA-Z0-9]*"
_CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"
_HEADER: Final = "[-A-Za-z0-9]+"
_C_IDENTIFIER: Final = "[A-Za-z_][A-Za-z0-9_]*"
_PERCENT: Final = "[0-9]+%"

_RE_LABEL: Final = re.compile(_LABEL)
_RE_SUBDOMAIN: Final = re.compile(_SUBDOMAIN)
_RE_WILDCARD: Final = re.compile(_WILDCARD)
_RE_DNS_1035: Final = re.compile(_DNS_1035)
_RE_QUALIFIED: Final = re.compile(_QUALIFIED)
_RE_LABEL_VALUE: Final = re.compile(_LABEL_VALUE)
_RE_ENV_NAME: Final = re.compile(_ENV_NAME)
_RE_CONFIG_KEY: Final = re.compile(_CONFIG_KEY)
_RE_HEADER: Final = re.compile(_HEADER)
_RE_C_IDENTIFIER: Final = re.compile(_C_IDENTIFIER)
_RE_PERCENT: Final = re.compile(_PERCENT)

LABEL_LENGTH: Final = 63
SUBDOMAIN_LENGTH: Final = 253
PORT_NAME_LENGTH: Final = 15
ANNOTATIONS_SIZE: Final = 256 * 1024  # bytes, keys and values together
PORTS: Final = (1, 65535)
IDS: Final = (0, 2**31 - 1)

MUST_BE_NON_EMPTY: Final = "must be non-empty"
NOT_NEGATIVE: Final = "must be greater than or equal to 0"

_QUALIFIED_WORDS: Final = ("must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
                           "alphanumeric character")
_QUALIFIED_EXAMPLES: Final = ("MyName", "my.name", "123-abc")

SAFE_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and no digits that look like them: generated names spell no words."""
SUFFIX_LENGTH: Final = 5
GENERATED_BASE_LENGTH: Final = 63 - SUFFIX_LENGTH


def _regex(words: str, pattern: str, *examples: str) -> str:
    """The message of a failed pattern; the spaces are upstream's."""
    if not examples:
        return f"{words} (regex used for validation is '{pattern}')"
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{words} (e.g. {shown}regex used for validation is '{pattern}')"


def _length(limit: int) -> str:
    return f"must be no more than {limit} characters"


def in_range(low: int, high: int) -> str:
    """The message for a number outside a range."""
    return f"must be between {low} and {high}, inclusive"


def _size(value: str) -> int:
    return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))


def dns_label(value: str) -> list[str]:
    """DNS-1123 label: names of namespaces, containers, volumes."""
    problems = [_length(LABEL_LENGTH)] if _size(value) > LABEL_LENGTH else []
    if not _RE_LABEL.fullmatch(value):
        if _RE_SUBDOMAIN.fullmatch(value):
            problems.append("must not contain dots")
        else:
            problems.append(_regex("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or "
                                   "'-', and must start and end with an alphanumeric character", _LABEL,
                                   "my-name", "123-abc"))
    return problems


def dns_subdomain(value: str) -> list[str]:
    """DNS-1123 subdomain: names of most objects."""
    problems = [_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _RE_SUBDOMAIN.fullmatch(value):
        problems.append(_regex("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, "
                               "'-' or '.', and must start and end with an alphanumeric character", _SUBDOMAIN,
                               "example.com"))
    return problems


def wildcard_subdomain(value: str) -> list[str]:
    """``*.example.com``."""
    problems = [_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _RE_WILDCARD.fullmatch(value):
        problems.append(_regex("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS "
                               "subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and "
                               "end with an alphanumeric character", _WILDCARD, "*.example.com"))
    return problems


def dns_1035_label(value: str) -> list[str]:
    """DNS-1035 label: names of Services, which older resolvers must be able to look up."""
    problems = [_length(LABEL_LENGTH)] if _size(value) > LABEL_LENGTH else []
    if not _RE_DNS_1035.fullmatch(value):
        problems.append(_regex("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start "
                               "with an alphabetic character, and end with an alphanumeric character", _DNS_1035,
                               "my-name", "abc-123"))
    return problems


def path_segment(value: str) -> list[str]:
    """Names that only have to fit into a URL's path."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{part}'" for part in ("/", "%") if part in value]


def qualified_name(value: str) -> list[str]:
    """Keys of labels and annotations, names of extended resources: ``example.com/MyName``."""
    problems: list[str] = []
    parts = value.split("/")
    if len(parts) > 2:
        return ["a qualified name " + _regex(_QUALIFIED_WORDS, _QUALIFIED, *_QUALIFIED_EXAMPLES)
                + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    if len(parts) == 2:
        if not parts[0]:
            problems.append("prefix part " + MUST_BE_NON_EMPTY)
        else:
            problems += ["prefix part " + text for text in dns_subdomain(parts[0])]
    name = parts[-1]
    if not name:
        problems.append("name part " + MUST_BE_NON_EMPTY)
    elif _size(name) > LABEL_LENGTH:
        problems.append("name part " + _length(LABEL_LENGTH))
    if not _RE_QUALIFIED.fullmatch(name):
        problems.append("name part " + _regex(_QUALIFIED_WORDS, _QUALIFIED, *_QUALIFIED_EXAMPLES))
    return problems


def label_value(value: str) -> list[str]:
    """Values of labels; empty is fine."""
    problems = [_length(LABEL_LENGTH)] if _size(value) > LABEL_LENGTH else []
    if not _RE_LABEL_VALUE.fullmatch(value):
        problems.append(_regex("a valid label must be an empty string or consist of alphanumeric characters, '-', "
                               "'_' or '.', and must start and end with an alphanumeric character", _LABEL_VALUE,
                               "MyValue", "my_value", "12345"))
    return problems


def port_number(value: int) -> list[str]:
    """TCP and UDP ports."""
    return [] if PORTS[0] <= value <= PORTS[1] else [in_range(*PORTS)]


def user_id(value: int) -> list[str]:
    """User and group ids."""
    return [] if IDS[0] <= value <= IDS[1] else [in_range(*IDS)]


def port_name(value: str) -> list[str]:
    """Names of ports: IANA service names (RFC 6335, section 5.1), in lower case."""
    problems = [_length(PORT_NAME_LENGTH)] if _size(value) > PORT_NAME_LENGTH else []
    if not re.fullmatch("[-a-z0-9]+", value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    if value and (value[0] == "-" or value[-1] == "-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def env_var_name(value: str) -> list[str]:
    """Names of environment variables: any printable ASCII but '=' (KEP-4369)."""
    if not value:
        return ["environment variable name " + MUST_BE_NON_EMPTY]
    if value.isascii() and value.isprintable() and "=" not in value:
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def strict_env_var_name(value: str) -> list[str]:
    """Names of environment variables as they were before KEP-4369; keys of ConfigMaps in envFrom still follow it."""
    problems = []
    if not _RE_ENV_NAME.fullmatch(value):
        problems.append(_regex("a valid environment variable name must consist of alphabetic characters, digits, "
                               "'_', '-', or '.', and must not start with a digit", _ENV_NAME,
                               "my.env-name", "MY_ENV.NAME", "MyEnvName1"))
    return problems + _parent_directory(value)


def config_key(value: str) -> list[str]:
    """Keys of ConfigMaps and Secrets: they become file names."""
    problems = [_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _RE_CONFIG_KEY.fullmatch(value):
        problems.append(_regex("a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
                               _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    return problems + _parent_directory(value)


def _parent_directory(value: str) -> list[str]:
    if value == ".":
        return ["must not be '.'"]
    if value == "..":
        return ["must not be '..'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def http_header(value: str) -> list[str]:
    """Names of HTTP headers in probes."""
    if _RE_HEADER.fullmatch(value):
        return []
    return [_regex("a valid HTTP header must consist of alphanumeric characters or '-'", _HEADER, "X-Header-Name")]


def c_identifier(value: str) -> list[str]:
    """Names that programs may use as variables."""
    if _RE_C_IDENTIFIER.fullmatch(value):
        return []
    return [_regex("a valid C identifier must start with alphabetic character or '_', followed by a string of "
                   "alphanumeric characters or '_'", _C_IDENTIFIER, "my_name", "MY_NAME", "MyName")]


def percent(value: str) -> list[str]:
    """``25%``."""
    if _RE_PERCENT.fullmatch(value):
        return []
    return [_regex("a valid percent string must be a numeric string followed by an ending '%'", _PERCENT,
                   "1%", "93%")]


def ip_address(value: str) -> list[str]:
    """IPv4 and IPv6 addresses, without a zone: it could be any text."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        value = "%"
    return ["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"] if "%" in value else []


def cidr(value: str) -> list[str]:
    """Networks with their prefix length, which is a number: no netmask."""
    address, _, length = value.partition("/")
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        length = ""
    if length.isdecimal() and "%" not in address:
        return []
    return ["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"]


RULES: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "subdomain": dns_subdomain, "label": dns_label, "service": dns_1035_label, "path": path_segment,
}
"""The name rules that a kind's strategy may ask for."""


def object_name(value: str, rule: str = "subdomain", *, prefix: bool = False) -> list[str]:
    """The name of an object, or with `prefix` its generateName, whose trailing dash is fine."""
    if prefix and rule != "path" and len(value) > 1 and value.endswith("-"):
        value = value[:-2] + "a"
    return RULES[rule](value)


def validate_labels(labels: Mapping[str, str], path: str) -> list[FieldError]:
    """Keys and values of a label map."""
    errors: list[FieldError] = []
    for key, value in labels.items():
        errors += [invalid(path, key, text) for text in qualified_name(key)]
        errors += [invalid(path, value, text) for text in label_value(value)]
    return errors


def validate_annotations(annotations: Mapping[str, str], path: str) -> list[FieldError]:
    """Keys of an annotation map (whose case does not matter), and its size."""
    errors: list[FieldError] = []
    size = 0
    for key, value in annotations.items():
        errors += [invalid(path, key, text) for text in qualified_name(key.lower())]
        size += _size(key) + _size(value)
    if size > ANNOTATIONS_SIZE:
        errors.append(too_long(path, ANNOTATIONS_SIZE))
    return errors


def random_suffix(rng: random.Random, length: int = SUFFIX_LENGTH) -> str:
    """Letters for a generated name."""
    return "".join(rng.choices(SAFE_ALPHABET, k=length))


def generate_name(base: str, rng: random.Random) -> str:
    """A name made of generateName and five random letters; the base is cut so that all fits into a label."""
    return base[:GENERATED_BASE_LENGTH] + random_suffix(rng)


def safe_encode(text: str) -> str:
    """Each byte as a letter of the safe alphabet: how controllers write the hash in ``pod-template-hash``."""
    return "".join(SAFE_ALPHABET[byte % len(SAFE_ALPHABET)] for byte in text.encode())
