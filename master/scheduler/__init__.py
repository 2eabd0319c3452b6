"""The scheduler: finds a node for each pod that has none. Queue → filter → score → reserve → bind."""
