"""Deployments, carried out."""

from __future__ import annotations

from msgspec.structs import replace

from master.controllers import rollout as sums
from master.controllers.base import Controller, Deps, Key, ignore_missing, namespace_terminating
from master.controllers.deployment_plan import Plan, create_failed, plan
from master.controllers.expectations import Expectations
from master.controllers.owners import by_controller, claim, controller_of, orphans, plan_claims
from master.controllers.pods import is_terminal
from sampan.api.errors import ApiError
from sampan.api.resources import DEPLOYMENTS, PODS, REPLICASETS
from sampan.api.selectors import of_object
from sampan.api.types.apps_v1 import Deployment, DeploymentStatus, ReplicaSet
from sampan.api.types.core_v1 import Pod
from sampan.client.informer import either, key_of
from sampan.client.protocol import DeleteOptions, Patch
from sampan.loop.reconcile import Retry


class DeploymentController(Controller[Key]):
    """Rolls pod templates out, through ReplicaSets."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("deployment", deps, workers=5)
        self._deployments = deps.informers.get(DEPLOYMENTS)
        self._sets = deps.informers.get(REPLICASETS)
        self._pods = deps.informers.get(PODS)
        self._deployments.add_indexer("namespace", lambda item: [item.metadata.namespace])
        self._sets.add_indexer("controller", by_controller)
        self._sets.add_indexer("uid", lambda rs: [rs.metadata.uid])
        self._pods.add_indexer("controller", by_controller)
        self._expected: Expectations[Key] = Expectations(self._sets, deps.clock)
        self._deployments.add_handler(lambda old, new: self.queue.add(key_of(either(old, new))))
        self._sets.add_handler(self._set_changed)
        self._pods.add_handler(self._pod_changed)

    def _set_changed(self, old: ReplicaSet | None, new: ReplicaSet | None) -> None:
        for rs in (old, new):
            owner = controller_of(rs) if rs is not None else None
            if rs is not None and owner is not None and owner.kind == "Deployment":
                self.queue.add((rs.metadata.namespace, owner.name))
        if new is not None and controller_of(new) is None and new.metadata.labels:
            for deployment in self._deployments.by_index("namespace", new.metadata.namespace):
                if of_object(deployment.spec.selector).matches(new.metadata.labels):
                    self.queue.add(key_of(deployment))

    def _pod_changed(self, old: Pod | None, new: Pod | None) -> None:
        """Recreate waits for the last old pod to end."""
        if old is None or (new is not None and not is_terminal(new)):
            return
        holder = controller_of(old)
        for rs in self._sets.by_index("uid", holder.uid) if holder is not None else ():
            owner = controller_of(rs)
            deployment = self._deployments.get(owner.name, rs.metadata.namespace) if owner is not None else None
            if deployment is not None and not sums.is_rolling(deployment):
                self.queue.add(key_of(deployment))

    async def reconcile(self, key: Key) -> None:
        """Claim ReplicaSets, then do the next step."""
        namespace, name = key
        deployment = self._deployments.get(name, namespace)
        if deployment is None:
            self._expected.forget(key)
            return
        if self._expected.pending(key):
            raise Retry("its ReplicaSets are not up to date yet", after=1.0)
        selector = of_object(deployment.spec.selector)
        if selector.empty:
            await self._refuse_everything(deployment)
            return
        candidates = [rs for value in (deployment.metadata.uid, orphans(namespace))
                      for rs in self._sets.by_index("controller", value)]
        sets = await claim(self.deps.client, REPLICASETS, deployment, DEPLOYMENTS,
                           plan_claims(deployment, selector, candidates))
        steps = plan(deployment, sets, self.deps.clock.now(), old_pods=self._old_pods(deployment, sets))
        await self._carry_out(key, deployment, steps)
        if steps.again is not None:
            self.queue.add_after(key, steps.again)

    def _old_pods(self, deployment: Deployment, sets: list[ReplicaSet]) -> bool:
        if sums.is_rolling(deployment):
            return False
        new = sums.find_new(deployment, sets)
        return any(not is_terminal(pod) for rs in sets if rs is not new
                   for pod in self._pods.by_index("controller", rs.metadata.uid))

    async def _carry_out(self, key: Key, deployment: Deployment, steps: Plan) -> None:
        if steps.create is not None and not await self._create(key, deployment, steps.create):
            return
        for rs in steps.update:
            updated = await self.deps.client.update(REPLICASETS, rs)
            self._expected.wrote(key, updated)
        for message in steps.events:
            self.deps.events.normal(deployment, "ScalingReplicaSet", message)
        for rs in steps.delete:
            options = DeleteOptions(propagation="Background", uid=rs.metadata.uid)
            if await ignore_missing(self.deps.client.delete(REPLICASETS, rs.metadata.name, key[0], options)):
                self._expected.deleted(key, rs)
        if steps.revision:
            patch = Patch("merge", {"metadata": {"annotations": {sums.REVISION: steps.revision}}})
            deployment = await self.deps.client.patch(DEPLOYMENTS, key[1], patch, key[0])
        if steps.status is not None:
            await self._write_status(deployment, steps.status)

    async def _write_status(self, deployment: Deployment, status: DeploymentStatus) -> None:
        await ignore_missing(self.deps.client.update(DEPLOYMENTS, replace(deployment, status=status),
                                                     subresource="status"))

    async def _create(self, key: Key, deployment: Deployment, rs: ReplicaSet) -> bool:
        """Create the newest ReplicaSet; False where there is nothing more to do for now."""
        try:
            created = await self.deps.client.create(REPLICASETS, rs)
        except ApiError as error:
            if error.is_already_exists:
                await self._collided(deployment, rs)
                return False
            if namespace_terminating(error):
                return False
            message = f'Failed to create new replica set "{rs.metadata.name}": {error}'
            self.deps.events.warning(deployment, "ReplicaSetCreateError", message)
            status = create_failed(deployment, message, self.deps.clock.now())
            if status is not None:
                await self._write_status(deployment, status)
            raise
        self._expected.wrote(key, created)
        return True

    async def _collided(self, deployment: Deployment, rs: ReplicaSet) -> None:
        """The name is taken: by this very ReplicaSet, not seen yet, or by one whose template has the same hash."""
        there = await self.deps.client.get(REPLICASETS, rs.metadata.name, rs.metadata.namespace)
        owner = controller_of(there)
        if owner is not None and owner.uid == deployment.metadata.uid and sums.same_template(
                there.spec.template, rs.spec.template):
            self._expected.wrote(key_of(deployment), there)
            raise Retry("the ReplicaSet is there already")
        count = (deployment.status.collision_count or 0) + 1
        await self._write_status(deployment, replace(deployment.status, collision_count=count))

    async def _refuse_everything(self, deployment: Deployment) -> None:
        self.deps.events.warning(deployment, "SelectingAll", "This deployment is selecting all pods. A non-empty "
                                                             "selector is required.")
        if (deployment.status.observed_generation or 0) < (deployment.metadata.generation or 0):
            await self._write_status(deployment, replace(deployment.status,
                                                         observed_generation=deployment.metadata.generation))
