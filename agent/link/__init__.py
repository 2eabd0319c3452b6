"""The agent's end of the line to the master."""
