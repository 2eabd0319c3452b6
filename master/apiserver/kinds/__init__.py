"""The kinds' own rules: one strategy a kind, one file an API group, and what `kubectl get` shows of each.

`strategies`, `printers` and `SCALE_TABLE` are the only things that the API server needs of this room.
"""

from master.apiserver.kinds.print_tables import SCALE_TABLE
from master.apiserver.kinds.table import DEFAULT_PRINTER, printers, strategies

__all__ = ["DEFAULT_PRINTER", "SCALE_TABLE", "printers", "strategies"]
