"""Services: from the master's Services and EndpointSlices to rules in this node's kernel."""
