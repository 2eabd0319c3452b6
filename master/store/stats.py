"""Figures of a store, for metrics and for whoever wonders why it is slow."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Protocol

COMMIT_BUCKETS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096)
"""Upper bounds in seconds, as etcd has them for its commits; a last bucket takes what is slower."""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """A store's figures since it was opened; sizes in bytes, times in seconds."""

    revision: int
    compacted: int
    database_bytes: int
    wal_bytes: int
    free_bytes: int
    """Inside the database file, as of the last look: given back after compactions when it is much."""
    writes: int
    """Successful creates, updates and deletes."""
    commits: int
    """Transactions: writes / commits is how well waiting writes share them."""
    commit_seconds: float
    commit_counts: tuple[int, ...]
    """How many commits took how long: one count for each of COMMIT_BUCKETS, and one for what was slower."""
    checkpoints: int
    failures: int
    """Transactions that were rolled back because the database failed."""


class HasStats(Protocol):
    """A store that counts."""

    def stats(self) -> StoreStats:
        """The figures now."""


class Tally:
    """Counts commits. Written by the writer thread, read by anyone: each figure is one word, so none is torn."""

    def __init__(self) -> None:
        self.writes = 0
        self.commits = 0
        self.commit_seconds = 0.0
        self.commit_counts = [0] * (len(COMMIT_BUCKETS) + 1)
        self.checkpoints = 0
        self.failures = 0
        self.free_bytes = 0

    def committed(self, writes: int, seconds: float) -> None:
        """A transaction with so many writes took so long."""
        self.writes += writes
        self.commits += 1
        self.commit_seconds += seconds
        self.commit_counts[bisect_left(COMMIT_BUCKETS, seconds)] += 1

    def stats(self, *, revision: int, compacted: int, database_bytes: int, wal_bytes: int) -> StoreStats:
        """The figures, with those that the store knows."""
        return StoreStats(revision, compacted, database_bytes, wal_bytes, self.free_bytes, self.writes, self.commits,
                          self.commit_seconds, tuple(self.commit_counts), self.checkpoints, self.failures)
