"""Several engine processes of one pod: started together, restarted alone, ended together.

Small policies are bound by the CPU loop of one engine, so a pod may run n of them behind n ports.
The supervisor serves the pod's management port, which speaks for all of them (``pod``); as process
1 of a container it also reaps what others leave.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .auth import Access
from .listening import Ports, bind, port_of
from .pod import Pod
from .routes.manage import create_manage_app
from .settings import ServeSettings

__all__ = ["LOOPBACK", "EnginePorts", "engine_ports", "supervise"]

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 10.0
_REAP_SECONDS = 5.0
_START_FAILED = 1


@dataclass(frozen=True, slots=True)
class EnginePorts:
    """The ports of one engine process; ``siblings`` are the data ports of the others."""

    port: int
    manage_port: int
    siblings: tuple[int, ...] = ()


def engine_ports(count: int, host: str, port: int, manage_port: int) -> list[EnginePorts]:
    """Ports of ``count`` engines, counted up from the given ones; 0 lets the system choose.

    ``manage_port`` is the pod's own: the engines' are those behind it, on loopback.
    """
    data = _ports(count, host, port)
    manage = _ports(count, LOOPBACK, manage_port + 1 if manage_port else 0)
    return [
        EnginePorts(d, m, tuple(p for p in data if p != d))
        for d, m in zip(data, manage, strict=True)
    ]


def _ports(count: int, host: str, first: int) -> list[int]:
    if first:
        return list(range(first, first + count))
    # All are held until all are chosen: no port is given out twice.
    with contextlib.ExitStack() as held:
        chosen = []
        for _ in range(count):
            chosen.append(port_of(held.enter_context(bind(host, 0))))
        return chosen


def supervise(
    engines: Sequence[EnginePorts],
    command: Callable[[EnginePorts], Sequence[str]],
    settings: ServeSettings,
    announce: bool = False,
    is_one_by_one: bool = False,
) -> int:
    """Run ``command`` for each engine until a signal or a drain ends them; the exit code.

    A command must serve the ports that it is given and print its JSON line (``announce`` of
    ``ServeSettings``) when it is ready. An engine that dies is started again, alone, with growing
    delays; one that never got ready ends the pod, since the next try would fail like it. The pod's
    management port is that of ``settings``. ``is_one_by_one``: an engine is first started when the
    one before it is ready. Raises OSError when the port is taken.
    """
    return asyncio.run(_Supervisor(engines, command, settings, announce, is_one_by_one).run())


class _Supervisor:
    def __init__(
        self,
        engines: Sequence[EnginePorts],
        command: Callable[[EnginePorts], Sequence[str]],
        settings: ServeSettings,
        announce: bool,
        is_one_by_one: bool,
    ) -> None:
        self._settings = settings
        self._manage_port = settings.manage_port
        self._up: set[EnginePorts] = set()
        self._engines = engines
        self._command = command
        self._announce = announce
        self._children: dict[EnginePorts, asyncio.subprocess.Process] = {}
        self._pids: dict[EnginePorts, int] = {}
        self._leaving = asyncio.Event()
        self._exit_code = 0
        self._turns = [asyncio.Event() for _ in engines]
        for turn in self._turns[: 1 if is_one_by_one else None]:
            turn.set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        loop.add_signal_handler(signal.SIGHUP, self._forward, signal.SIGHUP)
        settings = self._settings
        manage_socket = bind(settings.manage_host or settings.host, settings.manage_port)
        self._manage_port = port_of(manage_socket)
        pod = Pod(
            [engine.manage_port for engine in self._engines],
            settings,
            is_up=lambda number: self._engines[number] in self._up,
            drain=self._drain,
        )
        ports = Ports(settings)
        app = create_manage_app(pod, Access.of_file(settings.token_file))
        await ports.listen(app, manage_socket)
        try:
            return await self._run()
        finally:
            await ports.close()
            await pod.close()

    async def _run(self) -> int:
        reaper = asyncio.create_task(self._reap()) if os.getpid() == 1 else None
        await asyncio.gather(*(self._keep(engine) for engine in self._engines))
        if reaper is not None:
            reaper.cancel()
        return self._exit_code

    def _drain(self, reason: str) -> None:
        log.info("draining: %s", reason)
        self._leave()

    def _leave(self) -> None:
        self._leaving.set()
        for turn in self._turns:
            turn.set()
        self._forward(signal.SIGTERM)

    def _forward(self, number: int) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    async def _keep(self, engine: EnginePorts) -> None:
        delay = _FIRST_DELAY_SECONDS
        await self._turns[self._engines.index(engine)].wait()
        while not self._leaving.is_set():
            child = await asyncio.create_subprocess_exec(
                *self._command(engine), stdout=asyncio.subprocess.PIPE
            )
            self._children[engine] = child
            if self._leaving.is_set():
                child.terminate()
            assert child.stdout is not None
            was_ready = bool(await child.stdout.readline())
            if was_ready:
                self._ready(engine, child.pid)
                delay = _FIRST_DELAY_SECONDS
            # Whatever else it prints is not ours; a full pipe would stop it.
            while await child.stdout.read(1 << 16):
                pass
            code = await child.wait()
            del self._children[engine]
            self._up.discard(engine)
            if self._leaving.is_set():
                # One that was told to end before it could listen to that has not failed.
                if code != -signal.SIGTERM:
                    self._exit_code = max(self._exit_code, abs(code))
                return
            if engine not in self._pids:
                self._exit_code = _START_FAILED
                self._leave()
                return
            log.error("engine on port %d ended with code %d; starting it again", engine.port, code)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), delay)
            delay = min(2 * delay, _LONGEST_DELAY_SECONDS)

    def _ready(self, engine: EnginePorts, pid: int) -> None:
        self._up.add(engine)
        for turn in self._turns[self._engines.index(engine) + 1 :][:1]:
            turn.set()
        is_first = engine not in self._pids
        self._pids[engine] = pid
        if is_first and self._announce and len(self._pids) == len(self._engines):
            lines = [
                {"port": e.port, "manage_port": e.manage_port, "pid": self._pids[e]}
                for e in self._engines
            ]
            line = {"port": lines[0]["port"], "manage_port": self._manage_port}
            print(json.dumps({**line, "pid": os.getpid(), "engines": lines}), flush=True)

    async def _reap(self) -> None:
        """Collect orphans of this container that are no engines of ours."""
        while True:
            await asyncio.sleep(_REAP_SECONDS)
            _reap_one({child.pid for child in self._children.values()})


def _reap_one(ours: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        # A look that takes nothing: asyncio waits for our own children.
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None and ended.si_pid not in ours:
            os.waitpid(ended.si_pid, os.WNOHANG)
