"""Where the cluster's state is kept: a protocol after etcd's model, and what implements it."""
