"""The node service: what the master says to its agents, and hears from them."""
