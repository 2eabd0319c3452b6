"""Encryption at rest: what is on disk, keys, and values that are not what was written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from master.store.encrypted import EncryptedStore, load_key
from master.store.memory import MemoryStore
from master.store.protocol import StoreError

SECRETS = "/registry/core/secrets/"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "pki" / "encryption.key"


async def test_only_the_prefixes_are_encrypted(key_file: Path) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    await store.create(SECRETS + "a/b", b'{"r":"","p":"hunter2"}', slot=6)
    await store.create("/registry/core/configmaps/a/b", b"plain hunter2")
    secret, config = (await inner.range("/registry/core/secrets")).records[0], await inner.get(
        "/registry/core/configmaps/a/b")
    assert b"hunter2" not in secret.value
    assert config is not None
    assert config.value == b"plain hunter2"
    read = await store.get(SECRETS + "a/b")
    assert read is not None
    assert read.value == b'{"r":"1","p":"hunter2"}'


async def test_a_value_that_is_changed_is_sealed_again(key_file: Path) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    made = await store.create(SECRETS + "a", b"hunter2")
    await store.update(SECRETS + "a", b"hunter3", expected=made.revision)
    plain = await store.create("/registry/core/configmaps/a", b"hunter2")
    await store.update("/registry/core/configmaps/a", b"hunter3", expected=plain.revision)
    sealed, open_ = await inner.get(SECRETS + "a"), await inner.get("/registry/core/configmaps/a")
    assert sealed is not None
    assert open_ is not None
    assert b"hunter" not in sealed.value
    assert open_.value == b"hunter3"
    read = await store.get(SECRETS + "a")
    assert read is not None
    assert read.value == b"hunter3"


async def test_equal_values_look_different(key_file: Path) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    values = {(await store.create(f"{SECRETS}{n}", b"same")).value for n in range(3)}
    sealed = {record.value for record in (await inner.range(SECRETS)).records}
    assert (len(values), len(sealed)) == (1, 3)


async def test_the_key_is_made_once_for_its_owner_alone(key_file: Path) -> None:
    key = load_key(key_file)
    assert len(key) == 32
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert load_key(key_file) == key
    assert [file.name for file in key_file.parent.iterdir()] == ["encryption.key"]
    assert load_key(key_file.with_name("other")) != key


async def test_another_key_is_refused_at_the_start(key_file: Path) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    await store.create(SECRETS + "a", b"hunter2")
    with pytest.raises(StoreError, match=r"was encrypted with the key .* put the right key file back"):
        await EncryptedStore.open(inner, key_file.with_name("other"), [SECRETS])
    await EncryptedStore.open(inner, key_file, [SECRETS])


@pytest.mark.parametrize("damage", [
    lambda sealed: sealed[:-1],
    lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1]),
    lambda sealed: sealed[:15] + bytes([sealed[15] ^ 1]) + sealed[16:],  # the slot
    lambda sealed: sealed[:10],
    lambda sealed: sealed[:20],
])
async def test_a_damaged_value_is_refused(key_file: Path, damage: object) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    await store.create(SECRETS + "a", b"hunter2", slot=0)
    sealed = await inner.get(SECRETS + "a")
    assert sealed is not None
    assert callable(damage)
    await inner.update(SECRETS + "a", damage(sealed.value), expected=1)
    with pytest.raises(StoreError):
        await store.get(SECRETS + "a")


async def test_a_value_moved_to_another_name_is_refused(key_file: Path) -> None:
    inner = MemoryStore()
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    await store.create(SECRETS + "admin", b"hunter2")
    sealed = await inner.get(SECRETS + "admin")
    assert sealed is not None
    await inner.create(SECRETS + "mine", sealed.value)
    with pytest.raises(StoreError, match="belongs to another object"):
        await store.get(SECRETS + "mine")


async def test_values_from_before_encryption_can_be_read(key_file: Path) -> None:
    inner = MemoryStore()
    await inner.create(SECRETS + "a", b'{"old":true}')
    store = await EncryptedStore.open(inner, key_file, [SECRETS])
    assert (await store.range(SECRETS)).records[0].value == b'{"old":true}'


@pytest.mark.parametrize("text", ["", "sampan-encryption-key-v2 AAAA", "sampan-encryption-key-v1 AAAA",
                                  "sampan-encryption-key-v1 !", "é"])
def test_other_files_are_no_keys(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(StoreError, match=str(file)):
        load_key(file)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        load_key(tmp_path / "key")
