"""The node itself: what this host has, how it is, and the heartbeat that tells the master."""
