"""Docker behind the Engine protocol. The only room that knows the Docker SDK."""

from agent.engine.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
