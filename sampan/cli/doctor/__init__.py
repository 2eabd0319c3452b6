"""`sampan doctor`: what breaks clusters on hosts, and the commands that mend it.

`gather` has `looks` at the host, once, each with its time limit; what they find are `facts`, read by `parse`. `checks`
and `firewall` judge them, purely: a check is a function of the facts that yields findings. `findings` prints them.
"""
