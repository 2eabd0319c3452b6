"""The node's own port: HTTPS :10250, what upstream's kubelet lets others read of a node."""
