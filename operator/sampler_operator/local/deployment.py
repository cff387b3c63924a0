"""A Deployment on this machine: makes the pods that ``rollout`` decides, and says how it goes."""

import asyncio
import logging
import random
import string
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from .. import names
from ..objects import Manifest, digest
from .places import Places
from .pod import Machine, Pod
from .rollout import PodState, Wanted, next_step
from .rollout_status import Progress, status_of

__all__ = ["LocalDeployment"]

log = logging.getLogger(__name__)

_HASH_DIGITS: Final = 10
_SUFFIX_LETTERS: Final = 5
_FAILED_SECONDS: Final = 2.0


class LocalDeployment:
    """All pods of a fleet. ``on_change`` is called when one of them, or the status, has changed;
    ``config_maps`` is looked into when a pod starts."""

    def __init__(
        self,
        machine: Machine,
        config_maps: Mapping[str, Mapping[str, str]],
        on_change: Callable[[], None],
    ) -> None:
        self.pods: dict[str, Pod] = {}
        self.places = Places()
        """For pods that are still to be made."""
        self.device_resource = ""
        self._machine = machine
        self._config_maps = config_maps
        self._on_change = on_change
        self._manifest: Manifest | None = None
        self._templates: dict[str, Manifest] = {}
        self._template = ""
        self._released: tuple[str, ...] = ()
        self._numbers: dict[str, int] = {}
        self._made = 0
        self._ready_since: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._progress = Progress()
        self._look: asyncio.TimerHandle | None = None

    def update(self, manifest: Manifest) -> None:
        """This is the Deployment now."""
        template = manifest["spec"]["template"]
        self._manifest = manifest
        self._template = digest(template)[:_HASH_DIGITS]
        self._templates[self._template] = template
        if not manifest["spec"].get("paused") and self._template not in self._released:
            self._released = (*self._released, self._template)
        self._changed()

    def status(self) -> Manifest:
        """Counts and conditions, as of a cluster."""
        if self._manifest is None:
            return {}
        spec = self._manifest["spec"]
        return status_of(
            spec,
            Wanted.of(spec, self._template, self._released),
            self._states(),
            int(self._manifest["metadata"]["generation"]),
            self._progress,
            time.monotonic(),
        )

    async def close(self) -> None:
        """Let all pods leave, and wait for them."""
        self._manifest = None
        if self._look is not None:
            self._look.cancel()
        for pod in list(self.pods.values()):
            pod.leave()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def kill(self) -> None:
        """End all pods at once."""
        self._manifest = None
        for pod in list(self.pods.values()):
            pod.kill()

    def _states(self) -> list[PodState]:
        assert self._manifest is not None
        now = time.monotonic()
        least = self._manifest["spec"].get("minReadySeconds", 0)
        states = []
        for name, pod in self.pods.items():
            view = pod.view
            since = self._ready_since.get(name)
            states.append(
                PodState(
                    name=name,
                    template=view.template,
                    number=self._numbers[name],
                    is_ready=view.is_ready,
                    is_available=since is not None and now - since >= least,
                    is_leaving=view.is_leaving,
                )
            )
        return states

    def _changed(self) -> None:
        now = time.monotonic()
        for name, pod in self.pods.items():
            if not pod.view.is_ready:
                self._ready_since.pop(name, None)
            else:
                self._ready_since.setdefault(name, now)
        if self._manifest is not None:
            self._act(self._manifest)
        self._on_change()

    def _act(self, manifest: Manifest) -> None:
        wanted = Wanted.of(manifest["spec"], self._template, self._released)
        while step := next_step(wanted, self._states()):
            for name in step.leaving:
                # Its own news of leaving would come back here in the midst of this loop.
                log.info("pod %s leaves", name)
                self.pods[name].leave()
            for _ in range(step.count):
                self._start(step.template)
        self._progress.saw(wanted, self._states(), time.monotonic())
        self._look_again(manifest)

    def _look_again(self, manifest: Manifest) -> None:
        """Time alone makes pods available, and rollouts late."""
        if self._look is not None:
            self._look.cancel()
        now, spec = time.monotonic(), manifest["spec"]
        dues = [since + spec.get("minReadySeconds", 0) for since in self._ready_since.values()]
        dues.append(self._progress.since + spec.get("progressDeadlineSeconds", 600))
        later = [due - now for due in dues if due > now]
        self._look = None
        if later:
            loop = asyncio.get_running_loop()
            self._look = loop.call_later(min(later) + 0.01, self._changed)

    def _start(self, template_hash: str) -> None:
        assert self._manifest is not None
        fleet = self._manifest["metadata"]
        suffix = "".join(random.choices(string.ascii_lowercase + string.digits, k=_SUFFIX_LETTERS))
        name = f"{fleet['name']}-{template_hash}-{suffix}"
        pod = Pod(
            _pod_manifest(name, fleet["namespace"], template_hash, self._templates[template_hash]),
            self._machine,
            self.places,
            _devices(self._templates[template_hash]["spec"], self.device_resource),
            self.device_resource,
            self._config_maps,
            self._soon_changed,
        )
        self._made += 1
        self._numbers[name] = self._made
        self.pods[name] = pod
        task = asyncio.create_task(pod.run(), name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))
        log.info("pod %s starts, log %s", name, pod.log)

    def _soon_changed(self) -> None:
        asyncio.get_running_loop().call_soon(self._changed)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        for known in (self.pods, self._tasks, self._numbers, self._ready_since):
            known.pop(name, None)
        if error is None:
            log.info("pod %s has ended", name)
            self._changed()
        else:
            log.error("pod %s failed", name, exc_info=error)
            # Whatever it was, the next pod may meet it too.
            asyncio.get_running_loop().call_later(_FAILED_SECONDS, self._changed)


def _devices(pod_spec: Mapping[str, Any], resource: str) -> int:
    limits = (
        container.get("resources", {}).get("limits", {}) for container in pod_spec["containers"]
    )
    return sum(int(each.get(resource, 0)) for each in limits)


def _pod_manifest(
    name: str, namespace: str, template_hash: str, template: Mapping[str, Any]
) -> Manifest:
    meta = template["metadata"]
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "labels": {**meta.get("labels", {}), names.TEMPLATE_HASH_LABEL: template_hash},
            "annotations": dict(meta.get("annotations", {})),
        },
        "spec": template["spec"],
    }
