"""One line a step: what was done, how long it took, or why it failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


class CommandError(Exception):
    """A command cannot go on. The message says what failed, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Outcome:
    """What a step says about itself when it ends; "" for the plain success of doing it."""

    def __init__(self) -> None:
        self.text = ""
        self.changed = True

    def unchanged(self, text: str = "nothing to do") -> None:
        """The step found everything as it should be."""
        self.text, self.changed = text, False


class Progress:
    """Prints steps as they happen; remembers whether any of them changed something."""

    def __init__(self, out: TextIO = sys.stdout, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._monotonic = monotonic
        self.changed = False

    @contextmanager
    def step(self, title: str) -> Iterator[Outcome]:
        """Run one step; its line ends with the time it took, also where it fails."""
        started = self._monotonic()
        outcome = Outcome()
        self._out.write(f"{title} … ")
        self._out.flush()
        try:
            yield outcome
        except BaseException:
            self._out.write(f"failed ({self._monotonic() - started:.1f} s)\n")
            raise
        self.changed |= outcome.changed
        self._out.write(f"{outcome.text or 'done'} ({self._monotonic() - started:.1f} s)\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """A line within a step that takes long."""
        self._out.write(f"\n    {text}\n    … ")
        self._out.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._out.write(text + "\n")
        self._out.flush()
