"""The agent: makes the pods that the master bound to this node real, on the host's Docker Engine."""
