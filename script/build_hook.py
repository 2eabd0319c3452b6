"""Hatch build hook: write the API definitions into the package."""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class DefinitionsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Writes sampan/api/definitions.json.z, which the API server reads for validation and OpenAPI."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the file before hatch collects what goes into the wheel."""
        root = Path(self.root)
        sys.path.insert(0, str(root / "script"))
        import definitions  # noqa: PLC0415 - needs the path above

        text = json.dumps(definitions.load(), separators=(",", ":"), sort_keys=True)
        (root / "sampan" / "api" / "definitions.json.z").write_bytes(zlib.compress(text.encode(), 9))
