"""What master, agent and netplugin share: the API's types, the client, loops, certificates and the command."""

__version__ = "0.1.0"
