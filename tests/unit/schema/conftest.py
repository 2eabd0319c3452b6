import pytest

from master.apiserver.schema import SchemaRegistry, load_definitions


@pytest.fixture(scope="session")
def registry() -> SchemaRegistry:
    return SchemaRegistry(load_definitions())
