"""What all implementations of the store do alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from master.store.protocol import KeyExists, KeyMissing, Record, RevisionConflict, StoreError


def splice(value: bytes, slot: int | None, revision: int) -> bytes:
    """The value with the revision's digits inserted at `slot`."""
    return value if slot is None else b"%b%d%b" % (value[:slot], revision, value[slot:])


def prefix_end(prefix: str) -> str:
    """The first string after all that begin with the prefix; keys are ASCII. For "" a string after every key."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "\x7f"


class History(Enum):
    """What is known of the past under a prefix."""

    KEPT = "kept"
    NONE = "none"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class Unversioned:
    """The prefixes whose keys keep no history."""

    prefixes: tuple[str, ...] = ()

    def __contains__(self, key: str) -> bool:
        return key.startswith(self.prefixes) if self.prefixes else False

    def history(self, prefix: str) -> History:
        """Whether the keys under a prefix have a past."""
        if prefix in self:
            return History.NONE
        return History.MIXED if any(own.startswith(prefix) for own in self.prefixes) else History.KEPT


@dataclass(frozen=True, slots=True)
class Write:
    """One call to create, update or delete; `expected` is None for a creation, `value` for a deletion."""

    key: str
    value: bytes | None = None
    expected: int | None = None
    slot: int | None = None

    def __post_init__(self) -> None:
        if not self.key or not self.key.isascii():
            raise StoreError(f"{self.key!r} cannot be a key: keys are non-empty ASCII")
        if self.value is not None and self.slot is not None and not 0 <= self.slot <= len(self.value):
            raise StoreError(f"the slot {self.slot} lies outside of the value of {self.key}")


def future_revision(revision: int, current: int) -> StoreError:
    """The refusal of a revision that has not been written yet."""
    return StoreError(f"revision {revision} is in the future: the store is at {current}")


def check(write: Write, current: Record | None) -> None:
    """Compare before set: raise the refusal that the write deserves, if any."""
    if write.expected is None:
        if current is not None:
            raise KeyExists(f"{write.key} exists")
    elif current is None:
        raise KeyMissing(f"{write.key} does not exist")
    elif current.revision != write.expected:
        raise RevisionConflict(current)
