"""The only room that touches netlink and iptables."""
