"""The cluster's DNS, in every agent: answers the cluster domain from the agent's view, forwards the rest."""
