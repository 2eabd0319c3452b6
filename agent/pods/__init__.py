"""Pods: from an object and what Docker runs to the next step, and to a status."""
