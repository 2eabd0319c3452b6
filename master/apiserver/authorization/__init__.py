"""Who may do what: roles, nodes, and the checks that keep anybody from giving away more than they have."""
