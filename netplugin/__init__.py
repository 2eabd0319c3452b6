"""The network plugin: addresses, a bridge per node, veth pairs, masquerade; `netplugin.protocol` is its public face."""
