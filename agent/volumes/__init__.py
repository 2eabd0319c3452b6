"""Volumes of pods: made ready on the host, mounted into containers, taken away afterwards."""
