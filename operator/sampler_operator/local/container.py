"""A container of a pod as a process: started, probed, ended, and started again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from ..errors import OperatorError
from ..observed import ContainerView
from .probes import Probe, Tally, ask
from .process import Process

__all__ = ["Container", "Launch"]

FIRST_DELAY_SECONDS: Final = 1.0
LAST_DELAY_SECONDS: Final = 10.0
_STARTUP_PERIOD_SECONDS: Final = 0.5
_NOT_STARTED: Final = "CreateContainerConfigError"
_MESSAGE_BYTES: Final = 2048
_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started: command line, environment, folders, and ports by name and number."""

    words: list[str]
    environment: dict[str, str]
    folder: Path
    log: Path
    message: Path
    ports: Mapping[str | int, int]


class Container:
    """One container. ``launch`` says anew before each start what is to be started; ``on_change`` is
    called whenever ``view()`` has changed, ``warn`` gets reason and message of what went wrong."""

    def __init__(
        self,
        manifest: Mapping[str, Any],
        launch: Callable[[], Launch],
        client: httpx.AsyncClient,
        grace_seconds: float,
        on_change: Callable[[], None],
        warn: Callable[[str, str], None],
        is_init: bool = False,
    ) -> None:
        self.name = str(manifest["name"])
        self._manifest = manifest
        self._launch = launch
        self._client = client
        self._grace_seconds = grace_seconds
        self._on_change = on_change
        self._warn = warn
        self._leaving = asyncio.Event()
        self._process: Process | None = None
        self._starts = 0
        self._was_ready = False
        self._view = ContainerView(self.name, is_init, False, False, 0)

    @property
    def view(self) -> ContainerView:
        """Its state as a pod's status has it."""
        return self._view

    @property
    def pid(self) -> int:
        """Its process; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def leave(self) -> None:
        """End it, and start it no more."""
        self._leaving.set()

    def kill(self) -> None:
        """End it at once."""
        self._leaving.set()
        if self._process is not None:
            self._process.kill()

    async def run_until_success(self) -> bool:
        """Run it, again with growing delays as long as it fails; False when it was told to
        leave."""
        delay = FIRST_DELAY_SECONDS
        while True:
            if await self._run() == 0 and not self._leaving.is_set():
                return True
            delay = await self._pause(delay)
            if self._leaving.is_set():
                return False

    async def run(self) -> None:
        """Run it, again with growing delays whenever it ends, until it is told to leave."""
        delay = FIRST_DELAY_SECONDS
        while not self._leaving.is_set():
            await self._run()
            if self._was_ready:
                delay = FIRST_DELAY_SECONDS
            delay = await self._pause(delay)

    async def _pause(self, delay: float) -> float:
        if self._leaving.is_set():
            return delay
        if self._view.waiting_reason != _NOT_STARTED:
            text = f"back-off {delay:g}s restarting container {self.name}"
            self._warn("BackOff", f"{text}: {self._view.ended_message or self._view.ended_reason}")
            self._change(waiting_reason="CrashLoopBackOff", waiting_message=text)
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._leaving.wait()
        if not self._leaving.is_set():
            self._change(restarts=self._view.restarts + 1)
        return min(2 * delay, LAST_DELAY_SECONDS)

    async def _run(self) -> int:
        self._was_ready = False
        try:
            launch = self._launch()
            launch.message.unlink(missing_ok=True)
            log_start = launch.log.stat().st_size if launch.log.exists() else 0
            process = await Process.start(
                launch.words, launch.environment, launch.folder, launch.log
            )
        except (OperatorError, OSError) as error:
            self._change(waiting_reason=_NOT_STARTED, waiting_message=str(error))
            self._warn("Failed", str(error))
            return 1
        self._starts += 1
        begin = asyncio.get_running_loop().time()
        self._process = process
        self._change(
            is_running=True,
            is_started=False,
            container_id=f"process://{process.pid}.{self._starts}",
            waiting_reason="",
            waiting_message="",
        )
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(self._end_when_leaving(process)),
                tasks.create_task(self._probe(process, launch.ports)),
            ]
            code = await process.wait()
            for task in beside:
                task.cancel()
        self._process = None
        self._change(
            is_running=False,
            is_started=False,
            is_ready=False,
            ended_code=code,
            ran_seconds=asyncio.get_running_loop().time() - begin,
            ended_reason="Error" if code else "Completed",
            ended_message=self._last_words(launch, log_start, code),
        )
        return code

    async def _end_when_leaving(self, process: Process) -> None:
        await self._leaving.wait()
        await process.end(self._grace_seconds)

    def _last_words(self, launch: Launch, log_start: int, code: int) -> str:
        """The termination message; of a failure without one, the end of what it printed."""
        with suppress(OSError):
            message = launch.message.read_text(errors="replace")[:_MESSAGE_BYTES].strip()
            if message:
                return message
        if code == 0:
            return ""
        with suppress(OSError), launch.log.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(log_start, end - _MESSAGE_BYTES))
            return log.read().decode(errors="replace").strip()
        return ""

    # -- probes ------------------------------------------------------------------------------------

    async def _probe(self, process: Process, ports: Mapping[str | int, int]) -> None:
        startup, readiness, liveness = (
            Probe.of(self._manifest.get(name), ports) for name in _PROBES
        )
        if startup is not None and not await self._has_started(startup):
            text = f"Startup probe failed for {startup.patience:g} s"
            self._warn("Unhealthy", text)
            await process.end(self._grace_seconds)
            return
        self._change(is_started=True)
        async with asyncio.TaskGroup() as tasks:
            if readiness is None:
                self._set_ready(True)
            else:
                tasks.create_task(self._follow_readiness(readiness))
            if liveness is not None:
                tasks.create_task(self._watch_liveness(liveness, process))

    async def _follow_readiness(self, probe: Probe) -> None:
        async for verdict in self._verdicts(probe, "Readiness"):
            self._set_ready(verdict)

    async def _watch_liveness(self, probe: Probe, process: Process) -> None:
        async for verdict in self._verdicts(probe, "Liveness"):
            if not verdict:
                await process.end(self._grace_seconds)

    async def _has_started(self, probe: Probe) -> bool:
        # More often than the manifest says, within the same time: here a person waits.
        period = min(probe.period, _STARTUP_PERIOD_SECONDS)
        await asyncio.sleep(probe.delay)
        with suppress(TimeoutError):
            async with asyncio.timeout(probe.patience - probe.delay):
                while True:
                    if not await ask(self._client, probe):
                        return True
                    await asyncio.sleep(period)
        return False

    async def _verdicts(self, probe: Probe, name: str) -> AsyncIterator[bool]:
        """What the probe says, once it has made up its mind, each time that it was asked."""
        tally = Tally(probe)
        await asyncio.sleep(probe.delay)
        while True:
            reason = await ask(self._client, probe)
            before = tally.verdict
            verdict = tally.took(not reason)
            if reason and verdict is not before and not self._leaving.is_set():
                self._warn("Unhealthy", f"{name} probe failed: {reason}")
            if verdict is not None:
                yield verdict
            await asyncio.sleep(probe.period)

    def _set_ready(self, is_ready: bool) -> None:
        if is_ready:
            self._was_ready = True
        if is_ready != self._view.is_ready:
            self._change(is_ready=is_ready)

    def _change(self, **changes: Any) -> None:
        self._view = msgspec.structs.replace(self._view, **changes)
        self._on_change()
