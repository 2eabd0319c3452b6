"""The one way to reach the API: a protocol, what implements it, and informers, leases and events upon it."""
