"""The process that ``tests.forked`` forks programs from: it makes their imports, once.

``python -m tests.forking DESCRIPTOR MODULE…`` imports the modules and then does what comes over
that socket. A request is JSON, with four open files: stdin, stdout, stderr, and a pipe that is told
how the program ends. A child is made, which answers with its process id and becomes the program.
The end of the socket is the end of this process and of all that it has forked.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_REQUEST_BYTES: Final = 1 << 17
_FILES: Final = 4
_PR_SET_PDEATHSIG: Final = 1


def _serve(control: socket.socket) -> dict[str, Any]:
    """Returns in children only: what each is to be."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                poll.unregister(ready)
                _tell_end(ready, *running.pop(ready))
                continue
            message, files, _, _ = socket.recv_fds(control, _REQUEST_BYTES, _FILES)
            if not message:
                # Whoever wanted programs has ended.
                os._exit(0)
            assert len(os.listdir("/proc/self/task")) == 1, "an import's thread would be missing"
            *standard, end = files
            pid = os.fork()
            if pid == 0:
                for number, file in enumerate(standard):
                    os.dup2(file, number)
                for file in (*files, *running, *(other for _, other in running.values())):
                    os.close(file)
                os.setsid()
                control.send(str(os.getpid()).encode())
                control.close()
                found: dict[str, Any] = json.loads(message)
                return found
            for file in standard:
                os.close(file)
            watched = os.pidfd_open(pid)
            running[watched] = pid, end
            poll.register(watched, select.POLLIN)


def _tell_end(watched: int, pid: int, end: int) -> None:
    _, status = os.waitpid(pid, 0)
    # Who started it may have gone.
    with suppress(BrokenPipeError):
        os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
    os.close(end)
    os.close(watched)


def _become(wanted: dict[str, Any]) -> None:
    """What ``python`` does with ``-m MODULE …`` or ``SCRIPT …``."""
    # Nothing stays of a test run that was killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    first, *words = wanted["words"]
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(first).parent)
        sys.argv = [first, *words]
        runpy.run_path(first, run_name="__main__")


def _main(descriptor: str, *modules: str) -> None:
    control = socket.socket(fileno=int(descriptor))
    for module in modules:
        importlib.import_module(module)
    # The collector would write to what was made so far, and so copy memory that is shared.
    gc.collect()
    gc.freeze()
    _become(_serve(control))


if __name__ == "__main__":
    _main(*sys.argv[1:])
