"""What the agent's pods need of the network: it is set up from the Node, and follows the other nodes."""
