"""How long to wait before the next try."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays in seconds: `initial`, times `factor` a failure, at most `maximum`, plus up to `jitter` of it.

    The defaults suit a call to a peer; containers and images have their own.
    """

    initial: float = 0.1
    maximum: float = 30.0
    factor: float = 2.0
    jitter: float = 0.1

    def delay(self, failures: int, rng: random.Random | None = None) -> float:
        """Seconds to wait after so many failures in a row; 0 for none."""
        if failures <= 0:
            return 0.0
        base = min(self.maximum, self.initial * self.factor ** min(failures - 1, 64))
        return base * (1 + (rng.random() * self.jitter if rng else 0.0))
