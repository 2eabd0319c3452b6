"""sampan-netplugin: the network plugin as a CNI executable."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from netplugin.cni import spec
from netplugin.cni.spec import CniError


def main() -> int:
    """One command, from the environment and standard input to standard output."""
    if not os.environ.get("CNI_COMMAND") and sys.stdin.isatty():
        print(f"sampan-netplugin is a CNI plugin, for container runtimes; it speaks CNI {', '.join(spec.VERSIONS)}",
              file=sys.stderr)
        return 0
    version = spec.LATEST
    try:
        request = spec.read_request(os.environ, sys.stdin.read())
        if request.version in spec.VERSIONS:
            version = request.version
        result = answer(request)
    except CniError as error:
        _print(spec.error_result(error, version))
        return 1
    except Exception as error:  # noqa: BLE001 - runtimes know no other failures than the specification's
        _print(spec.error_result(CniError(spec.INTERNAL, f"{type(error).__name__}: {error}"), version))
        return 1
    if result is not None:
        _print(result)
    return 0


def answer(request: spec.Request) -> Mapping[str, Any] | None:
    """What the command returns; None for those that say nothing when they succeed."""
    if request.command == "VERSION":
        return spec.version_result(request.config)
    from netplugin.cni.settings import settings  # noqa: PLC0415 - see spec

    if request.command == "STATUS":
        settings(request.config)
        return None
    from netplugin.cni import commands  # noqa: PLC0415 - netlink, the event loop

    return commands.run(request, settings(request.config, needed=request.command == "ADD"))


def _print(result: Mapping[str, Any]) -> None:
    print(json.dumps(result, indent=4))


if __name__ == "__main__":
    sys.exit(main())
