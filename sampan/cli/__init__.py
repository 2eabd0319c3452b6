"""The `sampan` command: bring a cluster up on this host, look at it, take it down."""
