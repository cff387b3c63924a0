"""``sampler serve --engine sim`` processes for benchmarks, and a relay that counts their bytes."""

import asyncio
import json
import subprocess
import sys
import threading
from types import TracebackType
from typing import Self

__all__ = ["ByteCounter", "SimFleet"]


class SimFleet:
    """``number`` server processes behind free ports; ``options`` are words of the command line."""

    def __init__(self, number: int, *options: str) -> None:
        command = [sys.executable, "-m", "sampler_cli.main", "serve", "--engine", "sim"]
        command += ["--port", "0", "--manage-port", "0", "--listen-seconds", "0"]
        command += ["--log-level", "warning", *options]
        self._processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)
        ]
        self.ports: list[int] = []

    def __enter__(self) -> Self:
        for process in self._processes:
            assert process.stdout is not None
            self.ports.append(json.loads(process.stdout.readline())["port"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.communicate()

    @property
    def endpoints(self) -> str:
        """What RemoteSampler takes."""
        return ",".join(f"http://127.0.0.1:{port}" for port in self.ports)

    def cpu_seconds(self) -> float:
        """User and system time of all server processes so far; 0 where there is no /proc."""
        total = 0.0
        for process in self._processes:
            try:
                with open(f"/proc/{process.pid}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                return 0.0
            total += (int(fields[11]) + int(fields[12])) / 100
        return total


class ByteCounter:
    """A TCP relay in a thread of its own; ``received`` counts every byte server -> client."""

    def __init__(self, port: int) -> None:
        self.received = 0
        self.port = 0
        self._target = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        # A connection that was accepted last has a task that has not begun.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(
                self._pipe(reader, up_writer, False), self._pipe(up_reader, writer, True)
            )
        except asyncio.CancelledError:
            # Its only end; asyncio's server would report it as a failure.
            pass
        finally:
            writer.close()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_counted: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                if is_counted:
                    self.received += len(data)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
