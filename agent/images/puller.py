"""Has a container's image on the node, as its pull policy says; upstream's imageManager with its events and errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from weakref import WeakValueDictionary

from agent.engine.protocol import Engine, EngineError, EngineUnavailable, Image
from agent.images.credentials import pull_credentials
from agent.images.reference import InvalidReference, Reference, parse
from agent.link.protocol import ClusterView
from sampan.api.types import core_v1
from sampan.loop.clock import Clock

Tell = Callable[[str, str, str], None]
"""Emits an event of a container: type, reason, message."""

INITIAL, MAXIMUM = 10.0, 300.0
RETRY_SOON = 2.0
PARALLEL = 4
"""Pulls at once. Each may hold one of the engine's threads for as long as its registry does not answer."""
REMEMBERED = 256
"""Images that are known to be on the node; others are asked for again."""


class ImageFailure(Exception):
    """The image is not there. `reason` and the message go into the container's status; `retry` is in seconds."""

    def __init__(self, reason: str, message: str, retry: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry = retry


@dataclass(frozen=True, slots=True)
class _Backoff:
    """A pod's image that could not be pulled: no new try before `until`, the next wait is twice `delay` seconds."""

    delay: float
    until: datetime
    error: str


class ImagePuller:
    """Finds and pulls images. Pulls of one image wait for one another; at most `parallel` run at once."""

    def __init__(self, engine: Engine, view: ClusterView, clock: Clock, *, parallel: int = PARALLEL) -> None:
        self._engine = engine
        self._view = view
        self._clock = clock
        self._slots = asyncio.Semaphore(parallel)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._local: dict[str, Image] = {}
        self._backoffs: dict[tuple[str, str], _Backoff] = {}

    async def ensure(self, pod: core_v1.Pod, container: core_v1.Container, tell: Tell) -> Image:
        """The container's image, pulled if need be; ImageFailure where it is not to be had (now)."""
        name = container.image or ""
        try:
            reference = parse(name)
        except InvalidReference as error:
            message = f'Failed to apply default image tag "{name}": {error}'
            tell("Warning", "InspectFailed", message)
            raise ImageFailure("InvalidImageName", message, INITIAL) from error
        policy = container.image_pull_policy or reference.default_policy
        if policy != "Always" and (local := await self.local(reference.pullable)):
            tell("Normal", "Pulled", f'Container image "{name}" already present on machine')
            return local
        if policy == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            tell("Warning", "ErrImageNeverPull", message)
            tell("Warning", "Failed", "Error: ErrImageNeverPull")
            raise ImageFailure("ErrImageNeverPull", message, INITIAL)
        return await self._pull(pod, name, reference, tell)

    async def local(self, reference: str, *, fresh: bool = False) -> Image | None:
        """An image that is on the node; asked for once, until it turns out to be gone (`forget`)."""
        if fresh or reference not in self._local:
            image = await self._engine.image(reference)
            if image is None:
                return None
            self._remember(reference, image)
        return self._local[reference]

    def _remember(self, reference: str, image: Image) -> None:
        self._local[reference] = image
        if len(self._local) > REMEMBERED:
            del self._local[next(iter(self._local))]

    def forget(self, name: str) -> None:
        """The engine does not find an image that we knew."""
        try:
            self._local.pop(parse(name).pullable, None)
        except InvalidReference:
            return

    def forget_pod(self, uid: str) -> None:
        """The pod is gone."""
        for key in [key for key in self._backoffs if key[0] == uid]:
            del self._backoffs[key]

    async def status_id(self, image_id: str) -> str:
        """What a container's status says for an image id: by digest where it came from a registry."""
        image = next((image for image in self._local.values() if image.id == image_id), None)
        if image is None:
            image = await self.local(image_id)
        if image is None or not image.digests:
            return f"docker://{image_id}"
        return f"docker-pullable://{image.digests[0]}"

    async def _pull(self, pod: core_v1.Pod, name: str, reference: Reference, tell: Tell) -> Image:
        key = (pod.metadata.uid, name)
        waiting = self._backoffs.get(key)
        now = self._clock.now()
        if waiting and now < waiting.until <= now + timedelta(seconds=MAXIMUM):  # else the clock was set back
            tell("Normal", "BackOff", f'Back-off pulling image "{name}"')
            tell("Warning", "Failed", "Error: ImagePullBackOff")
            raise ImageFailure("ImagePullBackOff", f'Back-off pulling image "{name}": ErrImagePull: {waiting.error}',
                               (waiting.until - now).total_seconds())
        tell("Normal", "Pulling", f'Pulling image "{name}"')
        asked = self._clock.monotonic()
        try:
            one_by_one = self._locks.setdefault(reference.pullable, asyncio.Lock())
            async with one_by_one, self._slots:
                begun = self._clock.monotonic()
                image = await self._fetch(pod, reference, tell)
        except EngineUnavailable:
            raise
        except EngineError as error:
            self._note(key, waiting, str(error))
            tell("Warning", "Failed", f'Failed to pull image "{name}": {error}')
            tell("Warning", "Failed", "Error: ErrImagePull")
            raise ImageFailure("ErrImagePull", str(error), RETRY_SOON) from error
        self._backoffs.pop(key, None)
        self._remember(reference.pullable, image)
        done = self._clock.monotonic()
        tell("Normal", "Pulled", f'Successfully pulled image "{name}" in {_seconds(done - begun)} '
                                 f"({_seconds(done - asked)} including waiting). Image size: {image.size} bytes.")
        return image

    async def _fetch(self, pod: core_v1.Pod, reference: Reference, tell: Tell) -> Image:
        """Try each credential in turn; without any, ask anonymously."""
        credentials, missing = pull_credentials(pod, reference, self._view)
        if missing:
            tell("Warning", "FailedToRetrieveImagePullSecret",
                 f"Unable to retrieve some image pull secrets ({', '.join(missing)}); attempting to pull the image "
                 "may not succeed.")
        for auth in credentials[:-1]:
            try:
                return await self._engine.pull(reference.pullable, auth)
            except EngineUnavailable:
                raise
            except EngineError:
                continue  # the next credential may fit
        return await self._engine.pull(reference.pullable, credentials[-1] if credentials else None)

    def _note(self, key: tuple[str, str], before: _Backoff | None, error: str) -> None:
        delay = min(MAXIMUM, before.delay * 2) if before else INITIAL
        self._backoffs[key] = _Backoff(delay, self._clock.now() + timedelta(seconds=delay), error)


def _seconds(value: float) -> str:
    """As Go prints a rounded duration: ``312ms``, ``4.071s``, ``1m3.2s``."""
    if value < 1:
        return f"{round(value * 1000)}ms"
    minutes, seconds = divmod(value, 60)
    text = f"{seconds:.3f}".rstrip("0").rstrip(".")
    return f"{int(minutes)}m{text}s" if minutes else f"{text}s"
