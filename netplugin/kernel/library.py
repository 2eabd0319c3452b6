"""The parts of pyroute2 that we use, without those that we do not.

Importing the package itself loads every protocol that it knows and a database on top: 10 MB of memory (measured) in
an agent whose whole budget is 80; the modules below take 5. So the package is entered into sys.modules without its
`__init__` having run. Nothing else in the process may want more of it: only `netplugin.kernel` imports pyroute2.
"""

from __future__ import annotations

import importlib.util
import sys

if "pyroute2" not in sys.modules:
    _spec = importlib.util.find_spec("pyroute2")
    if _spec is None:
        raise ImportError("pyroute2 is not installed: it comes with sampan[agent]")
    sys.modules["pyroute2"] = importlib.util.module_from_spec(_spec)

from pyroute2.iproute.linux import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPRoute", "NetlinkError"]
