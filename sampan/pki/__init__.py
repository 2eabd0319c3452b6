"""Certificates, keys, kubeconfigs and tokens: who is who in a cluster."""
