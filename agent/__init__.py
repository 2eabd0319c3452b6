"""The agent: makes the pods that the master bound to this node real, on the host's Docker Engine."""

import os

# gRPC's fork handlers are for children that go on to use gRPC. The agent's children (iptables, busctl, mount) only
# exec, and some of them died in those handlers before they came to it ("Check failed: next_worker->state == KICKED").
# gRPC reads this when it is imported, so it is set before anything of the agent is.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
