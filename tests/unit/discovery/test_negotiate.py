import pytest
from hypothesis import given
from hypothesis import strategies as st

from master.apiserver.negotiate import Form, Media, negotiate, parse_accept
from sampan.api.errors import ApiError

TABLE = frozenset({Form.PLAIN, Form.TABLE, Form.PARTIAL_LIST})
DISCOVERY = frozenset({Form.DISCOVERY})
KUBECTL_DISCOVERY = ("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,"
                     "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json")
KUBECTL_GET = ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,"
               "application/json")


@pytest.mark.parametrize(("accept", "forms", "form", "version", "encoding"), [
    ("", TABLE, Form.PLAIN, "", "json"), ("*/*", TABLE, Form.PLAIN, "", "json"),
    ("application/*", TABLE, Form.PLAIN, "", "json"), ("application/yaml", TABLE, Form.PLAIN, "", "yaml"),
    ("application/json", TABLE, Form.PLAIN, "", "json"), (KUBECTL_GET, TABLE, Form.TABLE, "v1", "json"),
    (KUBECTL_GET, frozenset(), Form.PLAIN, "", "json"), (KUBECTL_DISCOVERY, DISCOVERY, Form.DISCOVERY, "v2", "json"),
    (KUBECTL_DISCOVERY, TABLE, Form.PLAIN, "", "json"),
    ("application/json; g=meta.k8s.io ;AS=Table; v=v1beta1", TABLE, Form.TABLE, "v1beta1", "json"),
    ("application/json;as=Table;g=meta.k8s.io;v=v9, application/yaml;q=0.5", TABLE, Form.PLAIN, "", "yaml"),
    ("application/vnd.kubernetes.protobuf, application/json", TABLE, Form.PLAIN, "", "json"),
    ("application/vnd.kubernetes.protobuf, */*", TABLE, Form.PLAIN, "", "json"),
    ("application/json;q=0.1,application/yaml;q=0.9", TABLE, Form.PLAIN, "", "yaml"),
    ("*/*, application/yaml", TABLE, Form.PLAIN, "", "yaml"),
    ("application/json;stream=watch", TABLE, Form.PLAIN, "", "json"),
    ("APPLICATION/JSON;charset=utf-8", TABLE, Form.PLAIN, "", "json"),
    ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", TABLE, Form.PARTIAL_LIST, "v1", "json"),
    ("application/json;q=bad", TABLE, Form.PLAIN, "", "json"),
])
def test_choices(accept: str, forms: frozenset[Form], form: Form, version: str, encoding: str) -> None:
    media = negotiate(accept, forms=forms)
    assert (media.form, media.version, media.encoding) == (form, version, encoding)
    if form is not Form.DISCOVERY:
        assert media.content_type == f"application/{encoding}"


def test_discovery_answers_with_its_parameters() -> None:
    assert negotiate(KUBECTL_DISCOVERY, forms=DISCOVERY).content_type == (
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")


@pytest.mark.parametrize("accept", [
    "application/vnd.kubernetes.protobuf", "text/html", "application/json;q=0", "garbage", ",",
    "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=Table;v=v1;g=other",
    "application/json;as=Nope;v=v1;g=meta.k8s.io",
])
def test_refused(accept: str) -> None:
    with pytest.raises(ApiError) as caught:
        negotiate(accept)
    assert (caught.value.code, caught.value.reason) == (406, "NotAcceptable")
    assert str(caught.value) == "only the following media types are accepted: application/json, application/yaml"


def test_yaml_may_be_switched_off() -> None:
    with pytest.raises(ApiError, match=r"media types are accepted: application/json$"):
        negotiate("application/yaml", yaml=False)


def test_pretty() -> None:
    assert negotiate("application/json;pretty=1").pretty
    assert negotiate("application/json") == Media()


@given(st.text("aplicton/js*;,=q0.1 TblvgmekS", max_size=60))
def test_any_header_is_read_or_refused(accept: str) -> None:
    for clause in parse_accept(accept):
        assert 0 < clause.weight <= 1
    try:
        assert negotiate(accept, forms=TABLE).encoding in ("json", "yaml")
    except ApiError as error:
        assert error.code == 406  # noqa: PT017 - both outcomes are right
