"""In which order the engines of a pod are started."""

import sys
from pathlib import Path

from sampler_server.settings import ServeSettings
from sampler_server.supervisor import EnginePorts, engine_ports, supervise

ENGINE = """
import os, pathlib, signal, sys
log, number, last = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def tell(word):
    with log.open("a") as file:
        file.write(f"{word} {number}\\n")
tell("starts")
if number == "fails":
    sys.exit("no GPU")
tell("is up")
print("{}", flush=True)
if number == last:
    os.kill(os.getppid(), signal.SIGTERM)
signal.pause()
"""


def run(log: Path, names: list[str], *, is_one_by_one: bool) -> tuple[int, list[str]]:
    """Exit code, and what the engines tell; the pod ends when the last one is up."""
    engines = engine_ports(len(names), "127.0.0.1", 0, 0)

    def command(ports: EnginePorts) -> list[str]:
        name = names[engines.index(ports)]
        return [sys.executable, "-c", ENGINE, str(log), name, names[-1]]

    settings = ServeSettings(host="127.0.0.1", port=0, manage_port=0)
    code = supervise(engines, command, settings, is_one_by_one=is_one_by_one)
    return code, log.read_text().splitlines()


def test_one_by_one_each_engine_waits_for_the_one_before(tmp_path: Path) -> None:
    code, told = run(tmp_path / "log", ["0", "1", "2"], is_one_by_one=True)
    assert code == 0
    assert told == [f"{word} {n}" for n in (0, 1, 2) for word in ("starts", "is up")]


def test_engines_that_wait_do_not_start_when_the_first_one_fails(tmp_path: Path) -> None:
    code, told = run(tmp_path / "log", ["fails", "1"], is_one_by_one=True)
    assert (code, told) == (1, ["starts fails"])
