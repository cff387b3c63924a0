"""The process of a fleet on this machine: the operator's passes over a cluster that is here."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import httpx
import msgspec
from prometheus_client import CollectorRegistry

from sampler_api.fleet import LocalFleet
from sampler_core.digest_cache import cache_directory

from ..errors import InvalidSpec
from ..metrics import OperatorMetrics
from ..names import Key
from ..plan import BuildSettings
from ..reconciler import Reconciler
from ..replica_http import HttpReplicas
from ..reporter import Reporter
from ..workqueue import WorkQueue
from .cluster import LocalCluster
from .command import HOST
from .devices import Devices, found_devices
from .folders import Folder
from .news import news
from .places import Places
from .pod import Machine, Pod
from .ports import Ports
from .prepared import LOCAL_IMAGE, prepared
from .state import FleetState, PodLine, digest_of

__all__ = ["Runtime"]

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.2
_ENGINES: Final = ("vllm", "torch", "sim")


class Runtime:
    """Keeps the fleet of a folder as its spec file says, until it is told to end. ``tell`` gets a
    line for people about everything that happens."""

    def __init__(self, folder: Folder, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._tell = tell
        self._request = ""
        self._error = ""
        self._published = b""
        self._stated: FleetState | None = None
        self._is_leaving = asyncio.Event()
        self._signals = 0

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; a second one ends the pods at once. Raises Refused when the
        fleet runs already, InvalidSpec for the first spec."""
        with self._folder.lock():
            self._folder.make()
            async with contextlib.AsyncExitStack() as stack:
                self._assemble(stack)
                await self._serve()

    def _assemble(self, stack: contextlib.AsyncExitStack) -> None:
        devices = Devices(found_devices(os.environ), self._folder.devices)
        # Each probe connects anew, as the kubelet's do: what is left of a former process is no
        # answer.
        limits = httpx.Limits(max_keepalive_connections=0)
        client = httpx.AsyncClient(trust_env=False, limits=limits)
        stack.push_async_callback(client.aclose)
        replicas = HttpReplicas()
        stack.push_async_callback(replicas.close)
        machine = Machine(self._folder, devices, Ports(), client, dict(os.environ), _kept_volumes())
        self._devices = devices
        self._queue = WorkQueue(self._pass, workers=1)
        self._cluster = LocalCluster(machine, self._changed)
        reporter = Reporter(replicas, self._queue.add)
        stack.push_async_callback(reporter.close)
        self._reconciler = Reconciler(
            view=self._cluster,
            cluster=self._cluster,
            reporter=reporter,
            settings=BuildSettings(images=dict.fromkeys(_ENGINES, LOCAL_IMAGE)),
            now=lambda: datetime.now(UTC),
            metrics=OperatorMetrics(CollectorRegistry()),
        )

    async def _serve(self) -> None:
        self._take()
        if self._error:
            raise InvalidSpec(self._error)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        work = [asyncio.create_task(self._queue.run()), asyncio.create_task(self._watch())]
        leaving = asyncio.create_task(self._is_leaving.wait())
        try:
            await asyncio.wait([*work, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*work, leaving):
                task.cancel()
            ended = await asyncio.gather(*work, return_exceptions=True)
            self._is_leaving.set()
            self._publish()
            await self._cluster.close()
            self._publish()
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def _told_to_end(self) -> None:
        self._signals += 1
        self._is_leaving.set()
        if self._signals == 1:
            self._tell("ending: replicas hand over what they have; once more ends them at once")
        else:
            self._cluster.deployment.kill()

    # -- what is asked for -------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            with contextlib.suppress(FileNotFoundError):
                self._take()

    def _take(self) -> None:
        """Take in the spec file if it is another one."""
        spec = self._folder.spec.read_bytes()
        places_file = self._folder.places
        places_text = places_file.read_bytes() if places_file.exists() else b"{}"
        request = digest_of(spec, places_text)
        if request == self._request:
            return
        self._request = request
        try:
            places = msgspec.json.decode(places_text, type=Places)
            found = prepared(spec.decode(), places, self._devices.number)
            if found.name != self._folder.name:
                raise InvalidSpec(
                    f"metadata.name: must stay {self._folder.name}, not {found.name}",
                    "metadata.name",
                )
        except (InvalidSpec, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._error = str(error)
        else:
            self._error = ""
            self._cluster.submit(found.manifest, self._folder.uid(), places)
        self._publish()

    # -- what becomes of it ------------------------------------------------------------------------

    async def _pass(self, key: Key) -> float | None:
        again = await self._reconciler.reconcile(key)
        self._publish()
        return again

    def _changed(self, key: Key) -> None:
        if not self._is_leaving.is_set():
            self._queue.add(key)
        self._publish()

    def _publish(self) -> None:
        """Write what clients and people read, if it has changed."""
        sd = self._cluster.sd
        if sd is None:
            return
        pods = self._cluster.pods
        ready = (pod for pod in pods if pod.view.is_ready and not pod.view.is_leaving)
        replicas = () if self._is_leaving.is_set() else tuple(sorted(p.replica for p in ready))
        fleet = LocalFleet(self._folder.name, sd["metadata"]["uid"], os.getpid(), replicas)
        content = msgspec.json.format(msgspec.json.encode(fleet))
        if content != self._published:
            self._published = content
            self._folder.write(self._folder.fleet, content)
        state = FleetState(
            name=self._folder.name,
            pid=os.getpid(),
            request=self._request,
            sd=sd,
            pods=tuple(map(_line, pods)),
            error=self._error,
            is_leaving=self._is_leaving.is_set(),
        )
        if state != self._stated:
            for line in news(self._stated, state):
                self._tell(line)
            self._stated = state
            self._folder.write(self._folder.status, msgspec.json.encode(state))


def _kept_volumes() -> dict[str, Path]:
    """What would cost minutes to make anew for each pod, and is made to be shared: downloads, and
    what engines compile."""
    return {"model-cache": cache_directory("models"), "cache": cache_directory("engines")}


def _line(pod: Pod) -> PodLine:
    view = pod.view
    server = view.containers[-1]
    state = view.phase
    if view.is_leaving:
        state = "Leaving"
    elif any(container.waiting_reason for container in view.containers):
        state = next(c.waiting_reason for c in view.containers if c.waiting_reason)
    scheduled = view.conditions["PodScheduled"]
    message = scheduled.message
    if not message and not view.is_ready:
        message = server.ended_message.splitlines()[-1] if server.ended_message else ""
    return PodLine(
        name=view.name,
        state=state,
        ready=view.is_ready,
        restarts=sum(container.restarts for container in view.containers),
        pid=pod.pid,
        urls=pod.replica.urls if view.is_ready else (),
        status_url=f"http://{HOST}:{view.manage_port}/status" if view.manage_port else "",
        log=str(pod.log),
        message=message,
    )
