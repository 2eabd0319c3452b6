"""The built-in infra image: what holds a pod's namespaces open. No registry and no compiler is needed for it."""

from agent.engine.infra.image import REFERENCE, ensure_infra_image, infra_archive

__all__ = ["REFERENCE", "ensure_infra_image", "infra_archive"]
