"""What the master's parts tell of themselves, and of the cluster, in Prometheus' terms.

The API server's own counters are in master/apiserver/metrics.py, which also serves everything.
"""
