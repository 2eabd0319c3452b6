"""A cluster of several nodes on one machine, without virtual machines.

This room plays the hardware. Each host is a network namespace with its own containerd and Docker Engine; a bridge in a
namespace of its own is the switch between them. Inside run the real sampan-master and sampan-agent, started as a host
would start them. It works with the commands that an operator would type (ip, nsenter, iptables, docker) and imports
nothing of master, agent and netplugin.
"""
