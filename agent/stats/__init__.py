"""What the node, its pods and the agent's own work cost and do. Read when somebody asks; counted as it happens."""
