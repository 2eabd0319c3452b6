"""Cgroup parents of pods and QoS classes."""
