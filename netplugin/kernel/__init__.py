"""The only room that speaks netlink and runs iptables. Everything in it acts on the process's own namespace."""
