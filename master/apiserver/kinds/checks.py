"""Rules for single values, as field errors: the rules themselves are in sampan.api.names."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from master.apiserver.kinds.common import Errors, Tree, items, part
from sampan.api import names, selectors
from sampan.api.errors import forbidden, invalid, not_supported, required
from sampan.api.quantity import to_milli

NEGATIVE = names.NOT_NEGATIVE
PROTOCOLS = ("SCTP", "TCP", "UDP")


def _all(path: str, value: object, messages: list[str]) -> Errors:
    return [invalid(path, value, message) for message in messages]


def dns_label(path: str, value: str) -> Errors:
    """A DNS-1123 label."""
    return _all(path, value, names.dns_label(value))


def dns_subdomain(path: str, value: str) -> Errors:
    """A DNS-1123 subdomain."""
    return _all(path, value, names.dns_subdomain(value))


def qualified_name(path: str, value: str) -> Errors:
    """A key such as example.com/name."""
    return _all(path, value, names.qualified_name(value))


def label_value(value: str) -> list[str]:
    """The messages about a label's value."""
    return names.label_value(value)


def labels(path: str, values: Mapping[str, str]) -> Errors:
    """A map of labels."""
    return names.validate_labels(values, path)


def annotation_map(path: str, values: Mapping[str, str]) -> Errors:
    """A map of annotations."""
    return names.validate_annotations(values, path)


def config_key(path: str, value: str) -> Errors:
    """A key of a ConfigMap or Secret."""
    return _all(path, value, names.config_key(value))


def env_name(path: str, value: str) -> Errors:
    """An environment variable's name."""
    return _all(path, value, names.env_var_name(value))


def http_header(path: str, value: str) -> Errors:
    """An HTTP header's name."""
    return _all(path, value, names.http_header(value))


def port_name(path: str, value: str) -> Errors:
    """A port's name, at most 15 characters."""
    return _all(path, value, names.port_name(value))


def port_number(path: str, value: int) -> Errors:
    """A port's number."""
    return _all(path, value, names.port_number(value))


def port(path: str, value: int | str) -> Errors:
    """A port given by number or by name."""
    return port_name(path, value) if isinstance(value, str) else port_number(path, value)


def protocol(path: str, value: str) -> Errors:
    """A transport protocol."""
    if value in PROTOCOLS:
        return []
    return [not_supported(path, value, PROTOCOLS) if value else required(path)]


def nonnegative(path: str, value: int) -> Errors:
    """A number that may not be negative."""
    return [] if value >= 0 else [invalid(path, value, NEGATIVE)]


def amount(text: str | int) -> int:
    """A quantity in thousandths, to compare and to see fractions."""
    return to_milli(str(text))


def ip(path: str, value: str) -> Errors:
    """An IPv4 or IPv6 address."""
    return _all(path, value, names.ip_address(value))


def cidr(path: str, value: str) -> Errors:
    """A network."""
    return _all(path, value, names.cidr(value))


def family(path: str, value: str, version: int) -> Errors:
    """An address of one family; `version` is 4 or 6."""
    good = not names.ip_address(value) and ipaddress.ip_address(value).version == version
    return [] if good else [invalid(path, value, f"must be a valid IPv{version} address")]


def non_special_ip(path: str, value: str) -> Errors:
    """An address that can be somebody else's: not unspecified, loopback, or link-local."""
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return [invalid(path, value, "must be a valid IP address")]
    multicast = (ipaddress.ip_network("224.0.0.0/24") if address.version == 4
                 else ipaddress.ip_network("ff02::/16"))
    for wrong, message in (
        (address.is_unspecified, f"may not be unspecified ({value})"),
        (address.is_loopback, "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        (address.is_link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (address in multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"),
    ):
        if wrong:
            return [invalid(path, value, message)]
    return []


def no_backsteps(path: str, value: str) -> Errors:
    """A path without `..` between slashes."""
    return [invalid(path, value, "must not contain '..'")] if ".." in value.split("/") else []


def descending_path(path: str, value: str) -> Errors:
    """A relative path that stays below where it starts."""
    absolute = [invalid(path, value, "must be a relative path")] if value.startswith("/") else []
    return absolute + no_backsteps(path, value)


def local_path(path: str, value: str) -> Errors:
    """The same, and not one of the names that the agent keeps for itself (`..data`)."""
    errors = descending_path(path, value)
    if value.startswith("..") and value != ".." and not value.startswith("../"):
        errors.append(invalid(path, value, "must not start with '..'"))
    return errors


def label_selector(path: str, selector: Tree) -> Errors:
    """A LabelSelector."""
    errors = labels(f"{path}.matchLabels", part(selector, "matchLabels"))
    for index, expression in enumerate(items(selector, "matchExpressions")):
        at = f"{path}.matchExpressions[{index}]"
        operator, values = expression.get("operator") or "", items(expression, "values")
        if operator in ("In", "NotIn"):
            if not values:
                errors.append(required(f"{at}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                errors.append(forbidden(f"{at}.values",
                                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
        else:
            errors.append(invalid(f"{at}.operator", operator, "not a valid selector operator"))
        errors += qualified_name(f"{at}.key", expression.get("key") or "")
        for number, value in enumerate(values):
            errors += _all(f"{at}.values[{number}]", value, names.label_value(value))
    return errors


def selects(selector: Tree, found: Mapping[str, str]) -> bool:
    """Whether a LabelSelector matches labels; a malformed one matches nothing."""
    try:
        return selectors.of_object(selector).matches(found)
    except selectors.SelectorError:
        return False
