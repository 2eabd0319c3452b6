"""EndpointSlices of Endpoints that somebody wrote by hand, carried out."""

from __future__ import annotations

from master.controllers import mirroring_plan as plans
from master.controllers.base import Controller, Deps, Key, ignore_missing, namespace_terminating
from master.controllers.endpoints_plan import MANAGED_BY, SERVICE_LABEL, SlicePlan
from master.controllers.expectations import Expectations
from sampan.api.errors import ApiError
from sampan.api.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES
from sampan.api.types.core_v1 import Endpoints
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.client.informer import either, key_of
from sampan.loop.reconcile import Retry


class MirroringController(Controller[Key]):
    """A key is the namespace and name of Endpoints, which are those of their Service."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("endpointslice-mirroring", deps, component="endpoint-slice-mirroring-controller")
        informers = deps.informers
        self._services, self._endpoints = informers.get(SERVICES), informers.get(ENDPOINTS)
        self._slices = informers.get(ENDPOINTSLICES)
        self._slices.add_indexer("mirror", _mirror_of)
        self._written: Expectations[Key] = Expectations(self._slices, deps.clock)
        self._services.add_handler(lambda old, new: self.queue.add(key_of(either(old, new))))
        self._endpoints.add_handler(lambda old, new: self.queue.add(key_of(either(old, new))))
        self._slices.add_handler(self._slice_changed)

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        for item in filter(None, (old, new)):  # somebody may have taken its label away
            for name in _mirror_of(item):
                self.queue.add((item.metadata.namespace, name.partition("/")[2]))

    async def reconcile(self, key: Key) -> None:
        """Make the slices say what the Endpoints say, or take them away."""
        endpoints, service = self._endpoints.get(key[1], key[0]), self._services.get(key[1], key[0])
        present = [item for item in self._slices.by_index("mirror", "/".join(key))
                   if item.metadata.deletion_timestamp is None]
        if endpoints is None or not plans.is_mirrored(endpoints, service):
            await self._carry_out(key, SlicePlan(delete=present))
            self._written.forget(key)
            return
        if self._written.pending(key):
            raise Retry("its slices are not up to date yet", after=1.0)
        wanted = plans.read(endpoints)
        plan = plans.plan(endpoints, wanted, present)
        if not plan.empty:
            self._tell(endpoints, wanted)
        try:
            await self._carry_out(key, plan)
        except ApiError as error:
            if not namespace_terminating(error):
                raise

    def _tell(self, endpoints: Endpoints, wanted: plans.Wanted) -> None:
        if wanted.invalid:
            self.deps.events.warning(endpoints, "InvalidIPAddress", f"Skipped {wanted.invalid} invalid IP addresses "
                                     "when mirroring to EndpointSlices")
        if wanted.skipped:
            self.deps.events.warning(endpoints, "TooManyAddressesToMirror", f"A max of {plans.MOST} addresses can be "
                                     "mirrored to EndpointSlices per Endpoints subset. "
                                     f"{wanted.skipped} addresses were skipped")

    async def _carry_out(self, key: Key, plan: SlicePlan) -> None:
        client = self.deps.client
        for item in plan.create:
            created = await client.create(ENDPOINTSLICES, item)
            self._written.wrote(key, created)
        for item in plan.update:
            updated = await client.update(ENDPOINTSLICES, item)
            self._written.wrote(key, updated)
        for item in plan.delete:
            await ignore_missing(client.delete(ENDPOINTSLICES, item.metadata.name, key[0]))
            self._written.deleted(key, item)


def _mirror_of(item: EndpointSlice) -> list[str]:
    labels = item.metadata.labels
    if labels.get(MANAGED_BY) != plans.MANAGER or SERVICE_LABEL not in labels:
        return []
    return [f"{item.metadata.namespace}/{labels[SERVICE_LABEL]}"]
