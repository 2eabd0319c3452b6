"""Loops that keep a system in its wanted state. Knows nothing of Kubernetes."""
