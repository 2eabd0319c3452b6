"""Keeps the cluster's certificates from ending while the master runs: nobody restarts what works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from sampan.loop.clock import Clock
from sampan.pki.ca import CertificateError
from sampan.pki.cluster import ClusterPki

log = logging.getLogger(__name__)

INTERVAL = 24 * 3600.0
"""Seconds between two looks; certificates are renewed months before they end."""


class Renewal:
    """Looks after the certificates once a day. `reload` makes the servers use the new ones for new connections."""

    def __init__(self, pki: ClusterPki, clock: Clock, reload: Callable[[], None]) -> None:
        self._pki = pki
        self._clock = clock
        self._reload = reload
        self._expiries: dict[str, datetime] = pki.expiries()

    def expiries(self) -> Mapping[str, datetime]:
        """When each certificate that is in use ends, by file name."""
        return self._expiries

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(INTERVAL)
            self.check()

    def check(self) -> bool:
        """Renew what ends soon; tells whether anything was. A failure is told, and tried again at the next look."""
        try:
            self._pki.ensure()
            expiries = self._pki.expiries()
            if expiries == self._expiries:  # not what `ensure` says: what it wrote may still have to be loaded
                return False
            self._reload()
        except (CertificateError, OSError) as error:  # ssl.SSLError is an OSError
            log.error("certificates in %s cannot be renewed: %s", self._pki.directory, error)  # noqa: TRY400 - for people
            return False
        self._expiries = expiries
        log.info("certificates renewed in %s", self._pki.directory)
        return True
