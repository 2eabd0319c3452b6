"""The agent's line to the master: what this node was given to run, and what it reports."""
