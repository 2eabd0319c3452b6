"""Probes: one question to a container, answered by success, failure or unknown."""
