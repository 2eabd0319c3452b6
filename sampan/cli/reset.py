"""`sampan reset`: undo `sampan join`. What the agent made goes, and the host can join this or another cluster."""

from __future__ import annotations

from sampan.cli import configure, trees
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError, Progress
from sampan.cli.units import Units
from sampan.cli.up import take_away


def reset(paths: Paths, units: Units, progress: Progress, *, force: bool = False) -> None:
    """Stop the agent; remove containers, bridge, VXLAN device, rules, volumes, identity and configuration.

    With `force` files go even where containers cannot be removed, because Docker is gone. CommandError.
    """
    if paths.master_config.exists():
        raise CommandError("this host runs the master", "take the whole cluster away: sampan down --purge")
    name = node_name(paths)
    with progress.step("Stop the agent") as outcome:
        if not units.stop("agent"):
            outcome.unchanged("was not running")
    with progress.step("Remove containers, network and volumes") as outcome:
        if not paths.agent_config.exists():
            outcome.unchanged("this host has joined no cluster")
        else:
            take_away(paths, outcome, force=force)
    with progress.step("Remove identity, state and configuration") as outcome:
        if not remove_files(paths):
            outcome.unchanged()
    if name:
        progress.say(f"The cluster still has the Node: kubectl delete node {name}")


def node_name(paths: Paths) -> str:
    """What this host is called in its cluster, "" where it is in none."""
    return str(configure.read(paths.agent_config).get("node-name", "")) if paths.agent_config.exists() else ""


def remove_files(paths: Paths) -> bool:
    """Everything of the agent's; images to be loaded stay. Tells whether there was anything."""
    found = False
    trees.unmount(paths.pods)
    for path in (paths.agent_config, paths.bootstrap_token, paths.data / "agent", paths.run,
                 *paths.log.glob("agent.log*")):
        if path.is_dir():
            trees.remove(path)
        elif path.exists():
            path.unlink()
        else:
            continue
        found = True
    for folder in (paths.config, paths.log):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return found
