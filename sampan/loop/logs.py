"""Log lines: one per event, time first, machine-sortable; plain under systemd, which adds the time itself."""

from __future__ import annotations

import logging
import os
import sys
import time


def setup(level: str = "info") -> None:
    """Write to stderr from now on; `level` is one of debug, info, warning, error."""
    under_journal = "JOURNAL_STREAM" in os.environ
    form = "%(levelname).1s %(name)s: %(message)s"
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(form if under_journal else "%(asctime)s.%(msecs)03dZ " + form, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
