"""The master: the cluster's state, the API to it, the scheduler, the controllers, and the service for nodes."""
