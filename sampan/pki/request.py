"""Make a key and a certificate request in a process of its own: `python -m sampan.pki.request USER GROUP NAME...`.

What makes them takes 8 MB that a long-running process would keep for ever, for something done once a year.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

from sampan.pki.pair import CertificateError

TIMEOUT = 60.0
"""Seconds that making it may take: a busy small host starts an interpreter slowly."""
_REQUEST = b"-----BEGIN CERTIFICATE REQUEST-----"


async def key_and_request(user: str, group: str, names: Sequence[str]) -> tuple[bytes, bytes]:
    """A new key and a request for a server's certificate with it, both PEM; CertificateError where it fails."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", __name__, user, group, *names,
                                                   stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError as error:
        raise CertificateError(f"making a certificate request took more than {TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    key, found, request = output.partition(_REQUEST)
    if process.returncode != 0 or not found:
        words = errors.decode(errors="replace").strip().splitlines()
        raise CertificateError(f"a certificate request could not be made: {words[-1] if words else 'no output'}")
    return key, found + request


def main(arguments: Sequence[str]) -> int:
    """Write the key, then the request."""
    from sampan.pki import ca  # noqa: PLC0415 - only in the process that is made for it

    user, group, *names = arguments
    key = ca.new_key()
    request = ca.make_request(key, ca.Identity(user, (group,)), names)
    sys.stdout.write((key + request).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
