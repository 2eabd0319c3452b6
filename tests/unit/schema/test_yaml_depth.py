"""YAML that is nested without end must not reach PyYAML's composer, which recurses until the process dies."""

import pytest

from master.apiserver.schema.parse import parse
from sampan.api.errors import ApiError


@pytest.mark.parametrize("body", [b"[" * 100_000, b"{a: " * 100_000, b"- " * 100_000, b"? " * 50_000])
def test_deep_nesting_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse(body, "application/yaml")
    assert refused.value.code == 400
    assert "exceeded max depth" in refused.value.message
