"""Controllers: each makes one kind of thing in the cluster fit what its objects say.

A controller is a pure plan (observed objects in, actions out) and a thin `reconcile(key)` around it. It is
level-triggered: what it does follows from how things are, not from what has just happened, so running it twice, or
after a restart, does no harm.
"""
