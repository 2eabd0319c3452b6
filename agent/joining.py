"""The agent's first run on a host: with a token from the operator, get an identity. Nothing else runs yet."""

from __future__ import annotations

from agent import config as settings
from agent.link.bootstrap import JoinRequest, join_with_patience
from agent.link.files import NodeFiles
from agent.link.protocol import JoinError
from sampan.loop.clock import Clock
from sampan.pki.tokens import BootstrapToken


async def join_cluster(config: settings.Config, files: NodeFiles, clock: Clock) -> None:
    """Join as the configuration says; JoinError."""
    if config.bootstrap_token_file is None or not config.server:
        raise JoinError("bootstrap-token-file: this node has not joined yet and needs a token and --server; the master "
                        "prints a join line: sampan token create --print-join-command")
    try:
        words = config.bootstrap_token_file.read_text("utf-8").split()
        token = BootstrapToken.parse(words[0] if words else "")
    except (OSError, ValueError) as error:
        raise JoinError(f"bootstrap-token-file: {config.bootstrap_token_file}: {error}") from error
    ca_hash = config.ca_hash or (words[1] if len(words) > 1 else "")
    if not ca_hash:
        raise JoinError("ca-hash: needed to join; it stands after the token, or is given with --ca-hash")
    files.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    await join_with_patience(JoinRequest(config.server, token, ca_hash, config.node_name), files, clock)
