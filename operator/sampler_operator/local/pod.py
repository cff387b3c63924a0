"""A pod on this machine: devices and directories first, then its containers."""

import asyncio
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from sampler_api.fleet import LocalReplica
from sampler_api.names import DATA_PORT_NAME, ENV_TERMINATION_LOG

from .. import names
from ..objects import Manifest
from ..observed import ConditionView, ContainerView, PodView
from ..ports import Event
from .command import HOST, arguments, environment
from .container import Container, Launch
from .devices import DEVICES_VARIABLE, Devices
from .folders import Folder
from .places import Places
from .ports import Ports, are_free, port_map
from .volumes import Volumes

__all__ = ["Machine", "Pod"]

_DEVICE_SECONDS: Final = 0.5
_WARNINGS: Final = 20


@dataclass(frozen=True, slots=True)
class Machine:
    """What the pods of a fleet share; ``environment`` is below each pod's own."""

    folder: Folder
    devices: Devices
    ports: Ports
    client: httpx.AsyncClient
    environment: Mapping[str, str]
    kept: Mapping[str, Path]
    """Volumes that outlive pods."""


class Pod:
    """One pod; ``run`` is its life. It needs ``devices`` free ones of ``resource``.
    ``config_maps``: content by name, as of now."""

    def __init__(
        self,
        manifest: Manifest,
        machine: Machine,
        places: Places,
        devices: int,
        resource: str,
        config_maps: Mapping[str, Mapping[str, str]],
        on_change: Callable[[], None],
    ) -> None:
        self.manifest = manifest
        self.name = str(manifest["metadata"]["name"])
        self.warnings: list[Event] = []
        self._machine = machine
        self._places = places
        self._config_maps = config_maps
        self._on_change = on_change
        self._spec: Manifest = manifest["spec"]
        self._devices = devices
        self._resource = resource
        self._device_names: tuple[str, ...] | None = None
        self._problem = ""
        self._port_map: dict[int, int] = {}
        self._is_leaving = asyncio.Event()
        self._created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        suffix = self.name.rpartition("-")[2]
        self._own = machine.folder.pods / suffix
        scratch = machine.folder.scratch(suffix)
        self._volumes = Volumes(self._spec, places, self._own, scratch, machine.kept)
        self._log = machine.folder.log_of(self.name)
        self._init = [self._container(c, True) for c in self._spec.get("initContainers") or ()]
        self._main = [self._container(c, False) for c in self._spec["containers"]]

    # -- what is seen of it ------------------------------------------------------------------------

    @property
    def view(self) -> PodView:
        """As of a cluster."""
        meta = self.manifest["metadata"]
        containers = tuple(c.view for c in (*self._init, *self._main))
        main = [c.view for c in self._main]
        is_ready = all(c.is_ready for c in main)
        has_place = self._device_names is not None
        conditions = {
            "PodScheduled": ConditionView("True")
            if has_place
            else ConditionView("False", "Unschedulable", self._problem),
            "Ready": ConditionView("True" if is_ready else "False"),
        }
        has_begun = any(c.is_running or c.restarts or c.ended_code is not None for c in main)
        return PodView(
            name=self.name,
            uid=meta["uid"],
            fleet=meta["labels"].get(names.FLEET_LABEL, ""),
            template=meta["labels"].get(names.TEMPLATE_HASH_LABEL, ""),
            created=self._created,
            phase="Running" if has_begun else "Pending",
            ip=HOST if has_place else "",
            manage_port=self._port_map.get(names.manage_port(), 0),
            node=platform.node() if has_place else "",
            is_ready=is_ready,
            is_leaving=self._is_leaving.is_set(),
            adapters_hash=meta["annotations"].get(names.ADAPTERS_HASH, ""),
            conditions=conditions,
            containers=containers if has_place else tuple(map(_waiting, containers)),
        )

    @property
    def replica(self) -> LocalReplica:
        """Its data ports."""
        server = next(c for c in self._spec["containers"] if c["name"] == names.CONTAINER)
        scheme = "https" if "--tls-cert" in server["args"] else "http"
        numbers = [
            port["containerPort"]
            for port in server["ports"]
            if port["name"].partition("-")[0] == DATA_PORT_NAME
        ]
        urls = tuple(f"{scheme}://{HOST}:{self._port_map[number]}" for number in numbers)
        return LocalReplica(self.name, urls)

    @property
    def log(self) -> Path:
        """What its containers print."""
        return self._log

    @property
    def pid(self) -> int:
        """The process of its server; 0 while there is none."""
        return next((c.pid for c in self._main if c.name == names.CONTAINER), 0)

    # -- what is done with it ----------------------------------------------------------------------

    async def run(self) -> None:
        """From the first container to the last trace."""
        try:
            if not await self._get_devices():
                return
            self._own.mkdir(parents=True)
            self._volumes.make(self._places, self._config_maps)
            for container in self._init:
                if not await container.run_until_success():
                    return
            async with asyncio.TaskGroup() as tasks:
                for container in self._main:
                    tasks.create_task(container.run())
        finally:
            for container in (*self._init, *self._main):
                container.kill()
            self._volumes.remove()
            self._machine.ports.give_back(self._port_map.values())
            self._machine.devices.give_back(self._device_names or ())

    def leave(self) -> None:
        """End it in good order."""
        if not self._is_leaving.is_set():
            self._is_leaving.set()
            for container in (*self._init, *self._main):
                container.leave()
            self._on_change()

    def kill(self) -> None:
        """End it at once."""
        self.leave()
        for container in (*self._init, *self._main):
            container.kill()

    def annotate(self, annotations: Mapping[str, str]) -> None:
        """Merge annotations."""
        self.manifest["metadata"]["annotations"].update(annotations)

    def update_config_map(self, name: str, content: Mapping[str, str]) -> None:
        """A ConfigMap has changed. A kubelet takes a minute for it; here it is there at once."""
        if self._own.exists():
            self._volumes.update(name, content)

    def warn(self, reason: str, message: str) -> None:
        """Remember a warning, newest first."""
        event = Event("Warning", reason, message)
        if event not in self.warnings[:1]:
            self.warnings = [event, *self.warnings][:_WARNINGS]

    # -- how ---------------------------------------------------------------------------------------

    async def _get_devices(self) -> bool:
        count, devices = self._devices, self._machine.devices
        while not self._is_leaving.is_set():
            taken = devices.take(count)
            if taken is not None:
                self._device_names, self._problem = taken, ""
                return True
            problem = (
                f"0/1 nodes are available: 1 Insufficient {self._resource}: {count} needed,"
                f" {devices.free()} of {devices.number} free."
            )
            if problem != self._problem:
                self._problem = problem
                self.warn("FailedScheduling", problem)
                self._on_change()
            with suppress(TimeoutError):
                async with asyncio.timeout(_DEVICE_SECONDS):
                    await self._is_leaving.wait()
        return False

    def _container(self, manifest: Manifest, is_init: bool) -> Container:
        return Container(
            manifest,
            launch=lambda: self._launch(manifest, is_init),
            client=self._machine.client,
            grace_seconds=self._spec.get("terminationGracePeriodSeconds", 30),
            on_change=self._on_change,
            warn=self.warn,
            is_init=is_init,
        )

    def _launch(self, manifest: Manifest, is_init: bool) -> Launch:
        self._choose_ports()
        mounts = self._volumes.mounts(manifest)
        message = self._own / f"termination-{manifest['name']}"
        devices = ",".join(self._device_names or ())
        own = environment(manifest.get("env") or (), mounts, self.manifest, self._secret_value)
        by_name: dict[str | int, int] = {}
        for port in manifest.get("ports") or ():
            number = port["containerPort"]
            by_name[number] = by_name[port.get("name", number)] = self._port_map[number]
        return Launch(
            words=arguments(manifest, mounts, self._port_map),
            environment={
                **self._machine.environment,
                DEVICES_VARIABLE: devices,
                **self._environment_from(manifest),
                **own,
                ENV_TERMINATION_LOG: str(message),
            },
            folder=self._own,
            log=self._log,
            message=message,
            ports=by_name,
        )

    def _choose_ports(self) -> None:
        """Keep the ports over a restart, unless somebody has taken one meanwhile."""
        is_running = any(c.pid for c in self._main)
        if self._port_map and (is_running or are_free(self._port_map.values())):
            return
        self._machine.ports.give_back(self._port_map.values())
        numbers = [
            port["containerPort"]
            for container in self._spec["containers"]
            for port in container.get("ports") or ()
        ]
        self._port_map = port_map(numbers, self._machine.ports)

    def _environment_from(self, manifest: Manifest) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in manifest.get("envFrom") or ():
            folder = self._places.environment(source)
            for file in sorted(Path(folder).iterdir()) if folder else ():
                if file.is_file():
                    found[source.get("prefix", "") + file.name] = file.read_text().rstrip("\n")
        return found

    def _secret_value(self, ref: Mapping[str, Any]) -> str | None:
        return self._places.secret_value(self.manifest["metadata"]["namespace"], ref)


def _waiting(view: ContainerView) -> ContainerView:
    return msgspec.structs.replace(view, waiting_reason="ContainerCreating")
